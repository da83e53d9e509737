"""A real browser for tests: Debian's Chromium, by Playwright, with its console's messages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

# No sandbox, since tests may run as root in a container; no requests of the browser's own.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}

# Counts pending requests; runs before any script of the page.
COUNT = """
  window.pending = 0;
  const real = window.fetch;
  window.fetch = async (...what) => {
    window.pending += 1;
    try { return await real(...what); } finally { window.pending -= 1; }
  };
"""
# Two frames: a change is sent in the first, and a response's body is read by the second.
SETTLE = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  do {
    await frame();
    await frame();
    await new Promise(setTimeout);
  } while (window.pending);
}"""
# From a copy: Chromium warns of canvases that are read often.
READ = """canvas => {
  const { width, height } = canvas;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return [height, width, Array.from(context.getImageData(0, 0, width, height).data)];
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser; without one the test is skipped.

    Only for a block or a module: while it is open, no other event loop runs in this thread.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    expect.set_options(timeout=30_000)  # ms; the machine may be busy with other work
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One page of a service, its console messages and its requests to other hosts.

    `allowed` are patterns of console messages that a test causes on purpose.
    """

    page: Page
    url: str
    messages: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def check(self) -> None:
        """No unexpected console messages, and no request to another host."""
        assert self.foreign == []
        assert [m for m in self.messages if not any(re.search(a, m) for a in self.allowed)] == []

    def pixels(self, selector: str) -> np.ndarray:
        """A canvas as uint8 (H, W, 3)."""
        height, width, flat = self.page.eval_on_selector(selector, READ)
        return np.array(flat, np.uint8).reshape(height, width, 4)[..., :3]

    def grey(self, selector: str) -> np.ndarray:
        """A grey canvas as uint8 (1, H, W, 1)."""
        pixels = self.pixels(selector)
        assert (pixels[..., 0] == pixels[..., 2]).all()
        return pixels[None, ..., :1]

    def settled(self) -> None:
        """Wait until no request is pending and the last results are drawn."""
        self.page.evaluate(SETTLE)


@contextmanager
def visit(browser: Browser, url: str, *, script: str = "", **options: Any) -> Iterator[Visit]:
    """Open the playground at `url` in a fresh context; `Visit.check` runs at the end.

    `script` runs before any script of the page.
    """
    context = browser.new_context(**{**DESKTOP, **options})
    page = context.new_page()
    opened = Visit(page, url)
    page.on("console", lambda line: opened.messages.append(f"{line.type}: {line.text}"))
    page.on("pageerror", lambda error: opened.messages.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((url, "blob:", "data:"))
            else opened.foreign.append(request.url)
        ),
    )
    page.add_init_script(COUNT + script)
    page.set_default_timeout(30_000)
    page.goto(f"{url}/")
    yield opened
    opened.check()
    context.close()
