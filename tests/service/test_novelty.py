"""Scores beside answers: the engine, the bundle, HTTP, the V2 protocol and its descriptions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import (
    BundleDamagedError,
    BundleMissingError,
    DtypeError,
    OptionError,
    RangeError,
    ShapeError,
)
from service import describe as report
from service.bundle import (
    GOLDEN,
    INT8,
    MODELS,
    NOVELTY,
    Bundle,
    Precision,
    golden_file,
    model_file,
    novelty_file,
)
from service.engine import CHUNK, Engine
from service.http import openapi
from service.http.formats import FORM, JSON, MAX_HEADER_SCORES, NPY, PNG, ZIP
from service.settings import Settings
from tests.support.asgi import Reply, ask, npy, post
from tests.support.tiny import NOVELTY_FACTS, TinyNetwork, seal, some_images

CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


def header_scores(reply: Reply) -> np.ndarray:
    """X-Scores as float32 (N,)."""
    return np.array([float(x) for x in reply.headers["x-scores"].split(",") if x], np.float32)


# --- engine


@pytest.mark.parametrize("size", [0, 1, 3, CHUNK, 2 * CHUNK + 1, 200])
def test_scores_of_any_number_of_images(
    scored_engine: Engine, network: TinyNetwork, size: int
) -> None:
    images = some_images(size)
    scores = scored_engine.score(images)
    assert scores.dtype == np.float32
    assert scores.shape == (size,)
    np.testing.assert_allclose(scores, network.score(images), **CLOSE)


def test_a_score_depends_on_no_other_image(scored_engine: Engine) -> None:
    images = some_images(50)
    whole = scored_engine.score(images)
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(scored_engine.score(images[order]), whole[order], **CLOSE)
    one_by_one = [scored_engine.score(images[k : k + 1])[0] for k in range(50)]
    np.testing.assert_allclose(one_by_one, whole, **CLOSE)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_answers_are_those_without_scores(scored_engine: Engine, dtype: Any) -> None:
    images = some_images(40, dtype)
    before = images.copy()
    encoded = scored_engine.run(("latents", "scores"), images=images)
    np.testing.assert_allclose(encoded["latents"], scored_engine.encode(images), **CLOSE)
    results = scored_engine.run(("denoised", "scores"), images=images, dtype=dtype)
    clean, scores = results["denoised"], results["scores"]
    assert clean.dtype == dtype
    plain = scored_engine.denoise(images, dtype=dtype).astype(np.float64)
    np.testing.assert_allclose(clean, plain, rtol=0, atol=1 if dtype == "uint8" else 1e-5)
    np.testing.assert_array_equal(scores, encoded["scores"])
    np.testing.assert_array_equal(scores, scored_engine.score(images))
    np.testing.assert_array_equal(images, before)


def test_all_of_one_pass(scored_engine: Engine) -> None:
    found = scored_engine.run(("denoised", "latents"), images=some_images(20))
    assert {name: rows.shape for name, rows in found.items()} == {
        "denoised": (20, 8, 8, 1),
        "latents": (20, 4),
    }


def test_a_large_image_on_all_cores_scores_as_on_one(
    scored_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = some_images(2)
    outputs: Any = ("latents", "denoised", "scores")
    expected = Engine.load(scored_bundle_path, threads=1).run(outputs, images=images)
    monkeypatch.setattr("service.runtime.session.MULTITHREAD_MIN_SECONDS", 0.0)
    monkeypatch.setattr("service.runtime.cores.STEADY", 0)
    results = Engine.load(scored_bundle_path, threads=2).run(outputs, images=images)
    for name in outputs:
        np.testing.assert_allclose(results[name], expected[name], rtol=0, atol=1e-4)


def test_images_that_cannot_be_scored(scored_engine: Engine) -> None:
    with pytest.raises(ShapeError):
        scored_engine.score(np.zeros((1, 9, 8, 1), np.float32))
    with pytest.raises(DtypeError):
        scored_engine.score(np.zeros((1, 8, 8, 1)))
    with pytest.raises(DtypeError, match="uint16"):
        scored_engine.run(("scores",), images=some_images(1), dtype="uint16")  # type: ignore[arg-type]
    for size in (1, 100):
        images = some_images(size)
        images[-1] = np.nan
        with pytest.raises(RangeError):
            scored_engine.score(images)


def test_a_bundle_without_scores_says_so(engine: Engine) -> None:
    with pytest.raises(OptionError, match="novelty entry"):
        engine.score(some_images(1))


# --- bundle


def test_the_manifest_tells_of_scores(scored_bundle_path: Path, bundle_path: Path) -> None:
    bundle = Bundle.open(scored_bundle_path)
    assert bundle.manifest.novelty == {"float32": NOVELTY_FACTS}
    assert bundle.novelty() == scored_bundle_path / NOVELTY
    plain = Bundle.open(bundle_path)
    assert plain.manifest.fingerprint == bundle.manifest.fingerprint  # latents are the same
    assert (plain.manifest.novelty, plain.novelty()) == ({}, None)
    assert "unusual above 0.99, as 1.25% of 80 validation images are" in report.describe(bundle)
    assert "unusual" not in report.describe(plain)


def test_a_manifest_may_omit_novelty(bundle_copy: Path) -> None:
    path = bundle_copy / "manifest.json"
    plain = json.loads(path.read_text())
    del plain["novelty"]
    path.write_text(json.dumps(plain))
    assert Engine.load(bundle_copy).manifest.novelty == {}


def test_what_scores_is_verified(scored_bundle_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(scored_bundle_path, tmp_path / "bundle"))
    data = (path / NOVELTY).read_bytes()
    (path / NOVELTY).write_bytes(data[:-1] + b"\0")
    with pytest.raises(BundleDamagedError, match=NOVELTY):
        Engine.load(path)
    (path / NOVELTY).unlink()
    with pytest.raises(BundleMissingError, match=NOVELTY):
        Engine.load(path)
    seal(path, novelty={"float32": NOVELTY_FACTS})  # whose files do not have it
    with pytest.raises(BundleDamagedError, match=NOVELTY):
        Engine.load(path)
    (path / NOVELTY).write_bytes(b"no model")
    seal(path, novelty={"float32": NOVELTY_FACTS})
    with pytest.raises(BundleDamagedError, match="does not load"):
        Engine.load(path)


def test_each_precision_has_scores_of_its_own(
    scored_bundle_path: Path, tmp_path: Path, network: TinyNetwork
) -> None:
    path = Path(shutil.copytree(scored_bundle_path, tmp_path / "bundle"))
    for model in MODELS:
        shutil.copy(path / model_file(model), path / model_file(model, INT8))
    shutil.copy(path / GOLDEN, path / golden_file(INT8))
    precisions = {INT8: Precision()}
    seal(path, novelty={"float32": NOVELTY_FACTS}, precisions=precisions)
    with pytest.raises(BundleDamagedError, match="novelty"):
        Engine.load(path)
    (path / novelty_file(INT8)).write_bytes(network.novelty())
    seal(path, novelty={"int8": NOVELTY_FACTS}, precisions=precisions)
    with pytest.raises(BundleDamagedError, match="scores for int8"):
        Engine.load(path)
    other = {**NOVELTY_FACTS, "threshold": 0.95}
    seal(path, novelty={"float32": NOVELTY_FACTS, "int8": other}, precisions=precisions)
    engine = Engine.load(path, precision=INT8)
    assert engine.manifest.novelty == {"int8": other}
    np.testing.assert_allclose(engine.score(some_images(9)), network.score(some_images(9)), **CLOSE)


# --- HTTP


@pytest.mark.parametrize("path", ["/encode", "/denoise"])
def test_json_has_scores_beside_the_answer(
    scored_engine: Engine, network: TinyNetwork, path: str
) -> None:
    images = some_images(300)  # more than a header takes
    body = json.dumps({"images": images.tolist()}).encode()
    plain = post(scored_engine, path, body)
    reply = post(scored_engine, path, body, query=b"score=true")
    assert reply.status == 200
    assert "x-scores" not in reply.headers
    np.testing.assert_allclose(reply.json["scores"], network.score(images), **CLOSE)
    key = "latents" if path == "/encode" else "images"
    assert set(reply.json) == {key, "scores"}
    assert set(plain.json) == {key}
    np.testing.assert_allclose(reply.json[key], plain.json[key], **CLOSE)


def test_json_with_base64(scored_engine: Engine) -> None:
    body = json.dumps({"images": some_images(2).tolist()}).encode()
    reply = post(scored_engine, "/encode", body, query=b"score=true&encoding=base64")
    assert set(reply.json) == {"latents", "encoding", "scores"}
    assert len(reply.json["scores"]) == 2


@pytest.mark.parametrize("size", [0, 1, MAX_HEADER_SCORES])
@pytest.mark.parametrize("path", ["/encode", "/denoise"])
def test_npy_has_scores_in_a_header(scored_engine: Engine, path: str, size: int) -> None:
    images = some_images(size, "uint8")
    plain = post(scored_engine, path, npy(images), NPY)
    reply = post(scored_engine, path, npy(images), NPY, query=b"score=true")
    assert "x-scores" not in plain.headers
    np.testing.assert_array_equal(header_scores(reply), scored_engine.score(images))
    assert reply.array.dtype == plain.array.dtype
    np.testing.assert_allclose(reply.array, plain.array, **CLOSE)


def test_pictures_have_scores_in_a_header(scored_engine: Engine) -> None:
    images = npy(some_images(1, "uint8"))
    picture = post(scored_engine, "/denoise", images, NPY, headers={"accept": PNG})
    query = b"score=true"
    reply = post(scored_engine, "/denoise", picture.body, PNG, query=query)
    assert (reply.headers["content-type"], len(header_scores(reply))) == (PNG, 1)
    form = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + picture.body + b"\r\n--x--"
    reply = post(scored_engine, "/denoise", form, f"{FORM}; boundary=x", query=query)
    assert (reply.headers["content-type"], len(header_scores(reply))) == (ZIP, 1)
    reply = post(
        scored_engine, "/encode", form, f"{FORM}; boundary=x", query=query, headers={"accept": JSON}
    )
    assert set(reply.json) == {"latents", "names", "scores"}


def test_scores_survive_compression(scored_engine: Engine) -> None:
    images = npy(some_images(200))
    reply = post(
        scored_engine,
        "/denoise",
        images,
        NPY,
        query=b"score=true",
        headers={"accept-encoding": "gzip"},
    )
    assert reply.headers["content-encoding"] == "gzip"
    assert len(header_scores(reply)) == 200


@pytest.mark.parametrize(
    ("path", "rows", "media_type", "hint"),
    [
        ("/decode", 1, NPY, "/encode or /denoise"),
        ("/encode", MAX_HEADER_SCORES + 1, NPY, JSON),
        ("/denoise", MAX_HEADER_SCORES + 1, NPY, "/v2"),
    ],
)
def test_scores_that_have_no_place(
    scored_engine: Engine, path: str, rows: int, media_type: str, hint: str
) -> None:
    shape = (rows, 4) if path == "/decode" else (rows, 8, 8, 1)
    body = npy(np.zeros(shape, np.float32))
    reply = post(scored_engine, path, body, media_type, query=b"score=true")
    assert (reply.status, reply.json["type"].rpartition(":")[2]) == (422, "option")
    assert hint in reply.json["hint"]
    assert post(scored_engine, path, body, media_type, query=b"score=false").status == 200


@pytest.mark.parametrize("path", ["/encode", "/denoise"])
def test_a_service_without_scores_refuses_them(engine: Engine, path: str) -> None:
    reply = post(engine, path, npy(some_images(1)), NPY, query=b"score=true")
    assert reply.status == 422
    assert "export the run again" in reply.json["hint"]


# --- the Open Inference Protocol


def infer(engine: Engine, model: str, *names: str, **parameters: Any) -> Reply:
    images = some_images(5)
    message: dict[str, Any] = {
        "inputs": [
            {
                "name": "images",
                "datatype": "FP32",
                "shape": [*images.shape],
                "data": images.tolist(),
            }
        ],
        "parameters": parameters,
    }
    if names:
        message["outputs"] = [{"name": name} for name in names]
    return post(engine, f"/v2/models/{model}/infer", json.dumps(message).encode())


@pytest.mark.parametrize("model", ["encoder", "autoencoder"])
def test_v2_gives_scores_to_those_who_ask(
    scored_engine: Engine, network: TinyNetwork, model: str
) -> None:
    unasked = [tensor["name"] for tensor in infer(scored_engine, model).json["outputs"]]
    assert "scores" not in unasked
    for names in (["scores"], ["scores", "latents"], [*reversed(unasked), "scores"]):
        outputs = infer(scored_engine, model, *names).json["outputs"]
        assert [tensor["name"] for tensor in outputs] == names
        scores = outputs[names.index("scores")]
        assert (scores["datatype"], scores["shape"]) == ("FP32", [5])
        np.testing.assert_allclose(scores["data"], network.score(some_images(5)), **CLOSE)
        if "latents" in names:
            latents = outputs[names.index("latents")]["data"]
            expected = scored_engine.encode(some_images(5)).ravel()
            np.testing.assert_allclose(latents, expected, **CLOSE)


def test_v2_scores_go_binary_too(scored_engine: Engine) -> None:
    reply = infer(scored_engine, "encoder", "scores", binary_data_output=True)
    head = int(reply.headers["inference-header-content-length"])
    scores = np.frombuffer(reply.body[head:], "<f4")
    np.testing.assert_array_equal(scores, scored_engine.score(some_images(5)))


def test_v2_metadata_lists_scores_where_there_are_some(
    scored_engine: Engine, engine: Engine
) -> None:
    for model, scored in (("encoder", True), ("autoencoder", True), ("decoder", False)):
        for source, expected in ((scored_engine, scored), (engine, False)):
            reply = ask(source, "GET", f"/v2/models/{model}")
            assert reply is not None
            found = [t for t in reply.json["outputs"] if t["name"] == "scores"]
            assert found == [{"name": "scores", "datatype": "FP32", "shape": [-1]}] * expected
    reply = ask(scored_engine, "GET", "/v2/models/encoder/config")
    assert reply is not None
    assert reply.json["output"][-1] == {"name": "scores", "data_type": "TYPE_FP32", "dims": [-1]}


def test_v2_refuses_scores_that_are_not_there(engine: Engine) -> None:
    reply = infer(engine, "encoder", "scores")
    assert reply.status == 400
    assert "scores" in reply.json["error"] and "latents" in reply.json["error"]


# --- the OpenAPI document


def test_the_document_tells_of_scores_where_there_are_some(
    scored_engine: Engine, engine: Engine
) -> None:
    for source, scored in ((scored_engine, True), (engine, False)):
        paths = openapi.document(source.manifest, Settings())["paths"]
        for path in ("/encode", "/denoise", "/decode"):
            has_scores = scored and path != "/decode"
            post_item = paths[path]["post"]
            names = [parameter["name"] for parameter in post_item["parameters"]]
            assert ("score" in names) == has_scores, path
            answer = post_item["responses"]["200"]
            assert ("X-Scores" in answer.get("headers", {})) == has_scores
            assert ("scores" in answer["content"][JSON]["schema"]["properties"]) == has_scores
