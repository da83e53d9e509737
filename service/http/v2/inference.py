"""Inference requests of the Open Inference Protocol (KServe V2) over HTTP: JSON and binary tensors.

Pure functions between bytes and the engine; `service/http/endpoints.py` does the HTTP. Protocol:
github.com/kserve/open-inference-protocol (rest) and Triton's extension_binary_data. JSON tensors
are for small requests; large ones are sent as binary tensors, which are read without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from common.arrays import Array
from common.errors import (
    DenoiserError,
    DtypeError,
    MalformedError,
    RangeError,
    ShapeError,
    TooLargeError,
)
from service.bundle import Manifest
from service.codecs import jsontext
from service.codecs.jsontext import MAX_JSON, booleans, numbers, to_float32
from service.codecs.steps import Steps
from service.engine import OutputName
from service.http.v2.models import INPUTS, OUTPUTS, VERSION, Json, output_names

DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}

# The kind of rows of each output.
KINDS = {"latents": "latents", "images": "images", "denoised": "images"}

# Extensions that change where or how an output is returned. Other parameters that a client may
# send, such as MLServer's content_type, are ignored, as the protocol has it.
UNSUPPORTED = {"classification", "shared_memory_region"}


@dataclass(frozen=True)
class Request:
    """One inference request: its rows, and each requested output with whether it is binary."""

    model: str
    rows: Array
    outputs: tuple[tuple[OutputName, bool], ...]
    id: str | None = None


def read(body: bytes, header_length: int | None, model: str, manifest: Manifest) -> Request:
    """Parse an inference request.

    Args:
        body: JSON, or JSON of `header_length` bytes followed by binary tensors.
        header_length: the header Inference-Header-Content-Length, None without one.
        model: the model in the path.
        manifest: of the bundle that is served; it has the shapes.

    Raises:
        InputError
    """
    size = len(body) if header_length is None else header_length
    if not 0 <= size <= len(body):
        raise MalformedError(
            f"Inference-Header-Content-Length {size} for a body of {len(body)} bytes",
            expected="at most the body's length",
            hint="Send the length of the JSON part.",
        )
    if size > MAX_JSON:
        raise TooLargeError(
            f"{size} bytes of JSON", expected=f"at most {MAX_JSON}", hint="Send binary tensors."
        )
    message = _read_object(body[:size])
    rows = _read_rows(_only_input(message, model), memoryview(body)[size:], model, manifest)
    return Request(model, rows, _read_outputs(message, model, manifest), _read_id(message))


def row_bytes(request: Request, manifest: Manifest) -> tuple[int, int]:
    """The bytes of a row in the results, and the most that it takes in the response."""
    values = [
        (1 if name == "scores" else math.prod(manifest.row_shape(KINDS[name])), binary)
        for name, binary in request.outputs
    ]
    return (
        sum(4 * count for count, _ in values),
        sum(count * (4 if binary else jsontext.MAX_NUMBER) for count, binary in values),
    )


def write(
    request: Request, results: Mapping[str, Array], fingerprint: str
) -> Steps[tuple[bytes, int | None]]:
    """The response's bytes and, if a tensor is binary, the length of its JSON part; in steps."""
    tensors, tail = [], []
    for name, binary in request.outputs:
        array = np.ascontiguousarray(results[name])
        tensor: Json = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            tail.append(array.reshape(-1).view(np.uint8).data)
            tensors.append(orjson.dumps(tensor))
        else:
            text = yield from jsontext.flat(array)
            tensors.append(b'%s,"data":[%s]}' % (orjson.dumps(tensor)[:-1], text))
    message: Json = {
        "model_name": request.model,
        "model_version": VERSION,
        **({"id": request.id} if request.id is not None else {}),
        "parameters": {"fingerprint": fingerprint},
    }
    head = b'%s,"outputs":[%s]}' % (orjson.dumps(message)[:-1], b",".join(tensors))
    if not any(binary for _, binary in request.outputs):
        return head, None
    return b"".join((head, *tail)), len(head)


def failure() -> bytes:
    """The protocol's form of an internal error."""
    return orjson.dumps({"error": "Internal Server Error"})


def error(exc: DenoiserError) -> bytes:
    """The protocol's form of an error."""
    return orjson.dumps({"error": str(exc)})


def _read_object(text: bytes) -> Json:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise MalformedError(
            f"a request that is not JSON ({exc})",
            expected="an inference request",
            hint="With binary tensors, send Inference-Header-Content-Length.",
        ) from exc
    if not isinstance(message, dict):
        raise _malformed("a request that is not a JSON object")
    return message


