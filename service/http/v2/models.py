"""The models that the Open Inference Protocol shows: their names, tensors and metadata."""

from __future__ import annotations

from typing import Any

from common.errors import NotFoundError
from service import __version__
from service.bundle import Manifest

Json = dict[str, Any]

VERSION = "1"
NAME = "denoiser"
INPUTS = {"encoder": "images", "decoder": "latents", "autoencoder": "images"}
OUTPUTS = {
    "encoder": ("latents",),
    "decoder": ("images",),
    "autoencoder": ("denoised", "latents"),
}
# An output of bundles with a novelty model, on request only.
SCORES = "scores"


def server_metadata() -> Json:
    """Name, version and extensions of the server."""
    return {"name": NAME, "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: str, manifest: Manifest) -> Json:
    """Names, datatypes and shapes; -1 is the batch."""
    return {
        "name": _known(model),
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(INPUTS[model], manifest)],
        "outputs": [_tensor(name, manifest) for name in outputs(model, manifest)],
        "parameters": {"fingerprint": manifest.fingerprint},
    }


def model_config(model: str, manifest: Manifest) -> Json:
    """Triton's model configuration extension: the fields that apply."""
    described = model_metadata(model, manifest)

    def tensors(key: str) -> list[Json]:
        return [
            {"name": t["name"], "data_type": f"TYPE_{t['datatype']}", "dims": t["shape"][1:]}
            for t in described[key]
        ]

    return {
        "name": model,
        "platform": described["platform"],
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [{**t, "dims": [-1, *t["dims"]]} for t in tensors("inputs")],
        "output": [{**t, "dims": [-1, *t["dims"]]} for t in tensors("outputs")],
    }


def repository_index() -> list[Json]:
    """Every model, all ready."""
    return [{"name": name, "version": VERSION, "state": "READY", "reason": ""} for name in INPUTS]


def check_model(model: str, version: str | None) -> None:
    """Raise NotFoundError for a model or version that is not served."""
    _known(model)
    if version not in (None, "", VERSION):
        raise NotFoundError(
            f"version {version!r} of {model}"[:120], expected=VERSION, hint="Leave it out."
        )


def outputs(model: str, manifest: Manifest) -> tuple[str, ...]:
    """The outputs that a request may name: the default ones, and scores where they exist.

    Only models that read images have scores.
    """
    scored = bool(manifest.novelty) and INPUTS[model] == "images"
    return (*OUTPUTS[model], *((SCORES,) if scored else ()))


def _known(model: str) -> str:
    if model not in INPUTS:
        raise NotFoundError(
            f"a model {model!r}"[:120],
            expected=" or ".join(INPUTS),
            hint="See POST /v2/repository/index.",
        )
    return model


def _tensor(name: str, manifest: Manifest) -> Json:
    return {"name": name, "datatype": "FP32", "shape": [-1, *row(name, manifest)]}


def row(name: str, manifest: Manifest) -> tuple[int, ...]:
    """One row of a tensor of that name: () for scores, which are one number each."""
    shapes = {"latents": (manifest.latent_size,), SCORES: ()}
    return shapes.get(name, manifest.image_shape)
