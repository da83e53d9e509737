"""The same request in three languages, against a real service."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.engine import Engine
from tests.support.paths import ROOT
from tests.support.processes import Server, environment

FOLDER = ROOT / "examples" / "cross_language"
NOISY = ROOT / "examples" / "noisy.png"
COMMANDS = {
    "curl": ("sh", FOLDER / "encode.sh"),
    "JavaScript": ("node", FOLDER / "encode.mjs"),
    "Java": ("java", FOLDER / "Encode.java"),
}


def run(language: str, image: Path, url: str) -> subprocess.CompletedProcess[str]:
    program, script = COMMANDS[language]
    for needed in (program, "curl") if language == "curl" else (program,):
        if shutil.which(needed) is None:
            pytest.skip(f"no {needed} on this machine")
    return subprocess.run(
        [program, script, image, url],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("language", COMMANDS)
def test_the_latent_is_the_engine_s(server: Server, local_engine: Engine, language: str) -> None:
    done = run(language, NOISY, server.url)
    assert done.returncode == 0, done.stderr
    answer, fingerprint = done.stdout.splitlines()
    assert fingerprint == local_engine.fingerprint
    found = np.array(json.loads(answer)["latents"], np.float32)
    image = np.asarray(Image.open(NOISY), np.uint8)[None, ..., None]
    np.testing.assert_allclose(found, local_engine.encode(image), atol=1e-4)


@pytest.mark.parametrize("language", COMMANDS)
def test_a_refusal_is_told_and_has_an_exit_status(server: Server, language: str) -> None:
    done = run(language, ROOT / "README.md", server.url)
    assert done.returncode not in (0, 2)
    assert "bytes that are not a whole image" in done.stdout + done.stderr
    assert "\tat " not in done.stderr  # Java's traceback


@pytest.mark.parametrize("language", COMMANDS)
def test_an_image_that_is_not_there_is_told(server: Server, language: str) -> None:
    done = run(language, ROOT / "absent.png", server.url)
    assert done.returncode != 0
    assert "absent.png" in done.stderr
    assert "latents" not in done.stdout