def _only_input(message: Json, model: str) -> Json:
    inputs = message.get("inputs")
    name = INPUTS[model]
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _malformed("no list of one input tensor")
    if inputs[0].get("name") != name:
        raise _malformed(f"an input named {inputs[0].get('name')!r}"[:120], f'"{name}"')
    return inputs[0]


def _read_rows(tensor: Json, tail: memoryview, model: str, manifest: Manifest) -> Array:
    shape: Any = tensor.get("shape")
    datatype: Any = tensor.get("datatype")
    allowed = ("FP32", "UINT8") if INPUTS[model] == "images" else ("FP32",)
    if datatype not in allowed:
        raise DtypeError(f"datatype {datatype!r}"[:120], expected=" or ".join(allowed))
    row_shape = manifest.row_shape(INPUTS[model])
    if not _is_shape(shape) or tuple(shape[1:]) != row_shape:
        raise ShapeError(
            f"shape {shape!r}"[:120],
            expected=str([-1, *row_shape]),
            hint="Name the batch and every dimension of a row.",
        )
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    dtype = DTYPES[datatype]
    if size is None:
        if len(tail):
            raise _malformed(f"{len(tail)} bytes after the JSON that no tensor names")
        return _read_json_rows(tensor.get("data"), shape, dtype)
    expected = math.prod(shape) * dtype.itemsize
    if size != expected or len(tail) != expected:
        raise MalformedError(
            f"binary_data_size {size!r} with {len(tail)} bytes after the JSON"[:160],
            expected=f"{expected} for {datatype} {shape}",
            hint="Send each value of the tensor, little-endian, in C order.",
        )
    return np.frombuffer(tail, dtype).reshape(shape)


def _read_json_rows(data: Any, shape: list[int], dtype: np.dtype[Any]) -> Array:
    """A tensor's `data`, flat or nested."""
    if not isinstance(data, list):
        raise _malformed("a tensor with neither data nor binary_data_size")
    if _has_booleans(data):
        raise booleans("data")
    values = numbers(data, "data")
    if values.size != math.prod(shape):
        raise ShapeError(f"{values.size} values", expected=str(shape))
    if dtype != np.uint8:
        return to_float32(values).reshape(shape)
    if values.size and not (values.min() >= 0 and values.max() <= 255):
        raise RangeError("UINT8 values out of range", expected="0 to 255")
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        raise DtypeError("UINT8 data with fractions", expected="integers", hint="Send FP32.")
    return values.astype(dtype).reshape(shape)


def _has_booleans(data: list[Any]) -> bool:
    """Whether nested lists contain true or false."""
    lists = [data]
    while lists:
        values = lists.pop()
        types = set(map(type, values))
        if bool in types:
            return True
        if list in types:
            lists += [value for value in values if type(value) is list]
    return False


def _read_outputs(
    message: Json, model: str, manifest: Manifest
) -> tuple[tuple[OutputName, bool], ...]:
    parameters = message.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _malformed("parameters that are not an object")
    default = parameters.get("binary_data_output", False) is True
    requested = message.get("outputs")
    if requested is None or requested == []:
        return tuple((name, default) for name in OUTPUTS[model])
    if not isinstance(requested, list) or not all(isinstance(item, dict) for item in requested):
        raise _malformed("outputs that are not a list of objects")
    outputs: dict[OutputName, bool] = {}
    for item in requested:
        name, options = item.get("name"), item.get("parameters") or {}
        known = output_names(model, manifest)
        if name not in known:
            raise _malformed(f"an output named {name!r}"[:120], " or ".join(known))
        if not isinstance(options, dict) or UNSUPPORTED.intersection(options):
            unsupported = " and ".join(sorted(UNSUPPORTED))
            raise _malformed(f"parameters of the output {name!r}", f"no {unsupported}")
        outputs[name] = options.get("binary_data", default) is True
    return tuple(outputs.items())


def _read_id(message: Json) -> str | None:
    value = message.get("id")
    if value is not None and (not isinstance(value, str) or len(value) > 256):
        raise _malformed("an id that is not a string of at most 256 characters")
    return value


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) > 0
        and all(type(size) is int and 0 <= size < 2**31 for size in shape)
    )


def _malformed(received: str, expected: str = "an inference request") -> MalformedError:
    return MalformedError(
        received,
        expected=expected,
        hint="See GET /v2/models/{model} for names, datatypes and shapes.",
    )
