"""Tiny real bundles, written in milliseconds: no TensorFlow, no training, no `onnx` package.

Each network is one matrix in either direction, so that `TinyNetwork` computes the expected output
in numpy; latents have 4 numbers, so that no code can rely on the usual 16. The bundles and graphs
of `tests/data` are written by `python -m tests.support.make_data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Array, Floats
from service.bundle import GOLDEN, NOVELTY, PARITY, write_manifest
from tests.support.paths import DATA

LATENT_SIZE = 4
GREY = (8, 8, 1)
COLOUR = (12, 8, 3)
NOVELTY_FACTS = {"threshold": 0.99, "share_above": 0.0125, "validation": 80}

BUNDLES = DATA / "bundles"
SEEDS = {GREY: 1, COLOUR: 2}  # of the committed bundles' weights
NAMES = {GREY: "grey", COLOUR: "colour"}


@dataclass(frozen=True)
class TinyNetwork:
    """Flatten → matrix → latents → matrix → sigmoid → images, with random weights.

    down float32 (H·W·C, 4), up float32 (4, H·W·C); images float32 (N, H, W, C) in [0, 1].
    """

    image_shape: tuple[int, int, int]
    down: Floats
    up: Floats

    @classmethod
    def random(cls, image_shape: tuple[int, int, int], seed: int = 0) -> TinyNetwork:
        """Uniform weights, which are the same bits on every machine; normal ones are not."""
        rng = np.random.default_rng(seed)
        pixels = int(np.prod(image_shape))
        down = 2 * rng.random((pixels, LATENT_SIZE), dtype=np.float32) - 1
        up = 2 * rng.random((LATENT_SIZE, pixels), dtype=np.float32) - 1
        spread = np.float32(np.sqrt(3))  # of a uniform distribution with a variance of 1
        return cls(image_shape, down * (spread / np.float32(np.sqrt(pixels))), up * spread)

    @classmethod
    def committed(cls, image_shape: tuple[int, int, int]) -> TinyNetwork:
        """The network of the bundle in `tests/data`; `image_shape` is GREY or COLOUR."""
        return cls.random(image_shape, SEEDS[image_shape])

    def encode(self, images: Floats) -> Floats:
        flat = images.reshape(len(images), len(self.down))
        return (flat.astype(np.float64) @ self.down).astype(np.float32)

    def decode(self, latents: Floats) -> Floats:
        flat = 1 / (1 + np.exp(-(latents.astype(np.float64) @ self.up)))
        return flat.astype(np.float32).reshape(-1, *self.image_shape)

    def denoise(self, images: Floats) -> Floats:
        return self.decode(self.encode(images))

    def score(self, images: Floats) -> Floats:
        """The novelty score: float32 images → float32 (N,) in [0, 1]."""
        latents = self.encode(images)
        distances = np.square(images - self.decode(latents)).mean(axis=(1, 2, 3))
        scores: Floats = (1 / (1 + np.exp(-(distances + latents.mean(axis=1))))).astype(np.float32)
        return scores

    def novelty(self) -> bytes:
        """The ONNX file that computes `score`; only for grey images."""
        return (BUNDLES / "scored" / NOVELTY).read_bytes()

    def onnx(self, name: str) -> bytes:
        """The ONNX file of the encoder, decoder or autoencoder.

        It is the committed file with other weights in the place of its own.
        """
        data = (BUNDLES / NAMES[self.image_shape] / f"{name}.onnx").read_bytes()
        committed = self.committed(self.image_shape)
        used = {"encoder": ["down"], "decoder": ["up"]}.get(name, ["down", "up"])
        for matrix in used:
            stored, wanted = (getattr(each, matrix).tobytes() for each in (committed, self))
            assert data.count(stored) == 1, "remake tests/data: python -m tests.support.make_data"
            data = data.replace(stored, wanted)
        return data


def seal(folder: Path, **changes: Any) -> None:
    """Write the manifest of a tiny bundle over the files that are in `folder` now."""
    facts: dict[str, Any] = {
        "name": folder.name,
        "image_shape": GREY,
        "latent_size": LATENT_SIZE,
        "training": {"settings": {"dataset": "digits", "task": "denoise", "epochs": 3, "seed": 0}},
        "quality": {
            "test": {
                "n": 1234,
                "input": {"mse": 0.15, "psnr": 8.25, "ssim": 0.25},
                "output": {"mse": 0.0125, "psnr": 19.5, "ssim": 0.8},
            }
        },
        "parity": {"comparisons": 80, "largest_difference": {"encoder": 2e-7, "decoder": 5e-7}},
        "tools": {"denoiser": "0.1.0", "numpy": "2.4.0"},
        "created": "2026-01-02T03:04:05+00:00",
    }
    write_manifest(folder, **{**facts, **changes})


def write_bundle(folder: Path, network: TinyNetwork, **changes: Any) -> Path:
    """Write a whole bundle of `network` to the new folder `folder`, golden answers from numpy."""
    folder.mkdir(parents=True)
    for name in ("encoder", "decoder", "autoencoder"):
        (folder / f"{name}.onnx").write_bytes(network.onnx(name))
    images = np.random.default_rng(7).random((5, *network.image_shape), dtype=np.float32)
    latents = network.encode(images)
    np.savez(
        folder / GOLDEN,
        images=images,
        latents=latents,
        decoded=network.decode(latents),
        denoised=network.denoise(images),
    )
    (folder / PARITY).write_text("{}\n")
    seal(folder, **{"image_shape": network.image_shape, **changes})
    return folder


def some_images(size: int, dtype: str = "float32") -> Array:
    """(size, 8, 8, 1), float32 in [0, 1] or uint8; the same at each call."""
    rng = np.random.default_rng(size)
    if dtype == "uint8":
        return rng.integers(0, 256, (size, *GREY), dtype=np.uint8)
    return rng.random((size, *GREY), dtype=np.float32)
