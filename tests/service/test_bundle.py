"""The bundle contract: what is written reads back, and all damage is detected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import (
    BundleDamagedError,
    BundleError,
    BundleMissingError,
    BundleSchemaError,
)
from service.bundle import GOLDEN, MANIFEST, MODELS, SCHEMA_VERSION, Bundle, Manifest
from service.engine import Engine

FILES = [f"{model}.onnx" for model in MODELS] + [GOLDEN, "parity.json"]


def read_manifest(folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return plain


def change_manifest(folder: Path, **changes: Any) -> None:
    plain = read_manifest(folder) | changes
    (folder / MANIFEST).write_text(json.dumps(plain), encoding="utf-8")


def test_what_is_sealed_opens(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    manifest = bundle.manifest
    assert manifest.image_shape == (8, 8, 1)
    assert manifest.latent_size == 4
    assert manifest.schema_version == SCHEMA_VERSION
    assert sorted(manifest.files) == sorted(FILES)
    assert len(manifest.fingerprint) == 64
    for name, facts in manifest.files.items():
        assert facts.bytes == (bundle_path / name).stat().st_size
    assert bundle.model("decoder") == bundle_path / "decoder.onnx"
    golden = bundle.golden()
    assert golden["images"].shape == (5, 8, 8, 1)
    assert golden["latents"].shape == (5, 4)


def test_the_manifest_is_its_own_json(bundle_path: Path) -> None:
    manifest = Bundle.open(bundle_path).manifest
    plain = json.loads(json.dumps(manifest.as_dict()))
    assert plain == read_manifest(bundle_path)
    assert next(iter(plain)) == "schema_version"
    assert Manifest.from_dict(plain) == manifest


def test_unknown_fields_of_a_manifest_are_left_alone(bundle_copy: Path) -> None:
    change_manifest(bundle_copy, a_later_invention={"x": 1})
    assert Bundle.open(bundle_copy).manifest.latent_size == 4


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_damage(bundle_copy: Path, name: str) -> None:
    data = bytearray((bundle_copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle_copy / name).write_bytes(data)
    with pytest.raises(BundleDamagedError, match=name):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, -1])
def test_a_truncated_file_is_damage(bundle_copy: Path, name: str, left: int) -> None:
    (bundle_copy / name).write_bytes((bundle_copy / name).read_bytes()[:left])
    with pytest.raises(BundleDamagedError, match=name):
        Bundle.open(bundle_copy)


def test_a_longer_file_is_damage(bundle_copy: Path) -> None:
    with (bundle_copy / "parity.json").open("a") as file:
        file.write("\n")
    with pytest.raises(BundleDamagedError, match=r"parity\.json has 4 bytes"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    with pytest.raises(BundleMissingError, match=name):
        Bundle.open(bundle_copy)


def test_a_folder_in_the_place_of_a_file_is_no_file(bundle_copy: Path) -> None:
    (bundle_copy / "parity.json").unlink()
    (bundle_copy / "parity.json").mkdir()
    with pytest.raises(BundleMissingError, match="parity"):
        Bundle.open(bundle_copy)


def test_no_manifest_no_bundle(bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST).unlink()
    with pytest.raises(BundleMissingError, match=MANIFEST):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("name", ["absent", "a-file"])
def test_no_folder_no_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("not a folder")
    with pytest.raises(BundleMissingError, match="DENOISER_BUNDLE"):
        Bundle.open(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"nothing", b"[]", b"null", b"3", b'"manifest"', b"\xff\xfe\x00", b"{}"],
)
def test_a_manifest_that_is_no_manifest(bundle_copy: Path, text: bytes) -> None:
    (bundle_copy / MANIFEST).write_bytes(text)
    with pytest.raises(BundleDamagedError, match="Export the run again"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    "name", sorted({*Manifest.__dataclass_fields__} - {"precisions", "novelty"})
)
def test_every_field_is_needed(bundle_copy: Path, name: str) -> None:
    plain = read_manifest(bundle_copy)
    del plain[name]
    (bundle_copy / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(BundleDamagedError, match=name):
        Bundle.open(bundle_copy)


WRONG_KINDS = [
    ("image_shape", None),
    ("image_shape", 8),
    ("image_shape", [8, 8]),
    ("image_shape", [8, 8, 1, 1]),
    ("image_shape", ["a", 8, 1]),
    ("image_shape", "8x8"),
    ("files", None),
    ("files", ["encoder.onnx"]),
    ("files", {"encoder.onnx": None}),
    ("files", {"encoder.onnx": "abc"}),
    ("files", {"encoder.onnx": {"sha256": "abc"}}),
    ("files", {"encoder.onnx": {"sha256": "abc", "bytes": 3, "colour": "red"}}),
    ("files", {"encoder.onnx": {"sha256": 3, "bytes": "x"}}),
    ("fingerprint", None),
    ("fingerprint", 5),
    ("schema_version", None),
    ("schema_version", "1"),
    ("latent_size", "four"),
    ("training", ["digits"]),
    ("quality", None),
    ("parity", 3),
    ("tools", "numpy"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_KINDS)
def test_a_field_of_the_wrong_kind_is_damage(bundle_copy: Path, name: str, value: Any) -> None:
    change_manifest(bundle_copy, **{name: value})
    with pytest.raises(BundleDamagedError):
        Bundle.open(bundle_copy)


def test_a_newer_schema_is_told_apart_from_damage(bundle_copy: Path) -> None:
    change_manifest(bundle_copy, schema_version=SCHEMA_VERSION + 1, files=None)
    with pytest.raises(BundleSchemaError, match=f"schema {SCHEMA_VERSION + 1}.*Upgrade"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize(
    "name", ["../outside", "/outside", "folder/encoder.onnx", "..", ".", "", "a\0b"]
)
def test_names_that_lead_out_of_the_bundle_are_never_opened(bundle_copy: Path, name: str) -> None:
    (bundle_copy.parent / "outside").write_text("secret")
    files = read_manifest(bundle_copy)["files"]
    files[name] = {"sha256": "0" * 64, "bytes": 6}
    change_manifest(bundle_copy, files=files)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle_copy)
    assert "has 6 bytes" not in str(caught.value)  # it was not read
    if "/" in name:
        assert isinstance(caught.value, BundleDamagedError)


@pytest.mark.parametrize("name", FILES)
def test_the_manifest_must_name_every_part(bundle_copy: Path, name: str) -> None:
    files = read_manifest(bundle_copy)["files"]
    del files[name]
    change_manifest(bundle_copy, files=files)
    with pytest.raises(BundleDamagedError, match=f"does not name {name}"):
        Bundle.open(bundle_copy)


@pytest.mark.parametrize("fingerprint", ["0" * 64, ""])
def test_the_fingerprint_must_be_that_of_the_models(bundle_copy: Path, fingerprint: str) -> None:
    change_manifest(bundle_copy, fingerprint=fingerprint)
    with pytest.raises(BundleDamagedError, match="fingerprint"):
        Bundle.open(bundle_copy)


def test_the_fingerprint_depends_on_the_models_alone(
    tmp_path: Path, bundle_path: Path, make_bundle: Callable[..., Path]
) -> None:
    def fingerprint(path: Path) -> str:
        return Bundle.open(path).manifest.fingerprint

    first = make_bundle(tmp_path / "first", seed=3)
    again = make_bundle(tmp_path / "again", seed=3, quality={}, created="another day", tools={})
    other = make_bundle(tmp_path / "other", seed=4)
    assert fingerprint(first) == fingerprint(again)
    assert len({fingerprint(first), fingerprint(other), fingerprint(bundle_path)}) == 3


def test_the_fingerprint_knows_which_model_is_which(
    bundle_copy: Path, seal_bundle: Callable[..., None]
) -> None:
    before = Bundle.open(bundle_copy).manifest.fingerprint
    encoder, decoder = bundle_copy / "encoder.onnx", bundle_copy / "decoder.onnx"
    kept = encoder.read_bytes()
    encoder.write_bytes(decoder.read_bytes())
    decoder.write_bytes(kept)
    seal_bundle(bundle_copy)
    assert Bundle.open(bundle_copy).manifest.fingerprint != before


def change_golden(folder: Path, **changes: np.ndarray | None) -> None:
    with np.load(folder / GOLDEN) as stored:
        arrays = {**stored, **changes}
    np.savez(folder / GOLDEN, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize("name", ["latents", "decoded", "denoised"])
@pytest.mark.parametrize("damage", ["value", "nan", "rows", "axis"])
def test_golden_answers_are_replayed(
    bundle_copy: Path, seal_bundle: Callable[..., None], name: str, damage: str
) -> None:
    with np.load(bundle_copy / GOLDEN) as stored:
        answer = stored[name].copy()
    if damage == "value":
        answer.flat[3] += 1e-3
    elif damage == "nan":
        answer.flat[3] = np.nan
    elif damage == "rows":
        answer = answer[:-1]
    else:
        answer = answer[..., None]
    change_golden(bundle_copy, **{name: answer})
    seal_bundle(bundle_copy)
    Bundle.open(bundle_copy)  # its hashes are true: only the replay can tell
    with pytest.raises(BundleError):
        Engine.load(bundle_copy, threads=1)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_other_weights_does_not_replay(
    tmp_path: Path,
    bundle_copy: Path,
    make_bundle: Callable[..., Path],
    seal_bundle: Callable[..., None],
    model: str,
) -> None:
    other = make_bundle(tmp_path / "other", seed=9)
    (bundle_copy / f"{model}.onnx").write_bytes((other / f"{model}.onnx").read_bytes())
    seal_bundle(bundle_copy)
    with pytest.raises(BundleDamagedError, match="golden"):
        Engine.load(bundle_copy, threads=1)


@pytest.mark.parametrize("missing", ["images", "latents", "decoded", "denoised"])
def test_golden_without_one_of_its_arrays(
    bundle_copy: Path, seal_bundle: Callable[..., None], missing: str
) -> None:
    change_golden(bundle_copy, **{missing: None})
    seal_bundle(bundle_copy)
    with pytest.raises(BundleDamagedError, match=GOLDEN):
        Engine.load(bundle_copy, threads=1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04N."])
def test_golden_that_is_no_npz(
    bundle_copy: Path, seal_bundle: Callable[..., None], content: bytes
) -> None:
    (bundle_copy / GOLDEN).write_bytes(content)
    seal_bundle(bundle_copy)
    with pytest.raises(BundleDamagedError, match=GOLDEN):
        Engine.load(bundle_copy, threads=1)


def test_golden_never_unpickles(bundle_copy: Path, seal_bundle: Callable[..., None]) -> None:
    change_golden(bundle_copy, images=np.array([{"an": "object"}], dtype=object))
    seal_bundle(bundle_copy)
    with pytest.raises(BundleDamagedError, match=GOLDEN):
        Engine.load(bundle_copy, threads=1)


def test_a_model_that_is_no_onnx_file(bundle_copy: Path, seal_bundle: Callable[..., None]) -> None:
    (bundle_copy / "decoder.onnx").write_bytes(b"this is no protobuf")
    seal_bundle(bundle_copy)
    with pytest.raises(BundleDamagedError, match=r"decoder\.onnx does not load"):
        Engine.load(bundle_copy, threads=1)


@pytest.mark.parametrize(
    "changes", [{"image_shape": (9, 9, 1)}, {"latent_size": 5}, {"latent_size": 0}]
)
def test_shapes_that_are_not_the_models_are_damage(
    bundle_copy: Path, seal_bundle: Callable[..., None], changes: dict[str, Any]
) -> None:
    seal_bundle(bundle_copy, **changes)
    with pytest.raises(BundleError):
        Engine.load(bundle_copy, threads=1)
