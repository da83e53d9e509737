"""The playground in a real browser, against the real service."""

from __future__ import annotations

import io
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, expect

from service.engine import Engine
from tests.support.browser import DESKTOP, PHONE, Visit, chromium, visit
from tests.support.paths import BUNDLE, ROOT
from tests.support.processes import Server, require_serving, serving
from tests.support.wire import KEY, as_npy

BUFFERED = 2**20  # bytes of bodies that `busy_server` buffers


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require_serving()
    with chromium() as opened:
        yield opened


@pytest.fixture
def at_desk(browser: Browser, server: Server) -> Iterator[Visit]:
    """The page, when its first answers are there."""
    with visit(browser, server.url) as opened:
        expect(opened.page.locator("#many-count")).to_have_text("10 of 10 denoised")
        opened.settled()
        yield opened


@pytest.fixture(scope="module")
def modules(browser: Browser, server: Server) -> Iterator[Visit]:
    """One page for tests that only call its modules."""
    with visit(browser, server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def busy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with a key and little memory for bodies."""
    require_serving()
    settings = {
        "DENOISER_API_KEY": KEY,
        "DENOISER_MAX_BODY": str(BUFFERED),
        "DENOISER_MAX_BUFFERED": str(BUFFERED),
    }
    with serving(tmp_path_factory.mktemp("busy"), settings=settings) as running:
        yield running


def slide(at: Visit, selector: str, value: float) -> None:
    """Move a slider as a person's drag does: the value, then its input event."""
    at.page.eval_on_selector(
        selector,
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
        value,
    )


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def upload(name: str, body: bytes, media_type: str = "image/png") -> Any:
    return {"name": name, "mimeType": media_type, "buffer": body}


def digits(count: int) -> np.ndarray:
    """uint8 (count, 28, 28, 1): noisy digits, from the bundle's golden answers."""
    with np.load(BUNDLE / "golden.npz") as golden:
        images: np.ndarray = np.rint(255 * golden["images"][:count]).astype(np.uint8)
    return images


# ---------------------------------------------------------------- at first sight


def test_the_address_leads_to_a_page_where_nothing_is_blank(
    at_desk: Visit, local_engine: Engine
) -> None:
    assert at_desk.page.url == f"{at_desk.url}/playground"
    drawing, noisy, clean = (at_desk.grey(f"#{id}") for id in ("drawing", "noisy", "clean"))
    assert drawing.mean() > 10 and drawing[0, 0, 0, 0] == 0
    assert 100 < noisy.mean() < 160  # N(0.5, 0.5), clipped
    expected = 255 * local_engine.denoise(noisy)
    assert np.abs(clean - expected).max() <= 1
    assert np.abs(at_desk.grey("#decoded") - expected).max() <= 1
    for selector in ("#psnr", "#mse", "#time"):
        expect(at_desk.page.locator(selector)).to_contain_text(re.compile(r"\d"))
    expect(at_desk.page.locator("#spoken")).to_contain_text("dB")
    assert at_desk.page.locator("#bars input").count() == 16
    assert at_desk.page.locator("#interpolation button").count() == 11
    assert at_desk.page.locator("#grid li").count() == 10


def test_the_figures_are_those_of_the_images(at_desk: Visit) -> None:
    drawing, noisy = (at_desk.grey(f"#{id}") / 255 for id in ("drawing", "noisy"))
    before = np.mean((noisy - drawing) ** 2)
    clean = np.mean((at_desk.grey("#clean") / 255 - drawing) ** 2)
    assert float(at_desk.page.inner_text("#mse")) == pytest.approx(clean, abs=3e-4)
    assert float(at_desk.page.inner_text("#psnr").split()[0]) == pytest.approx(
        -10 * np.log10(clean), abs=0.15
    )
    assert f"{before:.4f}" in at_desk.page.inner_text("#mse-before")
    assert clean < before / 5


def test_the_model_card(at_desk: Visit, local_engine: Engine) -> None:
    card, manifest = at_desk.page.locator("#facts"), local_engine.manifest
    psnr = f"{manifest.quality['test']['output']['psnr']:.2f} dB"
    count = f"{manifest.parity['comparisons']} comparisons"
    for text in (manifest.fingerprint, "28 × 28", "gaussian:0.5,0.5", psnr, count):
        expect(card).to_contain_text(text)


def test_the_api_page_is_linked_and_calls_no_other_host(at_desk: Visit) -> None:
    at_desk.allowed = [r"Content Security Policy"]  # BentoML's tag manager, which may not run
    at_desk.page.click("nav >> text=API")
    at_desk.page.wait_for_url("**/api")
    expect(at_desk.page.locator("#swagger-ui")).to_contain_text("/denoise")


# ---------------------------------------------------------------- draw, add noise, denoise


def test_drawing_with_the_mouse(at_desk: Visit, local_engine: Engine) -> None:
    page = at_desk.page
    page.click("#clear")
    at_desk.settled()
    assert at_desk.grey("#drawing").max() == 0
    box = page.locator("#drawing").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"]
    page.mouse.move(x, y + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(x, y + 0.8 * box["height"], steps=8)
    page.mouse.up()
    page.mouse.move(x + 50, y + 50)  # the pen is up: this leaves nothing
    at_desk.settled()
    drawing = at_desk.grey("#drawing")[0, ..., 0]
    assert drawing[8:20, 13:15].min() > 128  # a line down the middle
    assert drawing[:, :11].max() == drawing[:, 17:].max() == 0
    clean = at_desk.grey("#clean")
    assert np.abs(clean - 255 * local_engine.denoise(at_desk.grey("#noisy"))).max() <= 1


def test_sliders_scale_one_noise_and_the_button_makes_another(at_desk: Visit) -> None:
    page = at_desk.page
    mean, deviation = "#noise label:nth-child(1) input", "#noise label:nth-child(2) input"
    drawing, first = at_desk.grey("#drawing") / 255, at_desk.grey("#noisy") / 255
    slide(at_desk, deviation, 0.25)
    at_desk.settled()
    half = at_desk.grey("#noisy") / 255
    inside = (first > 0) & (first < 1) & (half > 0) & (half < 1)
    assert inside.sum() > 200
    assert half - drawing - 0.5 == pytest.approx(half - drawing - 0.5)
    assert (2 * (half - drawing - 0.5))[inside] == pytest.approx(
        (first - drawing - 0.5)[inside], abs=0.01
    )
    slide(at_desk, mean, 0)
    slide(at_desk, deviation, 0)
    at_desk.settled()
    assert np.array_equal(at_desk.grey("#noisy"), at_desk.grey("#drawing"))
    page.click("#trained")
    at_desk.settled()
    assert np.array_equal(at_desk.grey("#noisy") / 255, first)
    page.click("#reseed")
    at_desk.settled()
    other = at_desk.grey("#noisy") / 255
    assert np.mean(other != first) > 0.5 and abs(other.mean() - first.mean()) < 0.05
    page.click("#quiet")
    at_desk.settled()
    assert np.array_equal(at_desk.grey("#noisy"), at_desk.grey("#drawing"))


def test_from_slider_to_image_in_time(at_desk: Visit) -> None:
    """Measured in the page, from the input event to the frame after the new figures."""
    times = at_desk.page.evaluate(
        """async () => {
          const slider = document.querySelector("#noise label:nth-child(2) input");
          const figure = document.getElementById("mse");
          const times = [];
          for (let i = 0; i < 25; i++) {
            await new Promise(done => setTimeout(done, 30));
            const seen = new Promise(done => {
              const observer = new MutationObserver(() => { observer.disconnect(); done(); });
              observer.observe(figure, { childList: true, characterData: true, subtree: true });
            });
            const began = performance.now();
            slider.value = 0.2 + 0.02 * i;
            slider.dispatchEvent(new Event("input"));
            await seen;
            await new Promise(requestAnimationFrame);
            times.push(performance.now() - began);
          }
          return times;
        }"""
    )
    median, slowest = statistics.median(times), max(times)
    print(f"\nslider to image: median {median:.0f} ms, slowest {slowest:.0f} ms of {len(times)}")
    assert median < 500  # the claim is 100; a shared machine may be slow


def test_a_drag_sends_the_newest_only_and_ends_with_it(
    at_desk: Visit, local_engine: Engine
) -> None:
    urls: list[str] = []
    at_desk.page.on("request", lambda request: urls.append(request.url))
    at_desk.page.evaluate(
        """async () => {
          const slider = document.querySelector("#noise label:nth-child(2) input");
          for (let i = 0; i < 200; i++) {
            slider.value = i / 200;
            slider.dispatchEvent(new Event("input"));
            if (i % 4 === 0) await new Promise(done => setTimeout(done, 1));
          }
        }"""
    )
    at_desk.settled()
    assert 1 <= sum("denoise" in url for url in urls) < 100
    expected = 255 * local_engine.denoise(at_desk.grey("#noisy"))
    assert np.abs(at_desk.grey("#clean") - expected).max() <= 1


def test_an_image_on_white_paper(at_desk: Visit, local_engine: Engine) -> None:
    paper = np.full((120, 200), 250, np.uint8)
    paper[20:100, 95:105] = 10
    at_desk.page.set_input_files("#upload", upload("one.png", png(paper)))
    expect(at_desk.page.locator("#draw-hint")).to_contain_text("paper looks white")
    at_desk.page.click("#invert")
    at_desk.settled()
    drawing = at_desk.grey("#drawing")[0, ..., 0]
    assert drawing[12:16, 13:15].min() > 150  # the ink, light now
    assert drawing[8:20, 2:9].max() < 20
    expected = 255 * local_engine.denoise(at_desk.grey("#noisy"))
    assert np.abs(at_desk.grey("#clean") - expected).max() <= 1


def test_a_noisy_image_as_it_is(at_desk: Visit, local_engine: Engine) -> None:
    """Of the model's size and with no noise added, it is what the service would be sent."""
    at_desk.page.click("#quiet")
    at_desk.page.set_input_files("#upload", ROOT / "examples" / "noisy.png")
    expect(at_desk.page.locator("#draw-hint")).to_contain_text("Fitted")
    at_desk.settled()
    image = np.asarray(Image.open(ROOT / "examples" / "noisy.png").convert("L"))[None, ..., None]
    assert np.array_equal(at_desk.grey("#noisy"), image)
    assert np.abs(at_desk.grey("#clean") - 255 * local_engine.denoise(image)).max() <= 1


def test_pasting_and_dropping_an_image(at_desk: Visit) -> None:
    makers = {
        "paste": "new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true })",
        "drop": "new DragEvent('drop', { dataTransfer: transfer, bubbles: true })",
    }
    for event, maker in makers.items():
        at_desk.page.click("#clear")
        at_desk.page.evaluate(
            f"""body => {{
              const transfer = new DataTransfer();
              const file = new File([new Uint8Array(body)], "a.png", {{ type: "image/png" }});
              transfer.items.add(file);
              document.getElementById("drawing").dispatchEvent({maker});
            }}""",
            list(png(digits(1)[0, ..., 0])),
        )
        expect(at_desk.page.locator("#draw-hint")).to_contain_text("Fitted")
        assert np.array_equal(at_desk.grey("#drawing"), digits(1)), event


# ---------------------------------------------------------------- inside


def latents(at: Visit) -> np.ndarray:
    """float32 (1, 16): the bars."""
    values = at.page.eval_on_selector_all("#bars input", "all => all.map(bar => Number(bar.value))")
    return np.array([values], np.float32)


def test_dragging_a_bar(at_desk: Visit, local_engine: Engine) -> None:
    page = at_desk.page
    first = latents(at_desk)
    assert np.abs(first - local_engine.encode(at_desk.grey("#noisy"))).max() < 1e-3
    bar = page.locator("#bars input").nth(4)
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"]
    page.mouse.move(x, y + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(x, y + 0.1 * box["height"], steps=5)
    page.mouse.up()
    at_desk.settled()
    moved = latents(at_desk)
    assert moved[0, 4] > first[0, 4] + 0.5  # up is more
    assert np.array_equal(np.delete(moved, 4), np.delete(first, 4))
    assert np.abs(at_desk.grey("#decoded") - 255 * local_engine.decode(moved)).max() <= 1
    page.click("#restore")
    at_desk.settled()
    assert np.array_equal(latents(at_desk), first)
    assert np.abs(at_desk.grey("#decoded").astype(int) - at_desk.grey("#clean")).max() <= 1


def test_bars_by_keyboard(at_desk: Visit) -> None:
    first = latents(at_desk)
    bar = at_desk.page.locator("#bars input").nth(2)
    bar.focus()
    for key in ("ArrowUp", "ArrowUp", "PageUp"):
        at_desk.page.keyboard.press(key)
    up = latents(at_desk)[0, 2]
    at_desk.page.keyboard.press("ArrowDown")
    assert up > latents(at_desk)[0, 2] > first[0, 2]
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"^-?\d+\.\d\d$"))


def test_interpolation(at_desk: Visit, local_engine: Engine) -> None:
    page = at_desk.page
    page.select_option("#from", label="the digit 1")
    page.select_option("#to", label="your image")
    at_desk.settled()
    steps = [at_desk.grey(f"#interpolation button:nth-child({n}) canvas") for n in range(1, 12)]
    assert np.abs(steps[-1].astype(int) - at_desk.grey("#decoded")).max() <= 1
    changes = [np.abs(a.astype(float) - b).mean() for a, b in itertools.pairwise(steps)]
    whole = np.abs(steps[0].astype(float) - steps[-1]).mean()
    assert max(changes) < whole / 2 and whole > 10
    page.click("#interpolation button:nth-child(6)")
    at_desk.settled()
    assert np.abs(at_desk.grey("#decoded") - 255 * local_engine.decode(latents(at_desk))).max() <= 1
    assert np.abs(at_desk.grey("#decoded").astype(int) - steps[5]).max() <= 1
    expect(page.locator("#interpolation button").nth(5)).to_have_attribute(
        "aria-label", "50 % the digit 1, 50 % your image"
    )


def test_the_copied_commands_run(
    browser: Browser, server: Server, local_engine: Engine, tmp_path: Path
) -> None:
    with visit(browser, server.url, permissions=["clipboard-read", "clipboard-write"]) as at_desk:
        page = at_desk.page
        expect(page.locator("#many-count")).to_have_text("10 of 10 denoised")
        slide(at_desk, "#bars div:nth-child(1) input", 1.5)
        at_desk.settled()
        copied = {}
        for kind in ("json", "curl", "python"):
            page.click(f"[data-snippet={kind}]")
            page.click("#copy")
            expect(page.locator("#copied")).to_have_text("Copied.")
            copied[kind] = page.evaluate("navigator.clipboard.readText()")
        shown = 255 * local_engine.decode(latents(at_desk))
    subprocess.run(["sh", "-c", copied["curl"]], cwd=tmp_path, check=True, timeout=30)
    decoded = np.asarray(Image.open(tmp_path / "decoded.png"))[None, ..., None]
    assert np.abs(decoded - shown).max() <= 1
    script = f"{copied['python']}\nimport json\nprint(json.dumps(images))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert np.abs(255 * np.array(json.loads(done.stdout)) - shown).max() <= 1
    assert copied["json"] in copied["curl"]


# ---------------------------------------------------------------- many


def downloaded(at: Visit) -> dict[str, np.ndarray]:
    """What "Download all" gives: uint8 (H, W) by name, unpacked by Python's own reader."""
    with at.page.expect_download() as caught:
        at.page.click("#many-download")
    with zipfile.ZipFile(caught.value.path()) as archive:
        assert archive.testzip() is None
        return {
            name: np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))
            for name in archive.namelist()
        }


