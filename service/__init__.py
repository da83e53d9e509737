"""Serve a denoising autoencoder: the bundle, the engine, HTTP, bulk jobs.

Nothing in this package imports TensorFlow, Keras, `training` or `export`; a test proves it.
"""

from __future__ import annotations

__version__ = "0.1.0"
