"""Bulk jobs from end to end, as the command line starts them, on a tiny bundle in this process."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.images import FORMATS
from service import __version__
from service.__main__ import main
from service.bulk import command, job, outputs, pipeline
from service.bulk.journal import Journal
from service.bulk.options import BulkOptions
from service.bulk.sources import files
from service.bundle import MANIFEST, NOVELTY
from service.engine import Engine
from tests.support.paths import DATA
from tests.support.tiny import LATENT_SIZE, seal, some_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PICTURES = ["a.png", "deep/b.bmp", "deep/er/c.tif", "d.gif", "deep/e.PNG"]


@pytest.fixture(autouse=True)
def environment(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISER_BUNDLE", str(bundle_path))
    monkeypatch.setenv("DENOISER_THREADS", "2")


@pytest.fixture
def images() -> np.ndarray:
    """uint8 (50, 8, 8, 1)"""
    return some_images(50, "uint8")


@pytest.fixture
def array(tmp_path: Path, images: np.ndarray) -> Path:
    np.save(tmp_path / "images.npy", images)
    return tmp_path / "images.npy"


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    """Five lossless pictures of the first five images, and what is none."""
    root = tmp_path / "pictures"
    for name, image in zip(PICTURES, images, strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(b"no image")
    (root / ".cache").mkdir()
    (root / ".cache" / "x.png").write_bytes(b"no image")
    return root


def text_stream(content: bytes) -> io.TextIOWrapper:
    """A standard input."""
    return io.TextIOWrapper(io.BytesIO(content))


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def latents_of(path: Path) -> np.ndarray:
    """The column `latent` as float32 (N, 4)."""
    column = pq.read_table(path).column("latent").combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, LATENT_SIZE)


def ids_of(path: Path) -> list[Any]:
    found: list[Any] = pq.read_table(path).column("id").to_pylist()
    return found


def errors_of(out: Path) -> dict[str, str]:
    with out.with_name(out.name + ".errors.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "error"]
    return {row[0]: row[1] for row in rows}


def left_behind(folder: Path) -> list[str]:
    """Hidden names: what an unfinished job leaves."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# --- inputs


def test_an_array(array: Path, images: np.ndarray, engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "latents.parquet"
    assert run("encode", array, "--out", out, "--batch", "7") == 0
    np.testing.assert_array_equal(latents_of(out), engine.encode(images))
    assert ids_of(out) == list(range(50))
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "latents.parquet.errors.csv").exists()


