"""int8 beside float32: own files, own golden answers, own identity, and a clear no without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import BundleDamagedError, BundleMissingError, SettingsError
from service import describe as report
from service.app import Denoiser
from service.bundle import (
    INT8,
    MANIFEST,
    MODELS,
    Bundle,
    Manifest,
    Precision,
    golden_file,
    model_file,
)
from service.engine import Engine
from service.settings import Settings
from tests.support.asgi import ask, npy, post
from tests.support.tiny import GREY, TinyNetwork, seal, some_images

SERVICE: Any = Denoiser  # at run time not the class, but the service that wraps it
FIGURES = {"loss": {"autoencoder": {"psnr": 0.0123, "ssim": 0.00045}}}
INT8_FILES = [*(model_file(model, INT8) for model in MODELS), golden_file(INT8)]


def write_golden(folder: Path, network: TinyNetwork, *, off: float = 0) -> None:
    """The int8 golden answers of a network, images wrong by `off` in one value."""
    images = some_images(5)
    latents = network.encode(images)
    denoised = network.denoise(images)
    denoised[2, 3, 4, 0] += off
    np.savez(
        folder / golden_file(INT8),
        images=images,
        latents=latents,
        decoded=network.decode(latents),
        denoised=denoised,
    )


@pytest.fixture
def other() -> TinyNetwork:
    """What the "int8" models compute: clearly different from the float32 ones."""
    return TinyNetwork.random(GREY, seed=9)


@pytest.fixture
def both(bundle_copy: Path, other: TinyNetwork) -> Path:
    """A bundle with int8 models."""
    for model in MODELS:
        (bundle_copy / model_file(model, INT8)).write_bytes(other.onnx(model))
    write_golden(bundle_copy, other)
    seal(bundle_copy, precisions={INT8: Precision(figures=FIGURES)})
    return bundle_copy


def change_int8(folder: Path, **changes: Any) -> None:
    plain = json.loads((folder / MANIFEST).read_text())
    plain["precisions"]["int8"] |= changes
    (folder / MANIFEST).write_text(json.dumps(plain))


def test_each_precision_answers_from_its_own_files(
    both: Path, network: TinyNetwork, other: TinyNetwork
) -> None:
    images = some_images(40)
    for precision, truth in (("float32", network), ("int8", other)):
        engine = Engine.load(both, threads=2, precision=precision)  # type: ignore[arg-type]
        assert engine.precision == precision
        latents = truth.encode(images)
        np.testing.assert_allclose(engine.encode(images), latents, rtol=0, atol=1e-5)
        np.testing.assert_allclose(engine.decode(latents), truth.decode(latents), rtol=0, atol=1e-5)
        np.testing.assert_allclose(engine.denoise(images), truth.denoise(images), rtol=0, atol=1e-5)


def test_float32_is_the_default_and_keeps_its_fingerprint(both: Path, bundle_path: Path) -> None:
    alone = Engine.load(bundle_path).manifest.fingerprint
    assert Engine.load(both).fingerprint == alone
    assert Engine.load(both, precision="float32").fingerprint == alone


def test_int8_latents_have_a_fingerprint_of_their_own(both: Path) -> None:
    manifest = Bundle.open(both).manifest
    engine = Engine.load(both, precision="int8")
    assert len(engine.fingerprint) == 64
    assert engine.fingerprint != manifest.fingerprint
    assert engine.fingerprint == engine.manifest.fingerprint
    assert engine.fingerprint == manifest.precisions["int8"].fingerprint
    assert manifest.precisions["float32"].fingerprint == manifest.fingerprint


@pytest.mark.parametrize("model", MODELS)
def test_the_int8_fingerprint_hangs_on_each_int8_model(
    both: Path, network: TinyNetwork, model: str
) -> None:
    before = Bundle.open(both).manifest
    (both / model_file(model, INT8)).write_bytes(network.onnx(model))
    seal(both, precisions={INT8: Precision()})
    after = Bundle.open(both).manifest
    assert after.at(INT8).fingerprint != before.at(INT8).fingerprint
    assert after.fingerprint == before.fingerprint


def test_the_wire_names_what_answers(both: Path) -> None:
    engine = Engine.load(both, precision="int8")
    body = npy(some_images(2))
    reply = post(engine, "/encode", body, "application/x-npy")
    assert reply.headers["x-model-fingerprint"] == engine.fingerprint
    model = ask(engine, "GET", "/model")
    assert model is not None and model.json["fingerprint"] == engine.fingerprint
    metadata = ask(engine, "GET", "/v2/models/encoder")
    assert metadata is not None
    assert metadata.json["parameters"]["fingerprint"] == engine.fingerprint
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, *GREY]}
    tensor["data"] = some_images(1).ravel().tolist()
    inferred = post(engine, "/v2/models/encoder/infer", json.dumps({"inputs": [tensor]}).encode())
    assert inferred.json["parameters"]["fingerprint"] == engine.fingerprint


def test_what_is_sealed_reads_back(both: Path) -> None:
    manifest = Bundle.open(both).manifest
    assert manifest.available == ["float32", "int8"]
    assert set(INT8_FILES) <= set(manifest.files)
    assert manifest.precisions["int8"].figures == FIGURES
    assert Manifest.from_dict(json.loads(json.dumps(manifest.as_dict()))) == manifest


@pytest.mark.parametrize("precision", ["int8", "int4", "", "INT8"])
def test_a_precision_that_is_not_there_is_refused_with_what_is(
    bundle_path: Path, precision: str
) -> None:
    with pytest.raises(BundleMissingError) as caught:
        Engine.load(bundle_path, precision=precision)  # type: ignore[arg-type]
    assert caught.value.expected == "one of float32"
    assert f"precision {precision}" in caught.value.received


def test_a_precision_that_no_one_knows_lists_both(both: Path) -> None:
    with pytest.raises(BundleMissingError, match="one of float32, int8"):
        Engine.load(both, precision="bf16")  # type: ignore[arg-type]


def test_the_refusal_says_why_export_left_it_out(bundle_copy: Path) -> None:
    seal(bundle_copy, precisions={INT8: Precision(reason="decoder loses 0.3 dB", figures=FIGURES)})
    manifest = Bundle.open(bundle_copy).manifest
    assert manifest.available == ["float32"]
    assert manifest.precisions["int8"].fingerprint == ""
    with pytest.raises(BundleMissingError, match=r"int8, .*: decoder loses 0\.3 dB"):
        Engine.load(bundle_copy, precision="int8")
    assert "int8         not in this bundle: decoder loses 0.3 dB\n" in report.describe(
        Bundle.open(bundle_copy)
    )


def test_a_bundle_from_before_int8_still_opens(bundle_copy: Path) -> None:
    plain = json.loads((bundle_copy / MANIFEST).read_text())
    del plain["precisions"]
    (bundle_copy / MANIFEST).write_text(json.dumps(plain))
    assert Engine.load(bundle_copy).manifest.available == ["float32"]
    with pytest.raises(BundleMissingError, match="one of float32"):
        Engine.load(bundle_copy, precision="int8")


@pytest.mark.parametrize("name", INT8_FILES)
def test_int8_files_are_verified_like_all_others(both: Path, name: str) -> None:
    data = bytearray((both / name).read_bytes())
    data[len(data) // 2] ^= 1
    (both / name).write_bytes(data)
    with pytest.raises(BundleDamagedError, match=name.replace(".", r"\.")):
        Engine.load(both)


@pytest.mark.parametrize("name", INT8_FILES)
def test_a_manifest_must_name_the_int8_files_it_promises(both: Path, name: str) -> None:
    plain = json.loads((both / MANIFEST).read_text())
    del plain["files"][name]
    (both / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(BundleDamagedError, match=name.replace(".", r"\.")):
        Bundle.open(both)


def test_another_int8_fingerprint_is_damage(both: Path) -> None:
    change_int8(both, fingerprint="0" * 64)
    with pytest.raises(BundleDamagedError, match=r"fingerprint 000000000000… \(int8\)"):
        Bundle.open(both)


@pytest.mark.parametrize(
    "changes",
    [{"fingerprint": 5}, {"reason": None}, {"figures": []}, {"colour": "red"}],
    ids=str,
)
def test_precisions_of_the_wrong_kind_are_damage(both: Path, changes: dict[str, Any]) -> None:
    change_int8(both, **changes)
    with pytest.raises(BundleDamagedError, match="missing or invalid fields"):
        Bundle.open(both)


@pytest.mark.parametrize(("off", "holds"), [(0.0, True), (0.02, True), (0.2, False)])
def test_int8_golden_answers_are_replayed_with_room_for_rounding(
    both: Path, other: TinyNetwork, off: float, holds: bool
) -> None:
    write_golden(both, other, off=off)
    seal(both, precisions={INT8: Precision()})
    Engine.load(both)  # float32 has its own golden answers
    if holds:
        Engine.load(both, precision="int8")
    else:
        with pytest.raises(BundleDamagedError, match="golden denoised"):
            Engine.load(both, precision="int8")


def test_the_report_names_the_int8_fingerprint_and_its_cost(both: Path) -> None:
    bundle = Bundle.open(both)
    said = report.describe(bundle)
    mark = bundle.manifest.precisions["int8"].fingerprint
    assert f"int8         fingerprint {mark}; loses 0.0123 dB of PSNR and 0.00045 of SSIM\n" in said


def test_the_environment_chooses() -> None:
    assert Settings.from_environment({}).precision == "float32"
    for name in ("float32", "int8"):
        assert Settings.from_environment({"DENOISER_PRECISION": name}).precision == name


@pytest.mark.parametrize("text", ["", "int4", "INT8", "float16", "8"])
def test_another_precision_in_the_environment_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="float32 or int8"):
        Settings.from_environment({"DENOISER_PRECISION": text})


def test_the_service_serves_the_precision_it_is_told(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENOISER_BUNDLE", str(both))
    monkeypatch.setenv("DENOISER_PRECISION", "int8")
    assert SERVICE.inner().engine.precision == "int8"
    SERVICE.inner.refuse_early()


def test_the_service_ends_early_where_the_bundle_lacks_it(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DENOISER_BUNDLE", str(bundle_path))
    monkeypatch.setenv("DENOISER_PRECISION", "int8")
    with pytest.raises(SystemExit) as caught:
        SERVICE.inner.refuse_early()
    assert caught.value.code == 2
    assert "one of float32" in capsys.readouterr().err