def test_many_files_in_one_request(at_desk: Visit, local_engine: Engine) -> None:
    images = np.concatenate([digits(16)] * 9)[:130]  # more than the grid shows
    images[:, 0, 0, 0] = np.arange(130)  # all different
    files = [upload(f"ö {n:03d}.png", png(image[..., 0])) for n, image in enumerate(images)]
    others = [upload("notes.txt", b"hello", "text/plain"), upload("broken.png", b"no png")]
    requests: list[tuple[str, str]] = []
    at_desk.page.on(
        "request",
        lambda request: requests.append((request.method, request.headers.get("accept", ""))),
    )
    at_desk.page.set_input_files("#many-files", [*others, *files])
    expect(at_desk.page.locator("#many-count")).to_have_text("130 of 131 denoised")
    expect(at_desk.page.locator("#many-skipped")).to_have_text(
        "Left out: broken.png, which can not be read."
    )
    expect(at_desk.page.locator("#many-more")).to_contain_text("And 10 more")
    assert [request for request in requests if request[0] == "POST"] == [
        ("POST", "application/zip")
    ]
    assert at_desk.page.locator("#grid li").count() == 120
    result = downloaded(at_desk)
    assert list(result) == [file["name"] for file in files]
    expected = 255 * local_engine.denoise(images)[..., 0]
    assert np.abs(np.stack(list(result.values())) - expected).max() <= 1
    last = at_desk.grey("#grid li:nth-child(120) canvas:nth-child(2)")[0, ..., 0]
    assert np.array_equal(last, list(result.values())[119])