def test_the_contract_of_latents_in_parquet(array: Path, engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "latents.parquet"
    assert run("encode", array, "--out", out) == 0
    schema = pq.read_schema(out)
    assert schema.names == ["id", "latent"]
    assert schema.field("id").type == pa.int64()
    assert schema.field("latent").type == pa.list_(pa.float32(), LATENT_SIZE)
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata == {
        "denoiser.kind": "latents",
        "denoiser.fingerprint": engine.fingerprint,
        "denoiser.model": "grey",
        "denoiser.precision": "float32",
        "denoiser.preprocessing": metadata["denoiser.preprocessing"],
        "denoiser.version": __version__,
    }
    assert json.loads(metadata["denoiser.preprocessing"]) == {
        "image_shape": [8, 8, 1],
        "range": [0, 1],
        "fit": None,
        "invert": False,
    }


def test_a_folder(folder: Path, images: np.ndarray, engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "latents.parquet"
    assert run("encode", folder, "--out", out, "--batch", "2") == 0
    assert ids_of(out) == sorted(PICTURES)
    wanted = dict(zip(PICTURES, engine.encode(images[:5]), strict=True))
    for name, latent in zip(ids_of(out), latents_of(out), strict=True):
        np.testing.assert_allclose(latent, wanted[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_gives_what_its_folder_gives(folder: Path, tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"pictures.{kind}"
    names = ["notes.txt", *reversed(PICTURES)]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for name in names:
                made.write(folder / name, name)
    else:
        mode: Any = f"w:{kind.removeprefix('tar').lstrip('.')}"
        with tarfile.open(archive, mode) as packed:
            for name in names:
                packed.add(folder / name, f"./{name}")
    assert run("encode", folder, "--out", tmp_path / "f.parquet") == 0
    assert run("encode", archive, "--out", tmp_path / "a.parquet", "--batch", "2") == 0
    assert ids_of(tmp_path / "a.parquet") == names[1:]
    by_name = dict(zip(names[1:], latents_of(tmp_path / "a.parquet"), strict=True))
    for name, latent in zip(sorted(PICTURES), latents_of(tmp_path / "f.parquet"), strict=True):
        np.testing.assert_allclose(by_name[name], latent, rtol=0, atol=1e-6)


def test_a_list_on_standard_input(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(folder / "deep/b.bmp"), str(folder / "absent.png"), str(folder / "a.png")]
    monkeypatch.setattr(sys, "stdin", text_stream("\n".join(names).encode() + b"\n\n"))
    out = tmp_path / "l.parquet"
    assert run("encode", "-", "--out", out) == 3
    assert ids_of(out) == [names[0], names[2]]
    assert errors_of(out) == {names[1]: "No such file or directory"}


@pytest.mark.parametrize(
    ("encoding", "end"),
    [("utf-8-sig", "\r\n"), ("utf-8", "\0"), ("utf-16", "\r\n"), ("utf-16-le", "\n"),
     ("utf-16-be", "\n"), ("utf-32", "\n")],
)  # fmt: skip
def test_a_list_in_any_encoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, end: str
) -> None:
    names = [str(folder / "a.png"), str(folder / "ünï – 日本.png")]
    shutil.copy(names[0], names[1])
    monkeypatch.setattr(files, "LIST_BLOCK", 200)
    monkeypatch.setattr(sys, "stdin", text_stream("".join(n + end for n in names).encode(encoding)))
    assert run("encode", "-", "--out", tmp_path / "l.parquet") == 0
    assert ids_of(tmp_path / "l.parquet") == names


def test_a_list_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    for stdin in (None, text_stream(b""), text_stream(noise), text_stream(b"ab\nc\n" + noise)):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("encode", "-", "--out", tmp_path / "l.parquet", "--overwrite") in (1, 3)
    assert "no images in standard input" in capsys.readouterr().err


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(
    save: Any,
    images: np.ndarray,
    engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "data.npz", tmp_path / "l.parquet"
    labels = np.arange(50)
    save(path, x=images[..., 0], labels=labels)  # no channel axis
    assert run("encode", path, "--out", out, "--batch", "16") == 0
    np.testing.assert_array_equal(latents_of(out), engine.encode(images))
    save(path, x=images, other=images[:3], labels=labels)
    assert run("encode", path, "--out", out, "--overwrite") == 1
    assert "--column with one of x, other" in capsys.readouterr().err
    assert run("encode", path, "--out", out, "--overwrite", "--column", "other") == 0
    assert len(ids_of(out)) == 3
    assert run("encode", path, "--out", out, "--overwrite", "--column", "labels") == 1
    assert "--column with one of x, other" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["binary", "struct", "uint8", "float32", "fixed"])
def test_parquet_of_images(form: str, images: np.ndarray, engine: Engine, tmp_path: Path) -> None:
    flat = images.reshape(50, 64)
    bodies = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image[..., 0]).save(stream, "PNG")
        bodies.append(stream.getvalue())
    column: Any = {
        "binary": lambda: pa.array(bodies, pa.large_binary()),
        "struct": lambda: pa.array([{"bytes": body, "path": None} for body in bodies]),
        "uint8": lambda: pa.array(list(flat), pa.list_(pa.uint8())),
        "float32": lambda: pa.array(list(flat / np.float32(255)), pa.large_list(pa.float32())),
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), 64),
    }[form]()
    names = [f"n{at}" for at in range(50)]
    path, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"id": names, "image": column}), path, row_group_size=20)
    assert run("encode", path, "--out", out) == 0
    assert ids_of(out) == names
    np.testing.assert_allclose(latents_of(out), engine.encode(images), rtol=0, atol=1e-6)


def test_parquet_rows_that_do_not_fit_are_listed(tmp_path: Path, engine: Engine) -> None:
    good = np.full(64, 0.5, np.float32)
    rows = [good, good[:60], None, np.full(64, 2, np.float32), good]
    column = pa.array([None if row is None else list(row) for row in rows], pa.list_(pa.float32()))
    path, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"image": column}), path)
    assert run("encode", path, "--out", out) == 3
    assert ids_of(out) == [0, 4]
    assert errors_of(out) == {
        "1": "a list of 60; expected 64 numbers",
        "2": "null; expected 64 numbers",
        "3": "values out of range; expected numbers in [0, 1]",
    }


