"""The models that the Open Inference Protocol lists: names, tensors and metadata."""

from __future__ import annotations

from typing import Any

from common.errors import NotFoundError
from service import __version__
from service.bundle import Manifest
from service.engine import OutputName

Json = dict[str, Any]

VERSION = "1"
NAME = "denoiser"
INPUTS = {"encoder": "images", "decoder": "latents", "autoencoder": "images"}
# What a request gets that names no outputs.
OUTPUTS: dict[str, tuple[OutputName, ...]] = {
    "encoder": ("latents",),
    "decoder": ("images",),
    "autoencoder": ("denoised", "latents"),
}


def server_metadata() -> Json:
    """The response to GET /v2."""
    return {"name": NAME, "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: str, manifest: Manifest) -> Json:
    """Names, datatypes and shapes; -1 is the batch."""
    _check_name(model)
    return {
        "name": model,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(INPUTS[model], manifest)],
        "outputs": [_tensor(name, manifest) for name in output_names(model, manifest)],
        "parameters": {"fingerprint": manifest.fingerprint},
    }


def model_config(model: str, manifest: Manifest) -> Json:
    """The model configuration extension; fields without a meaning here are left out."""
    metadata = model_metadata(model, manifest)

    def tensors(key: str) -> list[Json]:
        return [
            {"name": t["name"], "data_type": f"TYPE_{t['datatype']}", "dims": t["shape"]}
            for t in metadata[key]
        ]

    return {
        "name": model,
        "platform": metadata["platform"],
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": tensors("inputs"),
        "output": tensors("outputs"),
    }


def repository_index() -> list[Json]:
    """The response to POST /v2/repository/index."""
    return [{"name": name, "version": VERSION, "state": "READY", "reason": ""} for name in INPUTS]


def check_model(model: str, version: str | None) -> None:
    """Raise NotFoundError for a model or version that is not served."""
    _check_name(model)
    if version not in (None, "", VERSION):
        raise NotFoundError(
            f"version {version!r} of {model}"[:120], expected=VERSION, hint="Leave it out."
        )


def output_names(model: str, manifest: Manifest) -> tuple[OutputName, ...]:
    """The outputs that a request may name: OUTPUTS, and "scores" where the bundle has them."""
    if manifest.novelty and INPUTS[model] == "images":
        return (*OUTPUTS[model], "scores")
    return OUTPUTS[model]


def _check_name(model: str) -> None:
    if model not in INPUTS:
        raise NotFoundError(
            f"a model {model!r}"[:120],
            expected=" or ".join(INPUTS),
            hint="See POST /v2/repository/index.",
        )


def _tensor(name: str, manifest: Manifest) -> Json:
    return {"name": name, "datatype": "FP32", "shape": [-1, *manifest.row_shape(name)]}
