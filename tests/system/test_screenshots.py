"""`make screenshots` gives pictures of the page, and the README's are of the same kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="playwright is not installed")

from tests.support import screenshots
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def test_the_three_pictures_are_made(tmp_path: Path) -> None:
    screenshots.main(tmp_path)
    levels = {}
    for name in screenshots.SHOTS:
        made, kept = (opened(where / f"playground-{name}.png") for where in (tmp_path, DOCS))
        assert made.size == kept.size
        grey = made.convert("L")
        assert len(grey.getcolors(256) or []) > 50, "a page, not a blank"
        levels[name] = grey.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert levels["desktop"] > 150 > 100 > levels["dark"]