def test_rows_of_an_array_that_are_out_of_range_are_listed(tmp_path: Path, engine: Engine) -> None:
    images = some_images(20)
    images[3, 0, 0, 0], images[17, 4, 4, 0] = np.nan, 1.5
    np.save(tmp_path / "x.npy", images)
    out = tmp_path / "l.parquet"
    assert run("encode", tmp_path / "x.npy", "--out", out, "--batch", "6") == 3
    keep = [at for at in range(20) if at not in (3, 17)]
    assert ids_of(out) == keep
    np.testing.assert_allclose(latents_of(out), engine.encode(images[keep]), rtol=0, atol=1e-6)
    assert list(errors_of(out)) == ["3", "17"]


@pytest.mark.parametrize("name", ["l.parquet", "l.parquet/", "l.npy"])
def test_latents_in_every_format_decode_to_the_same_images(
    name: str, array: Path, images: np.ndarray, engine: Engine, tmp_path: Path
) -> None:
    made, back = f"{tmp_path}/{name}", tmp_path / "back.npy"
    assert run("encode", array, "--out", made, "--batch", "20") == 0
    assert run("decode", made, "--out", back, "--dtype", "float32") == 0
    wanted = engine.decode(engine.encode(images))
    np.testing.assert_allclose(np.load(back), wanted, rtol=0, atol=1e-6)
    metadata = json.loads((tmp_path / "back.npy.json").read_text())
    assert (metadata["kind"], metadata["fingerprint"]) == ("images", engine.fingerprint)


def test_latents_without_metadata_are_accepted_with_a_remark(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = np.random.default_rng(0).normal(size=(9, LATENT_SIZE))
    table = pa.table({"id": pa.array(range(9)), "embedding": list(latents)})  # lists of float64
    pq.write_table(table, tmp_path / "theirs.parquet")
    out = tmp_path / "i.npy"
    assert run("decode", tmp_path / "theirs.parquet", "--out", out) == 0
    wanted = engine.decode(latents.astype(np.float32), dtype="uint8")
    np.testing.assert_array_equal(np.load(out), wanted)
    assert "names no model" in capsys.readouterr().err


# --- outputs


def test_npy_with_its_neighbours(folder: Path, tmp_path: Path, engine: Engine) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    out = tmp_path / "l.npy"
    assert run("encode", folder, "--out", out) == 3
    latents = np.load(out)
    assert (latents.dtype, latents.shape) == (np.dtype(np.float32), (5, LATENT_SIZE))
    with (tmp_path / "l.npy.ids.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["id", *sorted(PICTURES)]
    assert json.loads((tmp_path / "l.npy.json").read_text())["fingerprint"] == engine.fingerprint
    assert list(errors_of(out)) == ["bad.png"]


def test_denoised_pictures_in_a_folder(
    folder: Path, images: np.ndarray, engine: Engine, tmp_path: Path
) -> None:
    Image.fromarray(images[7, ..., 0]).save(folder / "a.bmp")  # would also be a.png
    out = tmp_path / "clean"
    assert run("denoise", folder, "--out", out) == 0
    found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert found == {
        "a.png", "a.png.png", "deep/b.png", "deep/er/c.png", "d.png", "deep/e.png",
    }  # fmt: skip
    clean = engine.denoise(images, dtype="uint8")
    for name, at in [("deep/b.png", 1), ("a.png", 7), ("a.png.png", 0)]:
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), clean[at, ..., 0])
    assert run("encode", out, "--out", tmp_path / "again.parquet") == 0  # an output is an input


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(("denoise", "array"), "fixed_size_list<element: uint8>[64]"),
     (("denoise", "array", "--dtype", "float32"), "fixed_size_list<element: float>[64]"),
     (("denoise", "folder"), "binary"), (("decode", "latents"), "binary"),
     (("decode", "latents", "--dtype", "float32"), "fixed_size_list<element: float>[64]")],
)  # fmt: skip
def test_images_in_parquet(
    arguments: tuple[str, ...], kind: str, array: Path, folder: Path, tmp_path: Path
) -> None:
    latents = tmp_path / "l.npy"
    assert run("encode", array, "--out", latents) == 0
    paths = {"array": array, "folder": folder, "latents": latents}
    out = tmp_path / "i.parquet"
    given = [paths.get(argument, argument) for argument in arguments]
    assert run(*given, "--out", out) == 0
    assert str(pq.read_schema(out).field("image").type) == kind
    assert run("denoise", out, "--out", tmp_path / "twice.npy") == 0


