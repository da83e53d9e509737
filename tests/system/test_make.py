"""`make run` and `make serve` as a person runs them, in a copy of the checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support.paths import ROOT
from tests.support.processes import Server, environment, free_port, require_serving, serving


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would hand out, with this machine's environments linked in."""
    require_serving()
    copy = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    for venv in (".venv", ".venv-serve"):
        if not (ROOT / venv / ".ready").exists():
            pytest.skip(f"no {venv}: make env env-serve")
        (copy / venv).symlink_to(ROOT / venv)
    return copy


def printed_curls(server: Server) -> list[str]:
    return re.findall(r"^\s*(curl .+)$", server.printed(), re.M)


def try_curls(server: Server, folder: Path) -> None:
    """Run the printed lines as printed and look at what comes back."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    curls = printed_curls(server)
    assert len(curls) == 3
    answers = [
        subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment(), capture_output=True, check=True
        ).stdout
        for line in curls
    ]
    assert json.loads(answers[0])["latent_size"] == 16
    assert len(json.loads(answers[1])["latents"][0]) == 16
    with Image.open(folder / "clean.png") as image:
        assert (image.format, image.size) == ("PNG", (28, 28))


def test_make_run_trains_exports_and_serves(checkout: Path, tmp_path: Path) -> None:
    port = free_port()
    command = ["make", "run", f"PORT={port}"]
    with serving(tmp_path, command=command, port=port, cwd=checkout, wait=400) as running:
        screen = running.printed()
        assert re.search(r"decoder\(encoder\) .+ ok", screen), "no parity table"
        assert "Traceback" not in screen
        assert (checkout / "runs/digits/figures/denoising.png").is_file()
        metrics = json.loads((checkout / "runs/digits/metrics.json").read_text())
        # Twice the error that 60 epochs give here: a run that learned nothing is far above it.
        assert metrics["test"]["output"]["mse"] < 0.0134
        try_curls(running, checkout)


def test_make_serve_answers_from_the_shipped_bundle(checkout: Path, tmp_path: Path) -> None:
    port = free_port()
    command = ["make", "serve", f"PORT={port}"]
    with serving(tmp_path, command=command, port=port, cwd=checkout) as running:
        try_curls(running, checkout)


def test_make_alone_explains_itself(checkout: Path) -> None:
    done = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True)
    for target in ("run", "test", "serve", "check", "bench", "lock", "clean", "env", "env-serve"):
        assert re.search(rf"^  make {target} +\S", done.stdout, re.M), target
