"""Screenshots of the playground for the docs: `python -m tests.support.screenshots`.

The shipped bundle, served as in the tests, in the tests' browser.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, expect

from tests.support.browser import PHONE, chromium, visit
from tests.support.paths import ROOT
from tests.support.processes import Server, serving

WIDE: dict[str, Any] = {"viewport": {"width": 1200, "height": 1236}, "device_scale_factor": 1.5}
SHOTS: dict[str, dict[str, Any]] = {
    "desktop": WIDE,
    "dark": {**WIDE, "color_scheme": "dark"},
    "phone": PHONE,
}
COLOURS = 256  # of the palette: a third of the bytes, no visible difference


def take(browser: Browser, server: Server, options: dict[str, Any]) -> bytes:
    """The page as first seen, as a PNG with a palette."""
    with visit(browser, server.url, **options) as at:
        expect(at.page.locator("#many-count")).to_have_text("10 of 10 denoised")
        for _ in range(3):  # a round trip of the warm service
            at.page.click("#trained")
            at.settled()
        at.page.evaluate("document.activeElement.blur(); scrollTo({ top: 0, behavior: 'instant' })")
        at.page.mouse.move(1, 1)
        at.settled()
        shot = Image.open(io.BytesIO(at.page.screenshot())).convert("RGB")
    stream = io.BytesIO()
    shot.quantize(COLOURS, kmeans=1).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def main(folder: Path = ROOT / "docs") -> None:
    """Write playground-*.png."""
    with (
        tempfile.TemporaryDirectory() as work,
        serving(Path(work)) as server,
        chromium() as browser,
    ):
        for name, options in SHOTS.items():
            path = folder / f"playground-{name}.png"
            partial = path.with_suffix(".partial")
            partial.write_bytes(take(browser, server, options))
            partial.replace(path)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
