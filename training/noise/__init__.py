"""Noise that corrupts clean images."""
