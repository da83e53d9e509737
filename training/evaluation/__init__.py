"""Measuring runs: metrics, held-out images, comparisons, figures."""
