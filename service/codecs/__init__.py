"""Bytes to arrays and back: one module per format, all pure functions.

Decoders return one array of rows, (N, H, W, C) images or (N, latent_size) latents, of dtype uint8
or float32, or raise an `InputError`. They check sizes before they allocate. The engine checks the
values, chunk by chunk.
"""