def test_a_folder_inverted_and_with_noise(
    at_desk: Visit, local_engine: Engine, tmp_path: Path
) -> None:
    page = at_desk.page
    folder = tmp_path / "scans"
    (folder / "inner").mkdir(parents=True)
    plain = np.zeros((28, 28), np.uint8)
    plain[6:22, 13:15] = 255
    (folder / "a.png").write_bytes(png(255 - plain))
    (folder / "inner" / "a.png").write_bytes(png(255 - plain))
    page.check("#many-invert")
    page.set_input_files("#many-folder", folder)
    expect(page.locator("#many-count")).to_have_text("2 of 2 denoised")
    at_desk.settled()
    shown = at_desk.grey("#grid li:first-child canvas:first-child")
    assert np.array_equal(shown[0, ..., 0], plain)
    assert set(downloaded(at_desk)) == {"scans_a.png", "scans_inner_a.png"}
    page.check("#many-noise")
    page.set_input_files("#many-folder", folder)
    expect(page.locator("#many-download")).to_be_visible()
    expect(page.locator("#grid li")).to_have_count(2)
    at_desk.settled()
    one, two = (at_desk.grey(f"#grid li:nth-child({n}) canvas:first-child") for n in (1, 2))
    assert not np.array_equal(one, two)  # each has noise of its own
    clean = at_desk.grey("#grid li:nth-child(2) canvas:nth-child(2)")
    assert np.abs(clean - 255 * local_engine.denoise(two)).max() <= 1


