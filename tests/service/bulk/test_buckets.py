"""Inputs behind URLs, on `file://`: the one file system of Arrow that needs no network."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.__main__ import main
from service.bulk.sources.buckets import Bucket
from service.codecs import png
from tests.support.tiny import LATENT_SIZE, some_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def environment(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISER_BUNDLE", str(bundle_path))
    monkeypatch.setenv("DENOISER_THREADS", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in two folders; one broken; what is hidden, and what is none."""
    root = tmp_path / "in"
    for at, image in enumerate(some_images(12, "uint8")):
        path = root / ("b" if at % 2 else "a c") / f"{at:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png.encode(image)[: 40 if at == 5 else None])
    (root / "notes.txt").write_text("no image")
    for hidden in (root / ".cache", root / "b/.x"):
        hidden.mkdir()
        (hidden / "x.png").write_bytes(b"no image")
    return root


def test_a_folder_gives_what_its_path_gives(folder: Path, tmp_path: Path) -> None:
    for name, source in [("path", str(folder)), ("url", folder.as_uri() + "/")]:
        given = ["encode", source, "--out", str(tmp_path / f"{name}.parquet"), "--batch", "5"]
        assert main(given) == 3
    by_path, by_url = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("path", "url"))
    assert by_url.num_rows == 11
    assert by_url.equals(by_path, check_metadata=True)
    errors = [(tmp_path / f"{name}.parquet.errors.csv").read_text() for name in ("path", "url")]
    assert errors[0] == errors[1]


def test_files_that_changed_since_they_were_listed_are_refused(folder: Path) -> None:
    with closing(Bucket(folder.as_uri())) as bucket:
        entries = list(bucket.entries())
        assert bucket.skipped == 1
        (folder / entries[0].name).write_bytes(b"longer, or shorter")
        with pytest.raises(OSError, match="changed"):
            bucket.fetch(entries[0])


@pytest.mark.parametrize("whole", [True, False])
def test_parquet(tmp_path: Path, whole: bool) -> None:
    images = some_images(40, "uint8")
    parts = tmp_path / "in put"
    parts.mkdir()
    for at, some in enumerate((images[:30], images[30:])):
        column = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), 64)
        pq.write_table(pa.table({"image": column}), parts / f"{at}.parquet")
    source = parts if whole else parts / "1.parquet"
    for name, given in [("path", str(source)), ("url", source.as_uri())]:
        assert main(["encode", given, "--out", f"{tmp_path}/{name}.parquet"]) == 0
    by_path, by_url = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("path", "url"))
    assert by_url.num_rows == (40 if whole else 10)
    assert by_url.equals(by_path)


def test_latents_of_another_model_are_refused(
    tmp_path: Path, colour_bundle_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", some_images(5))
    latents = tmp_path / "l.parquet"
    assert main(["encode", str(tmp_path / "in.npy"), "--out", str(latents)]) == 0
    given = ["decode", latents.as_uri(), "--out", str(tmp_path / "images.npy")]
    assert main(given) == 0
    assert np.load(tmp_path / "images.npy").shape == (5, 8, 8, 1)
    assert pq.read_schema(latents).field("latent").type.list_size == LATENT_SIZE
    again = [*given, "--overwrite", "--bundle", str(colour_bundle_path)]
    assert main(again) == 1
    assert "fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("gopher://host/images", "l.npy", "s3://bucket/folder"),
        ("file:///no/such/folder", "l.npy", "nothing at file:///no/such/folder"),
        ("{folder}/notes.txt", "l.npy", "folder of it or of image files"),
        ("{folder}", "s3://bucket/l.parquet", "written to this machine"),
    ],
)
def test_refusals(
    source: str,
    out: str,
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["encode", source.format(folder=folder.as_uri()), "--out", out]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
