"""FastAPI + uvicorn + ONNX Runtime, as one writes it by hand: npy in, npy out.

PEER_MODEL names the plain exported autoencoder.onnx. One session with its defaults would fight
for the cores with the other worker processes, so each process takes one thread.
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
    return {"ready": True}
