"""Bytes to arrays and back: one module for each format, all pure functions.

Decoders answer with one array of rows, (N, H, W, C) images or (N, latent_size) latents, of dtype
uint8 or float32, or raise an `InputError`. They check sizes before they allocate. The values
themselves are checked by the engine, chunk by chunk.
"""
