"""A custom MLServer runtime around ONNX Runtime, written as its documentation recommends."""

from __future__ import annotations

import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Denoiser(MLModel):
    """The autoencoder named by PEER_MODEL."""

    async def load(self) -> bool:
        """Open the model with one thread."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["PEER_MODEL"], options)
        self._source = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Denoise the first input."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        clean = self._session.run(None, {self._source: images.astype("float32")})[0]
        output = NumpyCodec.encode_output("denoised", clean)
        return InferenceResponse(model_name=self.name, outputs=[output])