def test_no_images_among_the_files(at_desk: Visit) -> None:
    at_desk.page.set_input_files("#many-files", upload("a.zip", b"PK", "application/zip"))
    expect(at_desk.page.locator("#notice")).to_contain_text("unpack a zip first")
    at_desk.page.set_input_files("#many-files", upload("a.png", b"no png"))
    expect(at_desk.page.locator("#many-count")).to_have_text("0 of 1 denoised")
    expect(at_desk.page.locator("#notice")).to_be_hidden()
    expect(at_desk.page.locator("#many-download")).to_be_hidden()


def test_a_run_is_stopped(at_desk: Visit) -> None:
    at_desk.allowed = [r"net::ERR_ABORTED", r"ERR_FAILED"]
    page = at_desk.page
    page.route("**/denoise", lambda route: None)  # no answer
    page.click("#many-samples")
    expect(page.locator("#many-count")).to_have_text("Denoising 10 images")
    page.click("#many-stop")
    expect(page.locator("#many-count")).to_have_text("Stopped")
    expect(page.locator("#many-stop")).to_be_hidden()
    expect(page.locator("#many-download")).to_be_hidden()
    page.unroute("**/denoise")
    page.click("#many-samples")
    expect(page.locator("#many-count")).to_have_text("10 of 10 denoised")


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize(
    "spec",
    [
        "gaussian:0.2,0.1",
        "salt-pepper:0.3",
        "speckle:0.4",
        "poisson:20",
        "mask:0.25",
        "blur:1.3",
        "blur:0.7+gaussian:0.1,0.2",
    ],
)
def test_noise_is_that_of_training(modules: Visit, spec: str) -> None:
    """The same mean and deviation on flat colour; blur, which draws nothing, value by value."""
    from training.noise.spec import parse_noise

    clean = np.full((80, 90, 3), 128, np.uint8)
    if "blur" in spec:
        clean[::7, ::5] = (250, 30, 200)
    expected = parse_noise(spec).apply(
        clean[None].astype(np.float32) / np.float32(255), np.random.default_rng(0)
    )[0]
    flat = modules.page.evaluate(
        """async ([spec, clean, shape]) => {
          const noise = await import("/playground/noise.js");
          const values = new Uint8Array(clean);
          return Array.from(noise.addNoise(values, noise.parse(spec), { seed: 5, shape }));
        }""",
        [spec, clean.ravel().tolist(), list(clean.shape)],
    )
    noisy = np.array(flat).reshape(clean.shape) / 255
    assert noisy.mean(axis=(0, 1)) == pytest.approx(expected.mean(axis=(0, 1)), abs=0.015)
    assert noisy.std(axis=(0, 1)) == pytest.approx(expected.std(axis=(0, 1)), abs=0.015)
    if spec.startswith("mask"):
        assert ((noisy == 0).all(axis=-1) == (noisy == 0).any(axis=-1)).all()
    if spec == "blur:1.3":
        assert np.abs(noisy - expected).max() < 0.003


