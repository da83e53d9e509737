"""`tritonclient.http` from PyPI, unchanged, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from common.arrays import Array
from service import __version__
from service.engine import Engine
from tests.support.processes import Server
from tests.support.wire import KEY, some_images

LATENTS = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    connected = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    yield connected
    connected.close()


def tensor(array: Array, *, binary: bool = True, name: str = "") -> Any:
    kind = "UINT8" if array.dtype == np.uint8 else "FP32"
    result = triton.InferInput(
        name or ("images" if array.ndim == 4 else "latents"), list(array.shape), kind
    )
    result.set_data_from_numpy(array, binary_data=binary)
    return result


def output(name: str, *, binary: bool = True) -> Any:
    return triton.InferRequestedOutput(name, binary_data=binary)


def test_health_and_metadata(client: Any, local_engine: Engine) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata() == {
        "name": "denoiser",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    index = client.get_model_repository_index()
    assert [(model["name"], model["state"]) for model in index] == [
        ("encoder", "READY"),
        ("decoder", "READY"),
        ("autoencoder", "READY"),
    ]
    for model, inputs, outputs in [
        ("encoder", {"images": [-1, 28, 28, 1]}, {"latents": [-1, 16], "scores": [-1]}),
        ("decoder", {"latents": [-1, 16]}, {"images": [-1, 28, 28, 1]}),
        (
            "autoencoder",
            {"images": [-1, 28, 28, 1]},
            {"denoised": [-1, 28, 28, 1], "latents": [-1, 16], "scores": [-1]},
        ),
    ]:
        assert client.is_model_ready(model) and client.is_model_ready(model, "1")
        for version in ("", "1"):
            metadata = client.get_model_metadata(model, version)
            assert {t["name"]: t["shape"] for t in metadata["inputs"]} == inputs
            assert {t["name"]: t["shape"] for t in metadata["outputs"]} == outputs
            assert {t["datatype"] for t in metadata["inputs"] + metadata["outputs"]} == {"FP32"}
            assert metadata["parameters"]["fingerprint"] == local_engine.manifest.fingerprint
            config = client.get_model_config(model, version)
            assert config["name"] == model
            assert {t["name"]: t["dims"] for t in config["input"]} == inputs
            assert {t["data_type"] for t in config["output"]} == {"TYPE_FP32"}
    assert not client.is_model_ready("resnet")
    assert not client.is_model_ready("encoder", "2")


@pytest.mark.parametrize("input_binary", [True, False])
@pytest.mark.parametrize("output_binary", [True, False])
@pytest.mark.parametrize("kind", ["UINT8", "FP32"])
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_every_model_answers_as_the_engine_does(
    client: Any,
    local_engine: Engine,
    input_binary: bool,
    output_binary: bool,
    kind: str,
    rows: int,
) -> None:
    images = some_images(rows)
    sent = images if kind == "UINT8" else (images / np.float32(255)).astype(np.float32)
    latents = np.random.default_rng(rows).normal(size=(rows, 16)).astype(np.float32)
    for model, rows_in, name, expected in [
        ("encoder", sent, "latents", local_engine.encode(images)),
        ("autoencoder", sent, "denoised", local_engine.denoise(images)),
        ("decoder", latents, "images", local_engine.decode(latents)),
    ]:
        outputs = [output(name, binary=output_binary)]
        answer = client.infer(model, [tensor(rows_in, binary=input_binary)], outputs=outputs)
        result = answer.as_numpy(name)
        assert result.dtype == np.float32
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, **CLOSE)


@pytest.mark.parametrize("binary", [(True, True), (True, False), (False, True), (False, False)])
def test_several_outputs_at_once(
    client: Any, local_engine: Engine, binary: tuple[bool, bool]
) -> None:
    images = some_images(33)
    for names in (("denoised", "latents"), ("latents", "denoised")):
        outputs = [output(name, binary=flag) for name, flag in zip(names, binary, strict=True)]
        answer = client.infer("autoencoder", [tensor(images)], outputs=outputs)
        assert [tensor_out["name"] for tensor_out in answer.get_response()["outputs"]] == list(
            names
        )
        latents = local_engine.encode(images)
        np.testing.assert_allclose(answer.as_numpy("latents"), latents, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            answer.as_numpy("denoised"), local_engine.decode(latents), rtol=0, atol=1e-4
        )


def test_without_outputs_all_of_them_are_answered(client: Any) -> None:
    answer = client.infer("autoencoder", [tensor(some_images(2))])
    assert answer.as_numpy("latents").shape == (2, 16)
    assert answer.as_numpy("denoised").shape == (2, 28, 28, 1)
    assert answer.as_numpy("images") is None


def test_ids_and_versions(client: Any) -> None:
    for name in ("42", "ein Bild ü", "x" * 256):
        answer = client.infer("decoder", [tensor(LATENTS)], request_id=name, model_version="1")
        response = answer.get_response()
        assert (response["id"], response["model_name"], response["model_version"]) == (
            name,
            "decoder",
            "1",
        )
    assert "id" not in client.infer("decoder", [tensor(LATENTS)]).get_response()


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("accepted", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(
    client: Any, local_engine: Engine, sent: str | None, accepted: str | None, binary: bool
) -> None:
    images = some_images(30)
    answer = client.infer(
        "autoencoder",
        [tensor(images, binary=binary)],
        outputs=[output("denoised", binary=binary)],
        request_compression_algorithm=sent,
        response_compression_algorithm=accepted,
    )
    np.testing.assert_allclose(answer.as_numpy("denoised"), local_engine.denoise(images), **CLOSE)


def test_asynchronous_requests_keep_their_own_rows(client: Any, local_engine: Engine) -> None:
    sent = [some_images(1 + n % 20, seed=n) for n in range(30)]
    waiting = [client.async_infer("encoder", [tensor(images)]) for images in sent]
    for images, request in zip(sent, waiting, strict=True):
        latents = request.get_result().as_numpy("latents")
        np.testing.assert_allclose(latents, local_engine.encode(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "sent", "outputs", "status", "text"),
    [
        ("resnet", tensor(LATENTS), None, "404", "a model 'resnet'; expected encoder or decoder"),
        ("encoder", tensor(LATENTS), None, "400", "an input named 'latents'"),
        ("encoder", tensor(LATENTS, name="images"), None, "422", "shape [5, 16]"),
        ("decoder", tensor(LATENTS[:, :3]), None, "422", "expected [-1, 16]"),
        ("decoder", tensor(np.full((1, 16), np.nan, np.float32)), None, "422", "NaN or infinity"),
        ("encoder", tensor(np.full((1, 28, 28, 1), 1.5, np.float32)), None, "422", "[0, 1]"),
        ("decoder", tensor(LATENTS), [output("latents")], "400", "an output named 'latents'"),
    ],
)
def test_errors_reach_the_client_with_our_message(
    client: Any, model: str, sent: Any, outputs: Any, status: str, text: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [sent], outputs=outputs)
    assert caught.value.status() == status
    assert text in caught.value.message()


def test_a_wrong_version_and_two_inputs_are_errors(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="version '7' of decoder"):
        client.infer("decoder", [tensor(LATENTS)], model_version="7")
    with pytest.raises(InferenceServerException, match="one input tensor"):
        client.infer("decoder", [tensor(LATENTS), tensor(LATENTS)])
    with pytest.raises(InferenceServerException, match="version '7' of decoder"):
        client.get_model_metadata("decoder", "7")
    with pytest.raises(InferenceServerException, match="a model 'x'"):
        client.get_model_config("x")


def test_the_api_key(guarded_server: Server) -> None:
    url = guarded_server.url.removeprefix("http://")
    with triton.InferenceServerClient(url) as client:
        assert client.is_server_live() and client.is_server_ready()
        with pytest.raises(InferenceServerException, match="without the API key") as caught:
            client.get_server_metadata()
        assert caught.value.status() == "401"
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = client.infer("decoder", [tensor(LATENTS)], headers=headers)
        assert answer.as_numpy("images").shape == (5, 28, 28, 1)
