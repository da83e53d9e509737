"""Novelty scores: how unlike its training data an image is."""
