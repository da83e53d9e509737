"""Tiny real bundles, written in milliseconds: no TensorFlow, no training, no network.

Each network is one matrix in either direction, so that `TinyNetwork` can say in numpy what the
right answer is; latents have 4 numbers, so that nothing can lean on the usual 16.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import onnx
import prometheus_client
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle import GOLDEN, NOVELTY, PARITY, write_manifest
from service.engine import Engine
from service.http.formats import JSON
from service.http.gateway import Gateway
from service.http.metrics import Metrics
from service.settings import Settings

LATENT_SIZE = 4
GREY = (8, 8, 1)
COLOUR = (12, 8, 3)
NOVELTY_FACTS = {"threshold": 0.99, "share_above": 0.0125, "validation": 80}

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

    def score(self, images: np.ndarray) -> np.ndarray:
        """A score that is easily said in numpy: float32 images → float32 (N,) in [0, 1]."""
        latents = self.encode(images)
        apart = np.square(images - self.decode(latents)).mean(axis=(1, 2, 3))
        return (1 / (1 + np.exp(-(apart + latents.mean(axis=1))))).astype(np.float32)

    def novelty(self) -> bytes:
        """What computes `score`, as the bytes of an ONNX file."""
        rows = {"images": self.image_shape, "latents": (LATENT_SIZE,), "denoised": self.image_shape}
        steps = [
            ("Sub", ["images", "denoised"], "apart", {}),
            ("Mul", ["apart", "apart"], "squares", {}),
            ("ReduceMean", ["squares", "pixels"], "distance", {"keepdims": 0}),
            ("ReduceMean", ["latents", "row"], "level", {"keepdims": 0}),
            ("Add", ["distance", "level"], "sum", {}),
            ("Sigmoid", ["sum"], "scores", {}),
        ]
        graph = helper.make_graph(
            [helper.make_node(op, tensors, [made], **more) for op, tensors, made, more in steps],
            "novelty",
            [
                helper.make_tensor_value_info(k, TensorProto.FLOAT, ["N", *r])
                for k, r in rows.items()
            ],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N"])],
            [
                numpy_helper.from_array(np.array(axes), name)
                for name, axes in (("pixels", [1, 2, 3]), ("row", [1]))
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())

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


class Inner:
    """The app behind a gateway: notes what it was asked, answers with `status` and a secret."""

    def __init__(self, status: int = 200, *, fails: bool = False, begins: bool = False) -> None:
        self.asked: list[tuple[str, Any]] = []
        self._status = status
        self._fails = fails
        self._begins = begins or not fails

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((scope["type"], scope.get("path")))
        if scope["type"] != "http":
            return
        if self._begins:
            headers = [(b"content-type", b"text/plain")]
            start = {"type": "http.response.start", "status": self._status, "headers": headers}
            await send(start)
        if self._fails:
            raise RuntimeError("secret /path/of/the/machine")
        await send({"type": "http.response.body", "body": b"inner: /path/of/the/machine"})


@dataclass
class Reply:
    """What a gateway sent: `received` request messages were taken, `before` of them first."""

    status: int
    headers: dict[str, str]
    body: bytes
    received: int
    before: int
    metrics: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def array(self) -> np.ndarray:
        loaded: np.ndarray = np.load(io.BytesIO(self.body))
        return loaded


def ask(
    engine: Any,
    method: str,
    path: str,
    *,
    chunks: Iterable[bytes] = (b"",),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    query: bytes = b"",
    disconnect: bool = False,
    pause: float = 0,
    inner: Any = None,
    static: Iterable[str] = (),
    **settings: Any,
) -> Reply | None:
    """One request to a new gateway, by hand-made ASGI; None if it sent nothing.

    `disconnect` lets the client go after the chunks; `pause` is seconds before each of them.
    """
    parts = list(chunks)
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": disconnect or k < len(parts) - 1}
        for k, part in enumerate(parts)
    ]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    taken = before = 0
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        nonlocal taken
        if taken == len(messages):
            await asyncio.Event().wait()  # a client that listens
        taken += 1
        await asyncio.sleep(pause)
        return messages[taken - 1]

    async def send(message: Any) -> None:
        nonlocal before
        if message["type"] == "http.response.start":
            before = taken
        sent.append(message)

    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in pairs],
    }
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry=registry)
    gateway = Gateway(
        inner or Inner(),
        engine=lambda: engine,
        metrics=lambda: metrics,
        settings=Settings(**settings),
        static=static,
    )
    asyncio.run(gateway(scope, receive, send))
    if not sent:
        return None
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    assert {message["type"] for message in bodies} == {"http.response.body"}
    assert [bool(message.get("more_body")) for message in bodies[:-1]] == [True] * len(bodies[1:])
    assert not bodies[-1].get("more_body")
    names = [name for name, _ in start["headers"]]
    assert len(set(names)) == len(names)
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    body = b"".join(message.get("body", b"") for message in bodies)
    if method != "HEAD" and "content-length" in told:
        assert int(told["content-length"]) == len(body)
    metrics.flush()
    text = prometheus_client.generate_latest(registry).decode()
    return Reply(start["status"], told, body, taken, before, text)


def post(engine: Any, path: str, body: bytes, content_type: str = JSON, **rest: Any) -> Reply:
    """POST with a Content-Type."""
    headers = {"content-type": content_type, **rest.pop("headers", {})}
    reply = ask(engine, "POST", path, chunks=rest.pop("chunks", [body]), headers=headers, **rest)
    assert reply is not None
    return reply


def npy(array: np.ndarray) -> bytes:
    """What numpy.save writes."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def some_images(size: int, dtype: str = "float32") -> np.ndarray:
    """(size, 8, 8, 1), float32 in [0, 1] or uint8; the same at each call."""
    rng = np.random.default_rng(size)
    if dtype == "uint8":
        return rng.integers(0, 256, (size, *GREY), dtype=np.uint8)
    return rng.random((size, *GREY), dtype=np.float32)


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


@pytest.fixture(scope="session")
def scored_bundle_path(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Path:
    """The grey bundle with scores; only to be read."""
    path = write_bundle(tmp_path_factory.mktemp("bundles") / "scored", network)
    (path / NOVELTY).write_bytes(network.novelty())
    seal(path, novelty={"float32": NOVELTY_FACTS})
    return path


@pytest.fixture(scope="session")
def scored_engine(scored_bundle_path: Path) -> Iterator[Engine]:
    yield Engine.load(scored_bundle_path, threads=2)


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
