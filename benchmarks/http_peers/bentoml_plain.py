"""BentoML as its documentation has it: an ndarray endpoint, one with adaptive batching, a mount.

PEER_MODEL names the plain exported autoencoder.onnx. It runs in this project's own environment.
"""

from __future__ import annotations

import io
import os
from typing import Annotated, Any

import bentoml
import numpy as np
import onnxruntime as ort
from bentoml.validators import DType, Shape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Images = Annotated[np.ndarray, DType("float32"), Shape((-1, 28, 28, 1))]


def _session() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(os.environ["PEER_MODEL"], options)


async def _mounted(request: Request) -> Response:
    images = np.load(io.BytesIO(await request.body())).astype(np.float32) / 255
    session = request.app.state.session
    clean = session.run(None, {session.get_inputs()[0].name: images})[0]
    stream = io.BytesIO()
    np.save(stream, np.rint(clean * 255).astype(np.uint8))
    return Response(stream.getvalue(), media_type="application/x-npy")


mounted = Starlette(routes=[Route("/denoise", _mounted, methods=["POST"])])


@bentoml.service(name="plain", workers=int(os.environ.get("PEER_WORKERS", "1")))
@bentoml.asgi_app(mounted, path="/mounted")
class Plain:
    """The model with BentoML's own endpoints."""

    def __init__(self) -> None:
        self.session = mounted.state.session = _session()

    @bentoml.api
    def each(self, images: Images) -> np.ndarray:
        """One request at a time: float32 (N, 28, 28, 1) in and out."""
        return self._denoise(images)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=100)
    def batched(self, images: Images) -> np.ndarray:
        """Adaptive batching: float32 (N, 28, 28, 1) in and out."""
        return self._denoise(images)

    def _denoise(self, images: np.ndarray) -> np.ndarray:
        denoised: np.ndarray = self.session.run(None, {"images": images})[0]
        return denoised