def test_names_in_an_archive_stay_inside_the_folder(tmp_path: Path, images: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(images[0, ..., 0]).save(stream, "PNG")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../up.png", "/etc/root.png", "a/../../b.png"):
            archive.writestr(name, stream.getvalue())
    (tmp_path / "below").mkdir()
    out = tmp_path / "below" / "out"
    assert run("denoise", tmp_path / "evil.zip", "--out", out) == 0
    found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert found == {"up.png", "etc/root.png", "a/b.png"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "evil.zip"]


AWKWARD = {
    "numbers": pa.array([2**63 + 1, 2, None], pa.uint64()),
    "labels": pa.array(["cat", "dog", "cat", None]).dictionary_encode(),
    "decimals": pa.array([Decimal("7.50"), None, Decimal(1)], pa.decimal128(8, 2)),
    "bytes": pa.array([b"\xe9", b"ok", None]),
    "texts": pa.array(
        ["a\0b", "x" * 300, "é" * 150, "d/" * 900, "https://h/" + "q" * 280, "a.png", "a.png/b.png",
         "a.png/c/d.png", "A.png", "c\u0301.png", "\u0107.png", "", "/", "..", "//tmp/e.png",
         "denoiser.json/f", "b/g.png", "b", "b.png", None, "a.png", "a.png"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("name", ["i.parquet", "i.npy", "i/"])
def test_ids_that_no_file_name_can_hold(kind: str, name: str, tmp_path: Path) -> None:
    ids = AWKWARD[kind]
    latents = pa.array([[0.0] * LATENT_SIZE] * len(ids), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ids, "latent": latents}), tmp_path / "l.parquet")
    before = sorted(Path("/tmp").glob("e*.png"))
    assert run("decode", tmp_path / "l.parquet", "--out", f"{tmp_path}/{name}") == 0
    if name == "i.parquet":
        texts = {"bytes": ["\\xe9", "ok", None], "decimals": ["7.50", None, "1.00"]}
        assert ids_of(tmp_path / name) == texts.get(kind, ids.to_pylist())
    elif name == "i/":
        images = [path for path in (tmp_path / name).rglob("*.png") if path.is_file()]
        assert len(images) == len(ids)
        assert (tmp_path / name / "denoiser.json").is_file()
        assert kind == "texts" or (tmp_path / name / "image.png").is_file()  # of the null
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "l.parquet"
    assert sorted(Path("/tmp").glob("e*.png")) == before


def test_ids_of_no_kind_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = pa.array([[0.0] * LATENT_SIZE], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": [[1]], "latent": latents}), tmp_path / "l.parquet")
    assert run("decode", tmp_path / "l.parquet", "--out", tmp_path / "i.npy") == 1
    assert "column id of type list" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["l.parquet"]


def test_equal_names_take_linear_time(tmp_path: Path) -> None:
    """20,000 equal ids: each new file asks for few names, not for all before it."""
    result, numbers, calls = tmp_path / "r", Counter[Path](), 0
    result.mkdir()
    original = Path.exists

    def counted(self: Path, **options: Any) -> bool:
        nonlocal calls
        calls += 1
        return original(self, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", counted)
        for _ in range(500):
            outputs._free_path(result, "a.jpg", numbers).touch()
    assert len(list(result.iterdir())) == 500
    assert calls < 2000


def test_no_rows_are_an_answer_too(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.empty((0, 8, 8, 1), np.uint8))
    for name in ("l.parquet", "l.npy", "l/"):
        assert run("encode", tmp_path / "none.npy", "--out", f"{tmp_path}/{name}") == 0
    assert latents_of(tmp_path / "l.parquet").shape == (0, LATENT_SIZE)
    assert np.load(tmp_path / "l.npy").shape == (0, LATENT_SIZE)
    assert run("decode", tmp_path / "l.parquet", "--out", tmp_path / "i.npy") == 0
    assert np.load(tmp_path / "i.npy").shape == (0, 8, 8, 1)


# --- what is unreadable


@pytest.fixture
def noisy(folder: Path) -> Path:
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "large.png")
    return folder


def test_unreadable_files_are_listed_and_counted(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "l.parquet"
    assert run("encode", noisy, "--out", out) == 3
    assert errors_of(out) == {
        "bad.png": f"bytes that are not a whole image; expected one of {', '.join(FORMATS)}",
        "large.png": "an image of 9 × 9 pixels; expected 8 × 8",
    }
    assert ids_of(out) == sorted(PICTURES)
    assert f"2 rows could not be read: {out}.errors.csv" in capsys.readouterr().err
    (noisy / "bad.png").unlink()
    assert run("encode", noisy, "--out", out, "--fit", "stretch", "--overwrite") == 0
    assert ids_of(out) == sorted([*PICTURES, "large.png"])
    assert not Path(f"{out}.errors.csv").exists()


def test_further_frames_and_pages_are_counted_and_listed(
    folder: Path, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = (Image.fromarray(image[..., 0]) for image in images[:4])
    names = ["m.gif", "m.png", "m.tif", "m.webp"]
    for name in names:
        first.save(folder / name, save_all=True, append_images=others, lossless=True)
    (folder / "bad.png").write_bytes(b"no image")
    out = tmp_path / "l.parquet"
    for batch in ("100", "2"):
        command = ("encode", folder, "--out", out, "--batch", batch, "--overwrite")
        assert run(*command) == 3
        assert ids_of(out) == sorted([*PICTURES, *names])
        assert errors_of(out).keys() == {"bad.png", *names}
        assert errors_of(out)["m.tif"] == "read; skipped further frames or pages: 3"
        err = capsys.readouterr().err
        assert f"further frames or pages not read: 12: {out}.errors.csv" in err
        assert "1 row could not be read" in err
    (folder / "bad.png").unlink()
    assert run(*command, "--strict") == 0  # every row was read
    assert len(errors_of(out)) == 4


def test_strict_stops_and_keeps_what_is_done(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "l.parquet"
    arguments = ("encode", noisy, "--out", out, "--batch", "1")
    assert run(*arguments, "--strict") == 1
    assert "service: bad.png: bytes that are not a whole image" in capsys.readouterr().err
    assert not out.exists()
    assert "part-0000000.arrow" in {path.name for path in Journal(out).path.iterdir()}
    assert run(*arguments) == 3
    assert ids_of(out) == sorted(PICTURES)


# --- resuming


class StoppedError(Exception):
    pass


def interrupted(work: Any, units: Any, done: Any) -> None:
    """Do two units, then stop as a kill would."""
    pipeline.run(work, list(units)[:2], done)
    raise StoppedError


@pytest.fixture
def half_done(array: Path, tmp_path: Path, bundle_path: Path) -> Path:
    """An output of which two parts of five exist."""
    options = BulkOptions(
        operation="encode",
        input=str(array),
        out=str(tmp_path / "l.parquet"),
        bundle=bundle_path,
        batch=10,
    )
    with pytest.raises(StoppedError):
        job.run(options, runner=interrupted)
    return tmp_path / "l.parquet"


def test_the_same_command_continues(
    half_done: Path,
    array: Path,
    images: np.ndarray,
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = Journal(half_done).path / "part-0000000.arrow"
    before = first.stat().st_mtime_ns
    seen = []
    original = pipeline.run

    def watched(work: Any, units: Any, done: Any) -> None:
        seen.extend(units)
        assert first.stat().st_mtime_ns == before
        original(work, seen, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(command.RUNNERS, "local", watched)
        assert run("encode", array, "--out", half_done, "--batch", "10") == 0
    assert seen == [2, 3, 4]
    np.testing.assert_array_equal(latents_of(half_done), engine.encode(images))
    printed = capsys.readouterr()
    assert "continuing after 2 of 5 parts" in printed.err
    assert "50 rows, 20 of them before" in printed.out


@pytest.mark.parametrize(
    ("change", "named"),
    [("batch", "options.batch was 10, is now 20"), ("input", "input.stamp was"),
     ("operation", "input.name was"), ("model", "model was"), ("invert", "options.invert was")],
)  # fmt: skip
def test_another_job_does_not_use_the_parts(
    change: str,
    named: str,
    half_done: Path,
    array: Path,
    colour_bundle_path: Path,
    make_bundle: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments: list[str | Path] = ["encode", array, "--out", half_done, "--batch", "10"]
    if change == "batch":
        arguments[-1] = "20"
    elif change == "input":
        np.save(array, some_images(50, "uint8")[::-1])
    elif change == "operation":
        other = tmp_path / "other.npy"
        shutil.copy2(array, other)
        arguments[1] = other
    elif change == "model":
        arguments += ["--bundle", make_bundle(tmp_path / "other", seed=5)]
    else:
        arguments.append("--invert")
    assert run(*arguments) == 1
    message = capsys.readouterr().err
    assert named in message and "--overwrite" in message
    assert sorted(path.name for path in Journal(half_done).path.glob("part-*")) == [
        "part-0000000.arrow",
        "part-0000001.arrow",
    ]
    assert run(*arguments, "--overwrite") == 0
    assert len(ids_of(half_done)) == 50


def test_two_at_once(array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "l.parquet"
    with Journal(out).locked():
        assert run("encode", array, "--out", out) == 1
        assert "another process is writing" in capsys.readouterr().err
        assert Journal(out).path.is_dir()
    assert run("encode", array, "--out", out) == 0


def test_killed_after_the_last_rename(half_done: Path, array: Path, tmp_path: Path) -> None:
    """The output has its name, the parts are still there: nothing is left to do, once."""
    arguments = ("encode", array, "--out", half_done, "--batch", "10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: None)
        assert run(*arguments) == 0
    assert len(left_behind(tmp_path)) == 1
    before = half_done.stat().st_ino
    assert run(*arguments) == 0
    assert half_done.stat().st_ino == before
    assert left_behind(tmp_path) == []


def test_killed_between_the_renames_of_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean"
    assert run("denoise", folder, "--out", out) == 0
    (out / "mark").touch()
    journal = Journal(out)
    with pytest.MonkeyPatch.context() as patch:
        original = Path.replace

        def killed(self: Path, target: Path) -> Path:
            if self.name == "result":
                raise StoppedError
            return original(self, target)

        patch.setattr(Path, "replace", killed)
        with pytest.raises(StoppedError):
            run("denoise", folder, "--out", out, "--overwrite")
    assert not out.exists() and (journal.path / "retired" / "mark").exists()
    assert run("denoise", folder, "--out", out, "--overwrite") == 0
    assert not (out / "mark").exists() and (out / "a.png").exists()
    assert left_behind(tmp_path) == []


# --- an output that is there


def test_places_that_cannot_be_an_output(
    array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, latin = f"{'x' * 250}.npy", os.fsdecode(b"caf\xe9.npy")
    pipe = tmp_path / "pipe.npy"  # a device is as little to be replaced
    os.mkfifo(pipe)
    for out in (".", "", "/", "..", f"{array}/x.npy", "/proc/x.npy", str(pipe), long, latin):
        assert run("denoise", array, "--out", out, "--overwrite") == 1, out
        assert capsys.readouterr().err.startswith("service: "), out
    assert {path.name for path in tmp_path.iterdir()} == {array.name, pipe.name}
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["link", "link.npy"])
@pytest.mark.parametrize("made", [True, False])
def test_a_link_is_replaced_when_asked_and_what_it_names_stays(
    made: bool, name: str, array: Path, tmp_path: Path
) -> None:
    elsewhere, link = tmp_path / f"elsewhere{Path(name).suffix}", tmp_path / name
    if made and name == "link":
        elsewhere.mkdir()
    elif made:
        elsewhere.write_bytes(b"mine")
    link.symlink_to(elsewhere)
    assert run("denoise", array, "--out", link) == 1
    assert link.is_symlink()
    assert run("denoise", array, "--out", link, "--overwrite") == 0
    assert link.exists() and not link.is_symlink()
    assert elsewhere.exists() == made
    if made and name == "link.npy":
        assert elsewhere.read_bytes() == b"mine"


def test_an_output_is_not_replaced_unasked(
    array: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "l.parquet"
    out.write_bytes(b"precious")
    assert run("encode", array, "--out", out) == 1
    assert "l.parquet exists" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert left_behind(tmp_path) == []
    assert run("encode", array, "--out", out, "--overwrite") == 0
    assert len(ids_of(out)) == 50


def test_appending_adds_a_part_file(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "l"
    first, second = out / "part-00000.parquet", out / "part-00001.parquet"
    assert run("encode", folder, "--out", f"{out}/", "--append") == 0
    content = first.read_bytes()
    (folder / "a.png").rename(folder / "b.png")
    assert run("encode", folder, "--out", f"{out}/", "--append") == 0
    assert sorted(out.iterdir()) == [first, second]
    assert first.read_bytes() == content
    assert ids_of(second) == sorted(["b.png", *PICTURES[1:]])
    assert pq.read_schema(second).equals(pq.read_schema(first), check_metadata=True)
    assert left_behind(tmp_path) == []


def test_appending_arrays_continues_the_row_numbers(
    array: Path, images: np.ndarray, engine: Engine, tmp_path: Path
) -> None:
    out = tmp_path / "l"
    for _ in range(3):
        assert run("encode", array, "--out", f"{out}/", "--append") == 0
    assert ids_of(out) == list(range(150))
    latents = engine.encode(images)
    np.testing.assert_array_equal(latents_of(out), np.concatenate([latents] * 3))


def test_latents_of_two_models_are_kept_apart(
    array: Path,
    make_bundle: Any,
    engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_bundle(tmp_path / "other", seed=5)
    theirs = Engine.load(other, threads=1).fingerprint
    out = f"{tmp_path}/l/"
    part = tmp_path / "l" / "part-00000.parquet"
    assert run("encode", array, "--out", out) == 0
    content = part.read_bytes()
    for arguments in (
        ("encode", array, "--out", out, "--append"),
        ("decode", out, "--out", tmp_path / "i.npy"),
    ):
        assert run(*arguments, "--bundle", other) == 1
        message = capsys.readouterr().err
        assert engine.fingerprint in message and theirs in message
        assert "Traceback" not in message
    assert part.read_bytes() == content
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    assert run("encode", array, "--out", mixed / "1.parquet") == 0
    assert run("encode", array, "--out", mixed / "2.parquet", "--bundle", other) == 0
    assert run("decode", mixed, "--out", tmp_path / "i.npy") == 1
    message = capsys.readouterr().err
    assert engine.fingerprint in message and theirs in message
    with pytest.raises(SystemExit):
        run("decode", mixed)
    assert run("info", mixed) == 1


def test_appending_what_does_not_match(
    array: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "l"
    assert run("encode", array, "--out", f"{out}/") == 0
    assert run("encode", folder, "--out", out, "--append") == 1
    assert "expected id string" in capsys.readouterr().err
    pq.write_table(pa.table({"id": [1]}), out / "part-00001.parquet")
    assert run("encode", array, "--out", out, "--append") == 1
    assert "which names no model" in capsys.readouterr().err


# --- scores


@pytest.fixture
def scoring(bundle_copy: Path) -> Path:
    """A bundle whose score is an image's largest value: simple, and its own for each image."""
    shutil.copy(DATA / "models" / "largest.onnx", bundle_copy / NOVELTY)
    (bundle_copy / MANIFEST).unlink()
    seal(bundle_copy, novelty={"float32": {"method": "largest"}})
    return bundle_copy


@pytest.mark.parametrize("name", ["l/", "l.npy"])
def test_scores_lie_beside_their_rows(
    name: str, scoring: Path, array: Path, images: np.ndarray, tmp_path: Path
) -> None:
    wanted = images.reshape(50, -1).max(axis=1) / np.float32(255)
    out = f"{tmp_path}/{name}"
    arguments = ("encode", array, "--bundle", scoring, "--score", "--batch", "20")
    assert run(*arguments, "--out", out) == 0
    if name == "l/":
        table = pq.read_table(out)
        assert table.schema.field("score").type == pa.float32()
        found = np.asarray(table.column("score").combine_chunks())
        assert run(*arguments[:4], "--out", out, "--append") == 1  # other columns
    else:
        with (tmp_path / "l.npy.ids.csv").open(newline="") as file:
            found = np.array([np.float32(row["score"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert run("decode", out, "--bundle", scoring, "--out", tmp_path / "back.npy") == 0


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("encode", "{array}", "--out", "{t}/l.txt"), "ends in .parquet, .npy or /"),
     (("encode", "{array}", "--out", "{t}/l"), "ends in .parquet, .npy or /"),
     (("denoise", "{array}", "--out", "{t}/l.csv"), "ends in .parquet or .npy"),
     (("encode", "{array}", "--out", "l.csv"), "COPY (FROM 'l.parquet') TO 'l.csv'"),
     (("encode", "{t}/none", "--out", "{t}/l.npy"), "expected a file or a folder"),
     (("encode", "{array}", "--out", "{array}/l.npy"), "Not a directory"),
     (("encode", "{t}", "--out", "{t}/l.npy"), "no images in"),
     (("decode", "{array}", "--out", "{t}/l.npy"), "of dtype uint8"),
     (("decode", "{folder}", "--out", "{t}/l.npy"), "image files in"),
     (("encode", "{folder}/notes.txt", "--out", "{t}/l.npy"), "a folder, .zip or .tar"),
     (("encode", "{array}", "--out", "{t}/l.npy", "--append"), "no folder of Parquet"),
     (("encode", "{array}", "--out", "{t}/l.parquet", "--append"), "(--out latents/)"),
     (("encode", "{array}", "--out", "{t}/l/", "--append", "--overwrite"), "--overwrite"),
     (("encode", "{t}/numbers.parquet", "--out", "{t}/l/", "--batch", "2"), "row groups"),
     (("denoise", "{array}", "--out", "{t}/l/", "--dtype", "float32"), "for PNG files"),
     (("denoise", "{array}", "--out", "{t}/l/", "--score"), "--score for PNG files"),
     (("encode", "{array}", "--out", "{t}/l.npy", "--score"), "a score from the bundle grey"),
     (("encode", "{array}", "--out", "{t}/l.npy", "--score", "--url", "http://x"), "with --url"),
     (("encode", "{array}", "--out", "{t}/l.npy", "--url", "http://a:b"), "--url http://a:b"),
     (("encode", "{array}", "--out", "{folder}/", "--overwrite"), "other files in it"),
     (("encode", "{array}", "--out", "{t}/l.npy", "--bundle", "{t}/none"), "expected a bundle"),
     (("encode", "{array}", "--out", "{t}/l.npy", "--precision", "int8"), "does not have"),
     (("encode", "{t}/broken.npy", "--out", "{t}/l.npy"), "is not an .npy array"),
     (("encode", "{t}/short.npy", "--out", "{t}/l.npy"), "bytes of data"),
     (("encode", "{t}/wide.npy", "--out", "{t}/l.npy"), "images of shape (2, 9, 9, 1)"),
     (("encode", "{t}/double.npy", "--out", "{t}/l.npy"), "of dtype float64"),
     (("encode", "{t}/broken.npz", "--out", "{t}/l.npy"), "does not read"),
     (("encode", "{t}/broken.zip", "--out", "{t}/l.npy"), "a whole zip or tar"),
     (("encode", "{t}/broken.tar", "--out", "{t}/l.npy"), "a whole zip or tar"),
     (("encode", "{t}/broken.parquet", "--out", "{t}/l.npy"), "is no Parquet file"),
     (("encode", "{t}/numbers.parquet", "--out", "{t}/l.npy"), "a column of images"),
     (("decode", "{t}/latents.csv", "--out", "{t}/l.npy"), "TO 'latents.parquet'")],
)  # fmt: skip
def test_refusals_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    array: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = tmp_path / "t"
    base.mkdir()
    for kind in ("npy", "npz", "zip", "tar", "parquet"):
        (base / f"broken.{kind}").write_bytes(b"no such thing" * 100)
    (base / "short.npy").write_bytes(array.read_bytes()[:-1])
    np.save(base / "wide.npy", np.zeros((2, 9, 9, 1), np.uint8))
    np.save(base / "double.npy", np.zeros((2, 8, 8, 1)))
    pq.write_table(pa.table({"a": [1]}), base / "numbers.parquet")
    (base / "latents.csv").write_text("id,l0,l1,l2,l3\n1,2,3,4,5\n")
    before = sorted(path.name for path in base.iterdir())
    if arguments[1] == "{t}":
        (base / "empty").mkdir()
        arguments = (arguments[0], str(base / "empty"), *arguments[2:])
        before = sorted([*before, "empty"])
    values = {"t": base, "array": array, "folder": folder}
    assert run(*(argument.format(**values) for argument in arguments)) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("service: ") and message in err[-1], err
    assert sorted(path.name for path in base.iterdir()) == before


def test_info_of_every_output(
    array: Path, tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("l.parquet", "l.npy", "l/", "i/", "i.parquet/"):
        out = f"{tmp_path}/{name}"
        operation = "encode" if name[0] == "l" else "denoise"
        assert run(operation, array, "--out", out) == 0
        capsys.readouterr()
        assert run("info", out) == 0
        output = capsys.readouterr().out
        kind = "latents" if name[0] == "l" else "images"
        for part in ("50 ", f"kind         {kind}", engine.fingerprint, "grey, float32"):
            assert part in output, name
    assert run("info", array) == 0
    assert "not named" in capsys.readouterr().out
