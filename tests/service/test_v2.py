"""The Open Inference Protocol, in process: metadata, tensors of both kinds, bad requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from service import __version__
from service.codecs.jsontext import MAX_JSON
from service.engine import Engine
from service.http.formats import JSON
from service.http.v2 import inference as v2
from service.http.v2 import models as v2_models
from tests.support.asgi import Reply, ask, post
from tests.support.tiny import some_images

BINARY = "application/octet-stream"
LATENTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def tensor(array: np.ndarray, *, flat: bool = True, **changes: Any) -> dict[str, Any]:
    """The array as a JSON tensor."""
    return {
        "name": "images" if array.ndim == 4 else "latents",
        "datatype": "UINT8" if array.dtype == np.uint8 else "FP32",
        "shape": list(array.shape),
        "data": (array.ravel() if flat else array).tolist(),
        **changes,
    }


def infer(engine: Any, model: str, message: Any, tail: bytes | None = None, **rest: Any) -> Reply:
    """An inference request; with `tail`, one with binary tensors."""
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    path = rest.pop("path", f"/v2/models/{model}/infer")
    if tail is None:
        return post(engine, path, text, **rest)
    headers = {"inference-header-content-length": str(len(text)), **rest.pop("headers", {})}
    return post(engine, path, text + tail, BINARY, headers=headers, **rest)


def binary(array: np.ndarray, **changes: Any) -> tuple[dict[str, Any], bytes]:
    described = tensor(array, **changes)
    del described["data"]
    return {**described, "parameters": {"binary_data_size": array.nbytes}}, array.tobytes()


def outputs(reply: Reply) -> dict[str, np.ndarray]:
    """The tensors of an answer, JSON and binary."""
    assert reply.status == 200, reply.body
    length = reply.headers.get("inference-header-content-length")
    head = json.loads(reply.body[: int(length)] if length else reply.body)
    tail = reply.body[int(length) :] if length else b""
    found = {}
    for described in head["outputs"]:
        assert described["datatype"] == "FP32"
        if "data" in described:
            values = np.array(described["data"], np.float32)
        else:
            size = described["parameters"]["binary_data_size"]
            values, tail = np.frombuffer(tail[:size], "<f4"), tail[size:]
        found[described["name"]] = values.reshape(described["shape"])
    assert tail == b""
    return found


def get(engine: Engine, path: str) -> Reply:
    reply = ask(engine, "GET", path)
    assert reply is not None
    return reply


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata(engine: Engine, path: str) -> None:
    reply = get(engine, path)
    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    assert reply.json == {
        "name": "denoiser",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }


def test_health(engine: Engine) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert get(engine, path).status == 200


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("model", list(v2_models.INPUTS))
def test_model_metadata_and_configuration(engine: Engine, model: str, version: str) -> None:
    base = f"/v2/models/{model}{version}"
    found = get(engine, base).json
    assert (found["name"], found["versions"]) == (model, ["1"])
    assert found["parameters"]["fingerprint"] == engine.manifest.fingerprint
    shapes = {"images": [-1, 8, 8, 1], "denoised": [-1, 8, 8, 1], "latents": [-1, 4]}
    takes, gives = (v2_models.INPUTS[model],), v2_models.OUTPUTS[model]
    for key, names in [("inputs", takes), ("outputs", gives)]:
        assert found[key] == [
            {"name": name, "datatype": "FP32", "shape": shapes[name]} for name in names
        ]
    assert get(engine, f"{base}/ready").json == {"name": model, "ready": True}
    config = get(engine, f"{base}/config").json
    assert (config["name"], config["max_batch_size"]) == (model, 0)
    assert [t["dims"] for t in config["input"]] == [shapes[v2_models.INPUTS[model]]]


def test_the_repository_index(engine: Engine) -> None:
    reply = post(engine, "/v2/repository/index", b"{}")
    assert [model["name"] for model in reply.json] == list(v2_models.INPUTS)
    assert {model["state"] for model in reply.json} == {"READY"}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("size", [0, 1, 50])
@pytest.mark.parametrize("form", ["flat", "nested", "binary"])
def test_values_are_the_engine_s(engine: Engine, dtype: str, size: int, form: str) -> None:
    images = some_images(size, dtype)
    latents = np.random.default_rng(size).normal(size=(size, 4)).astype(np.float32)
    for model, sent, name, expected in [
        ("encoder", images, "latents", engine.encode(images)),
        ("decoder", latents, "images", engine.decode(latents)),
        ("autoencoder", images, "denoised", engine.denoise(images)),
    ]:
        for is_binary in (True, False):
            requested = [{"name": name, "parameters": {"binary_data": is_binary}}]
            if form == "binary":
                described, tail = binary(sent)
                reply = infer(engine, model, {"inputs": [described], "outputs": requested}, tail)
            else:
                described = tensor(sent, flat=form == "flat")
                reply = infer(engine, model, {"inputs": [described], "outputs": requested})
            assert reply.headers["content-type"] == (BINARY if is_binary else JSON)
            assert ("inference-header-content-length" in reply.headers) is is_binary
            found = outputs(reply)
            assert list(found) == [name]
            np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize(
    ("requested", "parameters", "names", "is_binary"),
    [
        (None, {}, ["denoised", "latents"], False),
        ([], {}, ["denoised", "latents"], False),
        (None, {"binary_data_output": True}, ["denoised", "latents"], True),
        (["latents", "denoised"], {}, ["latents", "denoised"], False),
        (["latents"], {"binary_data_output": True}, ["latents"], True),
        (["latents", "latents"], {}, ["latents"], False),
    ],
)
def test_several_outputs(
    engine: Engine, requested: Any, parameters: Any, names: list[str], is_binary: bool
) -> None:
    images = some_images(20)
    message: dict[str, Any] = {"inputs": [tensor(images)], "parameters": parameters}
    if requested is not None:
        message["outputs"] = [{"name": name} for name in requested]
    reply = infer(engine, "autoencoder", message)
    assert (reply.headers["content-type"] == BINARY) is is_binary
    found = outputs(reply)
    assert list(found) == names
    latents = engine.encode(images)
    np.testing.assert_array_equal(found["latents"], latents)
    if "denoised" in names:
        np.testing.assert_allclose(found["denoised"], engine.decode(latents), atol=1e-6)


def test_one_output_binary_and_one_not(engine: Engine) -> None:
    message = {
        "inputs": [tensor(some_images(2))],
        "outputs": [
            {"name": "latents", "parameters": {"binary_data": False}},
            {"name": "denoised", "parameters": {"binary_data": True}},
        ],
    }
    reply = infer(engine, "autoencoder", message)
    assert {k: v.shape for k, v in outputs(reply).items()} == {
        "latents": (2, 4), "denoised": (2, 8, 8, 1),
    }  # fmt: skip


def test_ids_come_back(engine: Engine) -> None:
    for name in ("a", "", "ü", "x" * 256):
        message = {"id": name, "inputs": [tensor(LATENTS)]}
        assert infer(engine, "decoder", message).json["id"] == name
    assert "id" not in infer(engine, "decoder", {"inputs": [tensor(LATENTS)]}).json


GOOD = tensor(LATENTS)
PICTURES = tensor(np.zeros((2, 8, 8, 1), np.uint8))
BIG = "9" * 40
MALFORMED: list[tuple[str, str, Any, bytes | None, int]] = [
    ("empty", "decoder", b"", None, 400),
    ("not JSON", "decoder", b"inputs", None, 400),
    ("a list", "decoder", [], None, 400),
    ("null", "decoder", b"null", None, 400),
    ("no inputs", "decoder", {}, None, 400),
    ("inputs null", "decoder", {"inputs": None}, None, 400),
    ("inputs an object", "decoder", {"inputs": GOOD}, None, 400),
    ("inputs empty", "decoder", {"inputs": []}, None, 400),
    ("inputs of text", "decoder", {"inputs": ["latents"]}, None, 400),
    ("two inputs", "decoder", {"inputs": [GOOD, GOOD]}, None, 400),
    ("no name", "decoder", {"inputs": [{**GOOD, "name": None}]}, None, 400),
    ("another name", "decoder", {"inputs": [{**GOOD, "name": "images"}]}, None, 400),
    ("a name that is a list", "decoder", {"inputs": [{**GOOD, "name": ["latents"]}]}, None, 400),
    ("no datatype", "decoder", {"inputs": [{**GOOD, "datatype": None}]}, None, 422),
    ("FP64", "decoder", {"inputs": [{**GOOD, "datatype": "FP64"}]}, None, 422),
    ("BYTES", "decoder", {"inputs": [{**GOOD, "datatype": "BYTES"}]}, None, 422),
    ("a datatype that is a list", "decoder", {"inputs": [{**GOOD, "datatype": []}]}, None, 422),
    ("UINT8 latents", "decoder", {"inputs": [{**GOOD, "datatype": "UINT8"}]}, None, 422),
    ("no shape", "decoder", {"inputs": [{**GOOD, "shape": None}]}, None, 422),
    ("an empty shape", "decoder", {"inputs": [{**GOOD, "shape": []}]}, None, 422),
    ("a shape without a batch", "decoder", {"inputs": [{**GOOD, "shape": [4]}]}, None, 422),
    ("another shape", "decoder", {"inputs": [{**GOOD, "shape": [4, 3]}]}, None, 422),
    ("a negative side", "decoder", {"inputs": [{**GOOD, "shape": [-3, 4]}]}, None, 422),
    ("a fraction as side", "decoder", {"inputs": [{**GOOD, "shape": [3.0, 4]}]}, None, 422),
    ("true as side", "decoder", {"inputs": [{**GOOD, "shape": [True, 4]}]}, None, 422),
    ("text as side", "decoder", {"inputs": [{**GOOD, "shape": ["3", 4]}]}, None, 422),
    ("a huge side", "decoder", {"inputs": [{**GOOD, "shape": [2**40, 4]}]}, None, 422),
    ("a side beyond 64 bits", "decoder",
     json.dumps({"inputs": [{**GOOD, "shape": [1, 4]}]}).replace("[1, 4]", f"[{BIG}, 4]").encode(),
     None, 422),
    ("a shape of text", "decoder", {"inputs": [{**GOOD, "shape": "34"}]}, None, 422),
    ("too few values", "decoder", {"inputs": [{**GOOD, "data": [0.0] * 11}]}, None, 422),
    ("too many values", "decoder", {"inputs": [{**GOOD, "data": [0.0] * 13}]}, None, 422),
    ("no data", "decoder", {"inputs": [{**GOOD, "data": None}]}, None, 400),
    ("data as text", "decoder", {"inputs": [{**GOOD, "data": "AAAA"}]}, None, 400),
    ("data of text", "decoder", {"inputs": [{**GOOD, "data": ["a"] * 12}]}, None, 422),
    ("data of null", "decoder", {"inputs": [{**GOOD, "data": [None] * 12}]}, None, 422),
    ("data of objects", "decoder", {"inputs": [{**GOOD, "data": [{}] * 12}]}, None, 422),
    ("data of true", "decoder", {"inputs": [{**GOOD, "data": [True] * 12}]}, None, 422),
    ("true among numbers", "decoder", {"inputs": [{**GOOD, "data": [True] + [0.5] * 11}]}, None,
     422),
    ("ragged data", "decoder", {"inputs": [{**GOOD, "data": [[0] * 4, [0] * 3, [0] * 5]}]}, None,
     422),
    ("deep data", "decoder", b'{"inputs": [{"name": "latents", "datatype": "FP32", "shape": [1, 4],'
     b'"data": ' + b"[" * 500 + b"]" * 500 + b"}]}", None, 422),
    ("deeper data", "decoder", b'{"inputs": ' + b"[" * 5000, None, 400),
    ("NaN", "decoder", json.dumps({"inputs": [{**GOOD, "data": [float("nan")] * 12}]}).encode(),
     None, 400),
    ("beyond float32", "decoder", {"inputs": [{**GOOD, "data": [1e39] * 12}]}, None, 422),
    ("images out of range", "encoder",
     {"inputs": [{**PICTURES, "datatype": "FP32", "data": [1.5] * 128}]}, None, 422),
    ("UINT8 beyond 255", "encoder", {"inputs": [{**PICTURES, "data": [256] * 128}]}, None, 422),
    ("UINT8 below 0", "encoder", {"inputs": [{**PICTURES, "data": [-1] * 128}]}, None, 422),
    ("UINT8 of fractions", "encoder", {"inputs": [{**PICTURES, "data": [0.5] * 128}]}, None, 422),
    ("outputs an object", "decoder", {"inputs": [GOOD], "outputs": {"name": "images"}}, None, 400),
    ("outputs of text", "decoder", {"inputs": [GOOD], "outputs": ["images"]}, None, 400),
    ("an unknown output", "decoder", {"inputs": [GOOD], "outputs": [{"name": "x"}]}, None, 400),
    ("an output without a name", "decoder", {"inputs": [GOOD], "outputs": [{}]}, None, 400),
    ("classification", "decoder", {"inputs": [GOOD], "outputs": [
        {"name": "images", "parameters": {"classification": 3}}]}, None, 400),
    ("shared memory", "decoder", {"inputs": [GOOD], "outputs": [
        {"name": "images", "parameters": {"shared_memory_region": "x"}}]}, None, 400),
    ("output parameters a list", "decoder", {"inputs": [GOOD], "outputs": [
        {"name": "images", "parameters": [1]}]}, None, 400),
    ("parameters a list", "decoder", {"inputs": [GOOD], "parameters": [1]}, None, 400),
    ("an id that is a number", "decoder", {"inputs": [GOOD], "id": 3}, None, 400),
    ("a long id", "decoder", {"inputs": [GOOD], "id": "x" * 257}, None, 400),
    ("bytes that nobody names", "decoder", {"inputs": [GOOD]}, b"1234", 400),
    ("too few bytes", "decoder", {"inputs": [binary(LATENTS)[0]]}, bytes(47), 400),
    ("too many bytes", "decoder", {"inputs": [binary(LATENTS)[0]]}, bytes(49), 400),
    ("no bytes", "decoder", {"inputs": [binary(LATENTS)[0]]}, b"", 400),
    ("a size that lies", "decoder", {"inputs": [
        {**binary(LATENTS)[0], "parameters": {"binary_data_size": 47}}]}, bytes(48), 400),
    ("a size of text", "decoder", {"inputs": [
        {**binary(LATENTS)[0], "parameters": {"binary_data_size": "48"}}]}, bytes(48), 400),
    ("a huge shape", "decoder", {"inputs": [
        {**binary(LATENTS)[0], "shape": [2**31 - 1, 4]}]}, bytes(48), 400),
    ("binary NaN", "decoder", {"inputs": [binary(LATENTS)[0]]}, b"\xff" * 48, 422),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "message", "tail", "status"),
    [case[1:] for case in MALFORMED],
    ids=[case[0] for case in MALFORMED],
)
def test_malformed_requests(
    engine: Engine,
    model: str,
    message: Any,
    tail: bytes | None,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reply = infer(engine, model, message, tail)
    assert (reply.status, reply.headers["content-type"]) == (status, JSON), reply.body
    assert list(reply.json) == ["error"]
    assert 10 < len(reply.json["error"]) < 700
    assert reply.headers["x-model-fingerprint"] == engine.manifest.fingerprint
    assert caplog.records == []


@pytest.mark.parametrize(
    "length", ["-1", "+5", "ten", "", "1.0", "9" * 12, "١", "999999", "0", "5"]
)
def test_header_lengths_that_do_not_fit(engine: Engine, length: str) -> None:
    headers = (
        {"inference-header-content-length": length}
        if length.isascii()
        else {"inference-header-content-length": length.encode().decode("latin-1")}
    )
    body = json.dumps({"inputs": [GOOD]}).encode()
    reply = post(engine, "/v2/models/decoder/infer", body, headers=headers)
    assert (reply.status, list(reply.json)) == (400, ["error"])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v2/models/resnet/infer", "resnet"),
        ("/v2/models//infer", "model ''"),
        ("/v2/models/ENCODER/infer", "ENCODER"),
        ("/v2/models/decoder/versions/2/infer", "version '2'"),
        ("/v2/models/" + "x" * 5000 + "/infer", "xxx"),
    ],
)
def test_unknown_models_and_versions(engine: Engine, path: str, text: str) -> None:
    reply = infer(engine, "", {"inputs": [GOOD]}, path=path)
    assert reply.status == 404
    assert text in reply.json["error"] and len(reply.json["error"]) < 500
    for rest in ("", "/ready", "/config"):
        assert get(engine, path.removesuffix("/infer") + rest).status == 404


def test_other_methods_and_refusals_have_the_protocol_s_form(engine: Engine) -> None:
    for method, path, allow in [
        ("GET", "/v2/models/encoder/infer", "POST"),
        ("POST", "/v2/models/encoder", "GET, HEAD"),
        ("POST", "/v2", "GET, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
    ]:
        reply = ask(engine, method, path)
        assert reply is not None
        assert (reply.status, reply.headers["allow"]) == (405, allow)
        assert list(reply.json) == ["error"]
    message = {"inputs": [GOOD]}
    limits: list[tuple[dict[str, Any], int]] = [
        ({"max_rows": 2}, 413),
        ({"max_body": 1024, "max_buffered": 50}, 429),
    ]
    for settings, status in limits:
        reply = infer(engine, "decoder", message, **settings)
        assert (reply.status, list(reply.json)) == (status, ["error"])
    reply = infer(engine, "decoder", b" " * 2000, max_body=1024)
    assert (reply.status, list(reply.json)) == (413, ["error"])


def test_large_json_is_told_to_come_binary(engine: Engine) -> None:
    body = json.dumps({"inputs": [GOOD]}).encode().ljust(MAX_JSON + 1)
    reply = infer(engine, "decoder", body)
    assert reply.status == 413
    assert "binary" in reply.json["error"]
    assert infer(engine, "decoder", body[:-1]).status == 200


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.data())
def test_any_field_of_any_value_is_read_or_refused(engine: Engine, data: st.DataObject) -> None:
    message: dict[str, Any] = {"inputs": [dict(GOOD)], "outputs": [{"name": "images"}], "id": "a"}
    place, key = data.draw(
        st.sampled_from(
            [(message, "inputs"), (message, "outputs"), (message, "parameters"), (message, "id")]
            + [
                (message["inputs"][0], k)
                for k in ("name", "datatype", "shape", "data", "parameters")
            ]
            + [(message["outputs"][0], k) for k in ("name", "parameters")]
        )
    )
    place[key] = data.draw(JSON_VALUES)
    try:
        body = json.dumps(message).encode("utf-8", "surrogatepass")
        found = v2.read(body, None, "decoder", engine.manifest)
    except InputError:
        return
    assert found.rows.shape[1:] == (4,)
