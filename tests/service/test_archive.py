"""Zips of PNGs: names that can do no harm, bytes that depend on the images alone."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs import archive, png
from service.codecs.rows import RowSpec
from service.codecs.steps import finish


def some(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 3, 1), dtype=np.uint8)


def names_of(names: Sequence[str]) -> list[str]:
    packed = finish(archive.encode(some(len(names)), names))
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        return opened.namelist()


def test_equal_names_are_numbered_in_linear_time() -> None:
    """Each number is tried once: 20,000 names took 24 seconds."""
    names = [f"a-{number:05d}.png" for number in range(10_000, 20_000)] + ["a.png"] * 10_000
    began = time.process_time()
    unique = archive._file_names(len(names), names)
    assert len(set(unique)) == len(names)
    assert unique[9_999:10_002] == ["a-19999.png", "a.png", "a-20000.png"]
    assert time.process_time() - began < 5


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_images_come_back_in_order(count: int) -> None:
    images = some(count)
    with zipfile.ZipFile(io.BytesIO(finish(archive.encode(images)))) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [f"{n:05d}.png" for n in range(count)]
        for image, name in zip(images, opened.namelist(), strict=True):
            found = png.decode(opened.read(name), RowSpec("images", (4, 3, 1)))
            np.testing.assert_array_equal(found[0], image)


@pytest.mark.parametrize(
    ("given_name", "stored"),
    [
        ("a.png", "a.png"),
        ("a.PNG", "a.png"),
        ("a", "a.png"),
        ("a.tar.gz", "a.tar.png"),
        ("ü 数.png", "ü 数.png"),
        ("", "00000.png"),
        (".", "00000.png"),
        ("..", "00000.png"),
        ("../../etc/passwd", "passwd.png"),
        ("/etc/passwd", "passwd.png"),
        ("C:\\Windows\\win.ini", "win.png"),
        ("C:evil.png", "C_evil.png"),
        ("a/../..", "00000.png"),
        ("...png", "00000.png"),
        (".hidden", "hidden.png"),
        ("a\0b.png", "a_b.png"),
        ("a\nb.png", "a_b.png"),
        ("a:b*c?d|e.png", "a_b_c_d_e.png"),
        ("\u202egnp.exe", "_gnp.png"),
        ("x" * 5000 + ".png", "x" * 100 + ".png"),
        ("   ", "00000.png"),
        ("dir/", "dir.png"),
    ],
)
def test_names_are_made_safe(given_name: str, stored: str) -> None:
    assert names_of([given_name]) == [stored]


@pytest.mark.parametrize(
    "names",
    [
        ["a.png"] * 5,
        ["a.png", "A.PNG", "b/a.jpg"],
        ["", "00000.png", "00001.png", ""],
        ["a", "a-00002", "a"],
        ["a-00001", "a-00001", "a", "a"],
        ["x" * 200, "x" * 201, "x" * 100],
        ["ß", "SS", "ss"],
    ],
)
def test_no_two_files_share_a_name_whatever_the_case(names: list[str]) -> None:
    found = names_of(names)
    assert len({name.lower() for name in found}) == len(names)


@given(st.lists(st.text(max_size=200) | st.sampled_from(["a", "a-00001", "A", ""]), max_size=6))
def test_any_names_unpack_beside_nothing(names: list[str]) -> None:
    found = names_of(names)
    assert len({name.lower() for name in found}) == len(names)
    for name in found:
        assert name.endswith(".png") and len(name) > 4
        assert not set(name) & set('/\\:\0*?"<>|')
        assert not name.startswith(".")
        assert len(name.encode()) <= 255  # what file systems take


def test_long_names_of_other_scripts_unpack(tmp_path: Path) -> None:
    with zipfile.ZipFile(
        io.BytesIO(finish(archive.encode(some(2), ["数" * 300, "🙂" * 300])))
    ) as opened:
        opened.extractall(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_names_that_do_not_match_the_images_are_left_out() -> None:
    with zipfile.ZipFile(io.BytesIO(finish(archive.encode(some(2), ["a"])))) as opened:
        assert opened.namelist() == ["00000.png", "00001.png"]


def test_the_same_images_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = finish(archive.encode(some(3), ["a", "b", "c"]))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert finish(archive.encode(some(3), ["a", "b", "c"])) == first
