"""Drift between two sets of latents: python -m service drift."""
