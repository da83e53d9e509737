"""FastAPI + uvicorn + ONNX Runtime, written by hand: npy in, npy out.

PEER_MODEL names the plain exported autoencoder.onnx. Each worker process uses one thread: with
ONNX Runtime's default, the processes would compete for the cores.
"""

from __future__ import annotations

import io
import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, Request, Response

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["PEER_MODEL"], options)
source = session.get_inputs()[0].name

app = FastAPI()


@app.post("/denoise")
async def denoise(request: Request) -> Response:
    """Denoise images, uint8 or float32 (N, H, W, C); the response has the same dtype."""
    images = np.load(io.BytesIO(await request.body()))
    dtype = images.dtype
    if dtype == np.uint8:
        images = images.astype(np.float32) / 255
    clean = session.run(None, {source: images})[0]
    if dtype == np.uint8:
        clean = (clean * 255).round().astype(np.uint8)
    stream = io.BytesIO()
    np.save(stream, clean)
    return Response(stream.getvalue(), media_type="application/x-npy")


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """Answer once the server runs."""
    return {"ready": True}
