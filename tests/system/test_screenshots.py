"""`make screenshots` writes screenshots of the same sizes as those in docs/."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="playwright is not installed")

from tests.support import screenshots
from tests.support.paths import ROOT

DOCS = ROOT / "docs"


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def test_the_three_screenshots(tmp_path: Path) -> None:
    screenshots.main(tmp_path)
    levels = {}
    for name in screenshots.SHOTS:
        new, kept = (opened(where / f"playground-{name}.png") for where in (tmp_path, DOCS))
        assert new.size == kept.size
        grey = new.convert("L")
        assert len(grey.getcolors(256) or []) > 50, "not a blank page"
        levels[name] = grey.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert levels["desktop"] > 150 > 100 > levels["dark"]
