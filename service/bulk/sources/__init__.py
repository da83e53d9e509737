"""Inputs of bulk jobs: arrays, tables, image files, archives, object stores."""
