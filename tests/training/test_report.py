"""The report: one whole file, safe with any name, that shows what was measured."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.trained import Trained, trained  # noqa: F401
from training.backend import load_tensorflow

load_tensorflow()

from training.errors import SettingsError  # noqa: E402
from training.evaluation.assess import Assessment, assess  # noqa: E402
from training.evaluation.summary import summarise  # noqa: E402
from training.report import page  # noqa: E402

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = "<b>x</b> & \"quoted\" $a_1$ '{{ 1 }}'"


class Page(HTMLParser):
    """Notes tags, attributes and text, and that every tag that opens is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style"} & set(self.open):
            self.text += f"{data} "

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def alone(trained: Trained) -> Assessment:  # noqa: F811
    return assess([trained.one], dataset=trained.data, levels=[0.5, 1])


@pytest.fixture(scope="module")
def both(trained: Trained) -> Assessment:  # noqa: F811
    return assess([trained.one, trained.other], dataset=trained.data, levels=[0.5, 1])


@pytest.fixture(scope="module")
def text(alone: Assessment) -> str:
    return page.render(alone, summarise(alone))


def test_it_needs_nothing_else(text: str) -> None:
    parsed = Page(text)
    assert text.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None and value.startswith(("data:image/png;base64,", "#"))
    assert "@import" not in text and "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text


def test_it_shows_the_figures_of_the_summary(text: str, alone: Assessment) -> None:
    shown = " ".join(Page(text).text.split())
    summary = summarise(alone)
    run = summary["runs"][0]
    low, high = run["output_intervals"]["psnr"]
    for part in (
        f"{run['output']['psnr']:.2f}", f"{low:.2f} to {high:.2f}",
        f"{summary['input']['ssim']:.3f}", f"+{run['gain']['psnr']['mean']:.2f}",
        f"{run['latents']['noisy']['probe']['mean'] * 100:.1f}",
        f"{run['levels'][0]['psnr']['mean']:.2f}", f"{run['worst'][0]['psnr']:.1f} dB",
        "gaussian:0.2,0.125", "latent size 5", "learning rate 0.01", "tf.image.psnr",
    ):  # fmt: skip
        assert part in shown, part


def test_its_pictures_are_the_images(text: str, alone: Assessment) -> None:
    pictures = Page(text).of("img")
    assert len(pictures) == 3 * (12 + 8 + 8)
    place = alone.shown.index(alone.worst[0])
    source = next(p for p in pictures if p["alt"] == f"clean image {alone.worst[0]}")["src"]
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        drawn = np.asarray(picture)
    np.testing.assert_array_equal(drawn, np.rint(alone.clean[place, ..., 0] * 255))


def test_pictures_in_colour_are_made_small() -> None:
    image = np.random.default_rng(0).random((400, 200, 3), dtype=np.float32)
    body = base64.b64decode(page.data_uri(image).partition(",")[2])
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.mode == "RGB" and picture.size == (page.MAX_SIDE // 2, page.MAX_SIDE)


def test_a_comparison_names_every_run_and_pairs_them(both: Assessment) -> None:
    summary = summarise(both)
    parsed = Page(page.render(both, summary))
    shown = " ".join(parsed.text.split())
    found = summary["runs"][1]["difference"]["psnr"]
    signed = page.fixed(found["mean"], 2, signed=True)
    assert shown.count(signed) >= 2 and "Paired: each image's value" in shown
    assert "Differences to one" in shown
    assert len(parsed.of("img")) == 4 * (12 + 8 + 8)
    assert len(parsed.of("svg")) == 4  # two curves, two maps


def test_names_from_outside_are_text(both: Assessment) -> None:
    scores = [
        dataclasses.replace(score, name=HOSTILE + str(k)) for k, score in enumerate(both.scores)
    ]
    held = dataclasses.replace(both.held, source=HOSTILE)
    hostile = dataclasses.replace(both, scores=scores, held=held, no_latents=HOSTILE)
    parsed = Page(page.render(hostile, summarise(hostile)))
    assert parsed.text.count(HOSTILE) > 8
    assert all(tag != "b" or not attributes for tag, attributes in parsed.tags)


def test_it_copes_with_what_is_missing(trained: Trained) -> None:  # noqa: F811
    bare = assess([trained.one], levels=[])
    shown = Page(page.render(bare, summarise(bare))).text
    assert "Not measured: training images and labels are not known" in shown
    assert "By noise level" not in shown


def test_classical_denoisers_are_ranked(trained: Trained) -> None:  # noqa: F811
    pytest.importorskip("skimage", reason="the extra `evaluate` is not installed")
    found = assess([trained.one], dataset=trained.data, levels=[], classical=["median", "tv"])
    summary = summarise(found)
    shown = " ".join(Page(page.render(found, summary)).text.split())
    for method in summary["classical"]["methods"]:
        assert f"{method['psnr']['mean']:.2f}" in shown and method["source"] in shown
    rows = [row["psnr"]["mean"] for row in page._ranking(summary)]
    assert rows == sorted(rows, reverse=True) and len(rows) == 4


def test_it_is_written_whole_or_not_at_all(
    alone: Assessment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    target.write_text("the old one")
    summary = summarise(alone)

    def full(self: Path, text: str, **options: Any) -> int:
        with self.open("w") as file:
            file.write(text[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SettingsError, match="No space left on device"):
            page.write_report(alone, summary, target)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "the old one"
    assert page.write_report(alone, summary, target) == target
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no" / "report.html"):
        with pytest.raises(SettingsError, match="expected a file to write in an existing folder"):
            page.require_place(place)


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [(1.255, False, "1.25"), (-0.5, False, "−0.50"), (0.5, True, "+0.50"), (None, True, "—")],
)
def test_numbers_are_written_for_people(value: float, signed: bool, expected: str) -> None:
    assert page.fixed(value, 2, signed=signed) == expected