def test_specs_with_ranges_several_kinds_and_none(modules: Visit) -> None:
    parsed = modules.page.evaluate(
        """async specs => {
          const noise = await import("/playground/noise.js");
          return specs.map(spec => noise.parse(spec).map(({ kind, values }) => [kind, ...values]));
        }""",
        ["gaussian:0..0.5,0.1..0.7", "blur+salt-pepper:0.1", "pairs", None, "mask:1e-2+gaussian"],
    )
    assert parsed == [
        [["gaussian", 0.25, pytest.approx(0.4)]],
        [["blur", 1], ["salt-pepper", 0.1]],
        [["gaussian", 0.5, 0.5]],
        [["gaussian", 0.5, 0.5]],
        [["mask", 0.01], ["gaussian", 0.5, 0.5]],
    ]


# ---------------------------------------------------------------- other models


def test_a_colour_model_of_another_size(
    browser: Browser, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    training = {"settings": {"dataset": "x", "noise": "mask:0.3+speckle:0.5"}}
    bundle = make_bundle(tmp_path / "colour", image_shape=(12, 8, 3), training=training)
    with (
        serving(tmp_path, settings={"DENOISER_BUNDLE": str(bundle)}) as server,
        visit(browser, server.url) as at_desk,
    ):
        expect(at_desk.page.locator("#many-count")).to_have_text("10 of 10 denoised")
        at_desk.settled()
        expect(at_desk.page.locator("#noise")).to_contain_text("Masked pixels")
        assert at_desk.page.locator("#noise input").count() == 2
        assert at_desk.page.locator("#bars input").count() == 4
        image = np.zeros((12, 8, 3), np.uint8)
        image[2:5, 2:5] = (255, 0, 80)
        at_desk.page.click("#quiet")
        at_desk.page.set_input_files("#upload", upload("a.png", png(image)))
        at_desk.settled()
        assert np.array_equal(at_desk.pixels("#noisy"), image)
        expected = 255 * Engine.load(bundle, threads=1).denoise(image[None])[0]
        assert np.abs(at_desk.pixels("#clean") - expected).max() <= 1


# ---------------------------------------------------------------- when things go wrong


def test_a_file_that_is_no_image(at_desk: Visit) -> None:
    before = at_desk.grey("#drawing")
    at_desk.page.set_input_files("#upload", upload("notes.png", b"these are words"))
    expect(at_desk.page.locator("#notice")).to_contain_text("cannot read this file as an image")
    assert np.array_equal(at_desk.grey("#drawing"), before)
    at_desk.page.click("#samples button:nth-child(2)")
    expect(at_desk.page.locator("#notice")).to_be_hidden()


def test_offline_is_shown_and_ends_by_itself(at_desk: Visit, local_engine: Engine) -> None:
    at_desk.allowed = ["net::ERR_INTERNET_DISCONNECTED"]
    at_desk.page.context.set_offline(True)
    at_desk.page.click("#samples button:nth-child(6)")
    expect(at_desk.page.locator("#notice")).to_contain_text("does not answer")
    at_desk.page.context.set_offline(False)
    expect(at_desk.page.locator("#notice")).to_be_hidden()
    at_desk.settled()
    expected = 255 * local_engine.denoise(at_desk.grey("#noisy"))
    assert np.abs(at_desk.grey("#clean") - expected).max() <= 1


@contextmanager
def occupied(server: Server) -> Iterator[None]:
    """A request whose body fills the memory, and never ends."""
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /denoise HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/x-npy\r\nContent-Length: {BUFFERED}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(head.encode() + bytes(BUFFERED - 1))
        yield


def test_a_missing_wrong_and_right_key(browser: Browser, busy_server: Server) -> None:
    with visit(browser, busy_server.url) as at_desk:
        page = at_desk.page
        at_desk.allowed = [r"status of 401"]
        notice = page.locator("#notice")
        expect(notice).to_contain_text("needs an API key")
        assert at_desk.grey("#noisy").max() > 0  # drawing and noise need no service
        page.fill("#key", "a-wrong-key-of-some-length")
        page.click("#key-form button")
        expect(notice).to_contain_text("Wrong API key")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(notice).to_be_hidden()
        expect(page.locator("#many-count")).to_have_text("10 of 10 denoised")
        expect(page.locator("nav >> text=API")).to_be_hidden()  # a link can not carry the key
        page.click("[data-snippet=curl]")
        expect(page.locator("#snippet")).to_contain_text("$DENOISER_API_KEY")
        assert KEY not in page.content() and KEY not in page.url
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        messages = len(at_desk.messages)
        page.reload()  # the same tab still has it
        expect(page.locator("#many-count")).to_have_text("10 of 10 denoised")
        assert len(at_desk.messages) == messages
    with visit(browser, busy_server.url) as another:
        another.allowed = [r"status of 401"]
        expect(another.page.locator("#notice")).to_contain_text("needs an API key")


def test_a_busy_service_is_shown_and_asked_again(browser: Browser, busy_server: Server) -> None:
    with visit(browser, busy_server.url) as at_desk:
        at_desk.allowed = [r"status of 401", r"status of 429"]
        page = at_desk.page
        page.fill("#key", KEY)
        page.click("#key-form button")
        expect(page.locator("#many-count")).to_have_text("10 of 10 denoised")
        at_desk.settled()
        with occupied(busy_server):
            page.click("#samples button:nth-child(1)")
            expect(page.locator("#notice")).to_contain_text("busy")
        expect(page.locator("#notice")).to_be_hidden()
        at_desk.settled()
        with np.errstate(all="raise"):
            error = np.mean((at_desk.grey("#clean") / 255 - at_desk.grey("#drawing") / 255) ** 2)
        assert error < 0.05  # it is that digit's


# ---------------------------------------------------------------- for everyone


def test_a_phone(browser: Browser, server: Server) -> None:
    with visit(browser, server.url, **PHONE) as phone:
        page = phone.page
        expect(page.locator("#many-count")).to_have_text("10 of 10 denoised")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.tap("#clear")
        phone.settled()
        page.tap("#drawing")
        phone.settled()
        assert phone.grey("#drawing")[0, 12:16, 12:16].max() > 200
        small = page.eval_on_selector_all(
            "button, .button, select, #noise input, #bars input",
            """all => all.filter(item => item.checkVisibility()).map(item =>
                 [item.id || item.className || item.ariaLabel, item.getBoundingClientRect()])
                 .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)""",
        )
        assert small == []  # WCAG 2.2, 2.5.8: targets of 24 × 24 pixels


def test_by_keyboard_alone(at_desk: Visit) -> None:
    page = at_desk.page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    before = at_desk.grey("#drawing")
    page.keyboard.press("Tab")
    expect(page.locator("#samples button").first).to_be_focused()
    page.keyboard.press("Space")
    at_desk.settled()
    assert not np.array_equal(at_desk.grey("#drawing"), before)
    ids = {"upload", "reseed", "restore", "from", "copy", "many-files", "many-folder"}
    for _ in range(100):
        page.keyboard.press("Tab")
        ids.discard(page.evaluate("document.activeElement.id"))
        if not ids:
            break
    assert not ids


@pytest.mark.parametrize(
    "options",
    [DESKTOP, {**DESKTOP, "color_scheme": "dark"}, PHONE],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_no_fault(browser: Browser, server: Server, options: dict[str, Any]) -> None:
    with visit(browser, server.url, **options) as opened:
        expect(opened.page.locator("#many-count")).to_have_text("10 of 10 denoised")
        opened.settled()
        opened.page.evaluate("document.getElementById('notice').hidden = false")  # its colours too
        results = Axe().run(opened.page)
        faults = [
            f"{fault['id']} ({fault['impact']}): {[node['html'] for node in fault['nodes']][:3]}"
            for fault in results.response["violations"]
        ]
        assert faults == []


# ---------------------------------------------------------------- novelty


def test_the_novelty_score_where_the_bundle_has_one(at_desk: Visit, local_engine: Engine) -> None:
    page = at_desk.page
    if not local_engine.manifest.novelty:
        expect(page.locator("#novelty")).to_be_hidden()
        pytest.skip("the shipped bundle has no novelty scores")
    page.click("#samples button:nth-child(4)")
    at_desk.settled()
    usual = float(page.inner_text("#score"))
    assert 0 <= usual <= 1
    chaos = np.random.default_rng(0).integers(0, 2, (28, 28), dtype=np.uint8) * 255
    page.set_input_files("#upload", upload("chaos.png", png(chaos)))
    page.click("#quiet")
    at_desk.settled()
    assert float(page.inner_text("#score")) > usual
