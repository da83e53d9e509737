"""Latents in other systems: short scripts to copy from, each run by a test.

Run them from the checkout, as `python -m examples.lancedb_search --help`.
"""
