"""Tiny real bundles, written in milliseconds: no TensorFlow, no training, no network.

Each network is one matrix in either direction, so that `TinyNetwork` can say in numpy what the
right answer is; latents have 4 numbers, so that nothing can lean on the usual 16.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle import GOLDEN, PARITY, write_manifest
from service.engine import Engine

LATENT_SIZE = 4
GREY = (8, 8, 1)
COLOUR = (12, 8, 3)

hypothesis.settings.register_profile("tests", deadline=None, max_examples=40)
hypothesis.settings.load_profile("tests")


@dataclass(frozen=True)
class TinyNetwork:
    """Flatten → matrix → latents → matrix → sigmoid → images, with random weights.

    down float32 (H·W·C, 4), up float32 (4, H·W·C); images float32 (N, H, W, C) in [0, 1].
    """

    image_shape: tuple[int, int, int]
    down: np.ndarray
    up: np.ndarray

    @classmethod
    def random(cls, image_shape: tuple[int, int, int], seed: int = 0) -> TinyNetwork:
        rng = np.random.default_rng(seed)
        pixels = int(np.prod(image_shape))
        return cls(
            image_shape,
            rng.normal(0, 1 / np.sqrt(pixels), (pixels, LATENT_SIZE)).astype(np.float32),
            rng.normal(0, 1, (LATENT_SIZE, pixels)).astype(np.float32),
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), len(self.down))
        return (flat.astype(np.float64) @ self.down).astype(np.float32)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        flat = 1 / (1 + np.exp(-(latents.astype(np.float64) @ self.up)))
        return flat.astype(np.float32).reshape(-1, *self.image_shape)

    def denoise(self, images: np.ndarray) -> np.ndarray:
        return self.decode(self.encode(images))

    def onnx(self, name: str) -> bytes:
        """The encoder, decoder or autoencoder as the bytes of an ONNX file."""
        ends = {"encoder": "latents", "decoder": "images", "autoencoder": "denoised"}
        first, last = ("latents" if name == "decoder" else "images"), ends[name]
        constants = {"pixels": np.array([-1, len(self.down)]), "down": self.down, "up": self.up}
        constants["shape"] = np.array([-1, *self.image_shape])
        code = "latents" if name == "encoder" else "code"
        down = [("Reshape", [first, "pixels"], "flat"), ("MatMul", ["flat", "down"], code)]
        up = [
            ("MatMul", [first if name == "decoder" else code, "up"], "sums"),
            ("Sigmoid", ["sums"], "spread"),
            ("Reshape", ["spread", "shape"], last),
        ]
        steps = {"encoder": down, "decoder": up, "autoencoder": down + up}[name]
        used = {tensor for _, tensors, _ in steps for tensor in tensors}
        rows = {"images": self.image_shape, "denoised": self.image_shape, "latents": (LATENT_SIZE,)}
        graph = helper.make_graph(
            [helper.make_node(op, tensors, [made]) for op, tensors, made in steps],
            "tiny",
            *(
                [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", *rows[end]])]
                for end in (first, last)
            ),
            [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


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
    """A whole bundle of `network` in the new folder `folder`, golden answers from numpy."""
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


@pytest.fixture(scope="session")
def network() -> TinyNetwork:
    return TinyNetwork.random(GREY, seed=1)


@pytest.fixture(scope="session")
def colour_network() -> TinyNetwork:
    return TinyNetwork.random(COLOUR, seed=2)


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Path:
    """A grey 8×8 bundle; only to be read."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "grey", network)


@pytest.fixture(scope="session")
def colour_bundle_path(
    tmp_path_factory: pytest.TempPathFactory, colour_network: TinyNetwork
) -> Path:
    """A colour 12×8×3 bundle; only to be read."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "colour", colour_network)


@pytest.fixture
def bundle_copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A grey bundle of one's own, to damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "grey"))


@pytest.fixture(scope="session")
def seal_bundle() -> Callable[..., None]:
    """`seal`: make the manifest true again after a file has been changed."""
    return seal


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """`write_bundle`: a bundle of random weights at `folder`, from `image_shape` and `seed`."""

    def make(
        folder: Path,
        *,
        image_shape: tuple[int, int, int] = GREY,
        seed: int = 0,
        **changes: Any,
    ) -> Path:
        return write_bundle(folder, TinyNetwork.random(image_shape, seed), **changes)

    return make


@pytest.fixture(scope="session")
def engine(bundle_path: Path) -> Iterator[Engine]:
    yield Engine.load(bundle_path, threads=2)


@pytest.fixture(scope="session")
def colour_engine(colour_bundle_path: Path) -> Iterator[Engine]:
    yield Engine.load(colour_bundle_path, threads=2)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8×8 images, made by training itself; only to be read."""
    from training.backend import load_tensorflow

    load_tensorflow()
    from training.fit import fit
    from training.settings import FitSettings

    folder = tmp_path_factory.mktemp("tiny")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(folder / "noise.npz", images=images)
    settings = FitSettings.resolve(
        dataset=str(folder / "noise.npz"), filters=(3, 5), latent_size=6, batch_size=16, epochs=1
    )
    fit(settings, folder / "run", verbose=0, say=lambda _: None)
    return folder / "run"
