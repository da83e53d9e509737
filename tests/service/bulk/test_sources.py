"""Sources: units in any order, listings that sort on disk, pictures of every kind."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from common.cores import usable_cores
from common.errors import DenoiserError
from service.bulk.batch import Source
from service.bulk.decoding import imagefile, pictures
from service.bulk.errors import reason
from service.bulk.options import BulkOptions
from service.bulk.sources.arrays import unit_rows
from service.bulk.sources.files import Folder
from service.bulk.sources.listing import Entry, Listing
from service.bulk.sources.opening import open_source
from service.bundle import Bundle
from service.codecs import png
from service.codecs.rows import RowSpec
from tests.support.paths import DATA, ROOT
from tests.support.tiny import GREY, some_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SPEC = RowSpec("images", GREY)
MODEL = Bundle.open(DATA / "bundles" / "grey").manifest


def source(path: Path, scratch: Path, *, operation: str = "encode", **options: Any) -> Source:
    given = BulkOptions(
        operation=operation,  # type: ignore[arg-type]
        input=str(path),
        out=str(scratch / "out.parquet"),
        bundle=Path("none"),
        **options,
    )
    return open_source(given, MODEL, scratch=scratch)


# --- any order


@pytest.fixture(params=["npy", "npz", "folder", "tar.gz", "parquet", "pngs"])
def several(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """The same 30 rows in every kind of input, in units of 4."""
    kind, images = request.param, some_images(30, "uint8")
    path = tmp_path / f"x.{kind}"
    bodies = {f"{at:03d}.png": png.encode(image) for at, image in enumerate(images)}
    if kind == "npy":
        np.save(path, images)
    elif kind == "npz":
        np.savez_compressed(path, images=images)
    elif kind == "folder":
        path.mkdir()
        for name, body in bodies.items():
            (path / name).write_bytes(body)
    elif kind == "tar.gz":
        with tarfile.open(path, "w:gz") as archive:
            for name, body in bodies.items():
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    else:
        path = tmp_path / "x.parquet"
        column = (
            pa.array(list(bodies.values()))
            if kind == "pngs"
            else pa.array(list(images.reshape(30, -1)), pa.list_(pa.uint8()))
        )
        pq.write_table(pa.table({"image": column}), path, row_group_size=4)
        return source(path, tmp_path)
    return source(path, tmp_path, batch=4)


def test_units_are_the_same_in_any_order(several: Source) -> None:
    assert several.total == 30
    forth = [several.read(unit) for unit in range(several.units)]
    assert sum(len(batch.rows) for batch in forth) == 30
    assert max(len(batch.rows) for batch in forth) == 4
    for unit in np.random.default_rng(0).permutation(several.units).tolist():
        again = several.read(unit)
        assert again.ids.equals(forth[unit].ids)
        np.testing.assert_array_equal(again.rows, forth[unit].rows)
    together = np.concatenate([batch.rows for batch in forth])
    np.testing.assert_array_equal(together, some_images(30, "uint8"))
    several.close()


def test_a_compressed_tar_is_read_forward_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        for at, image in enumerate(some_images(200, "uint8")):
            body = png.encode(image)
            member = tarfile.TarInfo(f"{at}.png")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    opened = source(tmp_path / "x.tgz", tmp_path, batch=90)

    def rewind(self: gzip.GzipFile) -> None:
        raise AssertionError("the archive is decompressed again from its beginning")

    monkeypatch.setattr(gzip._GzipReader, "_rewind", rewind)
    rows = [opened.read(unit).rows for unit in range(opened.units)]
    np.testing.assert_array_equal(np.concatenate(rows), some_images(200, "uint8"))


@pytest.mark.parametrize(
    ("row_bytes", "rows"), [(784, 16_384), (3136, 4096), (64, 65_536), (2**30, 1), (0, 65_536)]
)
def test_units_of_arrays_are_bounded(row_bytes: int, rows: int) -> None:
    assert unit_rows(row_bytes) == rows


# --- listings


def test_a_listing_gives_back_its_entries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"ä {number}\n{number % 7}/x.png" for number in rng.permutation(1000)]
    entries = [Entry(name, len(name), -at) for at, name in enumerate(names)]
    entries[500] = Entry(os.fsdecode(b"not utf-8 \xe9.png"), 5, 2**62)
    listing = Listing(tmp_path / "l", iter(entries), group=300)
    assert (listing.total, listing.groups) == (1000, 4)
    assert [e for group in range(4) for e in listing.group(group)] == entries
    assert Listing(tmp_path / "m", entries, group=300).digest == listing.digest
    touched = [entries[0]._replace(stamp=1), *entries[1:]]
    assert Listing(tmp_path / "n", touched, group=300).digest != listing.digest


def test_a_folder_is_listed_in_the_order_of_whole_names(tmp_path: Path) -> None:
    names = ["a/x.png", "a-b/x.png", "a.png", "a/b/c.png", "a/b.png", "a0/x.png", "a/b-c/x.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [entry.name for entry in Folder(tmp_path).entries()] == sorted(names)


def test_names_that_are_no_text_become_ids_that_are(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (root / name).write_bytes(png.encode(some_images(1, "uint8")[0]))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    batch = source(root, tmp_path).read(0)
    assert batch.ids.to_pylist() == ["caf\\xe9.png"]
    assert len(batch.rows) == 1


def test_linked_folders_are_left_out_and_linked_files_read(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.png").write_bytes(png.encode(some_images(1, "uint8")[0]))
    (root / "a" / "loop").symlink_to(root)
    (root / "y.png").symlink_to(root / "a" / "x.png")
    folder = Folder(root)
    assert [entry.name for entry in folder.entries()] == ["a/x.png", "y.png"]
    assert folder.skipped == 1


def test_a_pipe_and_a_folder_named_as_images_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    names = [str(tmp_path / "pipe.png"), str(tmp_path / "folder.png"), "/dev/zero"]
    options = BulkOptions(operation="encode", input="-", out="x.npy", bundle=Path("none"))
    opened = open_source(options, MODEL, scratch=tmp_path, names=names)
    reasons = {failure.id: failure.reason for failure in opened.read(0).failures}
    assert set(reasons.values()) == {"not a regular file"} and list(reasons) == names


# --- pictures


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "L"), ("PNG", "RGBA"), ("BMP", "L"), ("BMP", "RGB"), ("BMP", "P"), ("BMP", "1"),
     ("GIF", "L"), ("GIF", "P"), ("TIFF", "L"), ("TIFF", "RGB"), ("TIFF", "1"), ("TIFF", "I;16"),
     ("TIFF", "RGBA"), ("TIFF", "LA"), ("TIFF", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA"),
     ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK")],
)  # fmt: skip
def test_every_format_is_converted_as_png_is(form: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (2, 2), dtype=np.uint8), np.ones((4, 4), np.uint8))
    image = Image.fromarray(smooth)
    image = (
        Image.fromarray(smooth.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    )
    body = saved(image, form, **({"lossless": True} if form == "WEBP" else {}))
    (found,), _ = imagefile.decode_some([body], SPEC)
    (wanted,) = png.decode(saved(image if mode != "CMYK" else image.convert("RGB"), "PNG"), SPEC)
    tolerance = 12 if form == "JPEG" else 1
    assert np.abs(found.astype(int) - wanted).max() <= tolerance


def test_the_first_frame_and_the_right_way_up() -> None:
    first, second = (Image.fromarray(image[..., 0]) for image in some_images(2, "uint8"))
    moving = saved(first, "TIFF", save_all=True, append_images=[second])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° clockwise to be seen
    rows, reasons = imagefile.decode_some([moving, saved(first, "TIFF", exif=exif)], SPEC)
    np.testing.assert_array_equal(rows[0, ..., 0], np.asarray(first))
    np.testing.assert_array_equal(rows[1, ..., 0], np.rot90(np.asarray(first), -1))
    assert reasons == [(0, 1)]


def test_guards_look_at_sizes_before_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusals(*bodies: bytes, **settings: Any) -> list[Any]:
        return [why for _, why in imagefile.decode_some(bodies, SPEC, **settings)[1]]

    huge = [saved(Image.new("1", (5000, 4000)), form) for form in ("PNG", "TIFF")]
    assert refusals(*huge) == ["an image of 5000 × 4000 pixels; expected 8 × 8"] * 2
    assert all("at most 16,777,216 pixels" in why for why in refusals(*huge, fit="contain"))
    floats = saved(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF")
    assert refusals(floats[:100])[0].startswith("bytes that are not a whole image")
    monkeypatch.setattr(imagefile, "MAX_BYTES", 100)
    assert refusals(b"x" * 101) == ["an image file of 101 bytes; expected at most 100"]


def test_reasons_are_one_line() -> None:
    assert reason(OSError(13, "Permission denied")) == "Permission denied"
    assert reason(ValueError("two\nlines")) == "ValueError: two lines"
    assert reason(DenoiserError("a cat", expected="a dog", hint="")) == "a cat; expected a dog"


# --- decoder processes


def crashing(items: list[Any], spec: RowSpec, **settings: Any) -> pictures.Decoded:
    """`decode_some` in a process that ends at one file, as Pillow might at a hostile one."""
    for item in items:
        if Path(item).read_bytes() == b"die":
            os._exit(9)
    return imagefile.decode_some(items, spec, **settings)


def test_processes_decode_as_threads_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for at, image in enumerate(some_images(100, "uint8")):
        (root / f"{at:03d}.png").write_bytes(png.encode(image)[: 40 if at == 70 else None])
    wanted = source(root, tmp_path).read(0)
    monkeypatch.setattr(pictures, "PROCESSES_MIN_IMAGES", 0)
    me = psutil.Process()
    before = set(me.children())  # of other tests
    opened = source(root, tmp_path)
    found = opened.read(0)
    assert 1 <= len(set(me.children()) - before) <= usable_cores() + 1  # and a resource tracker
    opened.close()
    ended = [
        child for child in set(me.children()) - before if "tracker" not in str(child.cmdline())
    ]
    assert ended == []
    assert found.ids.equals(wanted.ids) and len(found.rows) == 99
    np.testing.assert_array_equal(found.rows, wanted.rows)
    assert found.failures == wanted.failures and len(found.failures) == 1


def test_a_file_that_ends_its_decoder_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for at, image in enumerate(some_images(70, "uint8")):
        (root / f"{at:03d}.png").write_bytes(b"die" if at == 40 else png.encode(image))
    monkeypatch.setattr(pictures, "PROCESSES_MIN_IMAGES", 0)
    monkeypatch.setattr(pictures, "decode_some", crashing)
    opened = source(root, tmp_path)
    found = opened.read(0)
    opened.close()
    assert [failure.id for failure in found.failures] == ["040.png"]
    assert found.failures[0].reason == "the decoder process crashed"
    np.testing.assert_array_equal(found.rows, np.delete(some_images(70, "uint8"), 40, axis=0))


# --- without pyarrow

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            asked.append(name)
            raise ImportError("pyarrow is blocked", name=name)

asked = []
sys.meta_path.insert(0, Blocker())
import service.app
from service.__main__ import main
assert not asked, asked
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_serving_and_info_need_no_pyarrow(bundle_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", some_images(3))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = run("info", bundle_path)
    assert done.returncode == 0, done.stderr
    done = run("encode", tmp_path / "x.npy", "--out", tmp_path / "l.npy", "--bundle", bundle_path)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert "pyarrow" in line and "`bulk`" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]
