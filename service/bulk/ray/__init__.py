"""Bulk jobs on a Ray cluster."""
