"""`bentoml build`: offline, without training code, and answering as the checkout does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.processes import Server, environment, require_serving, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML store of our own with one freshly built bento in it."""
    require_serving()
    home = tmp_path_factory.mktemp("bentoml")
    offline = {"BENTOML_HOME": str(home), "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    done = subprocess.run(
        # BentoML builds with uv, which the development environment has and serving does not need.
        [Path(sys.executable).with_name("bentoml"), "build", "--version", "test"],
        cwd=ROOT,
        env=environment(offline),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture(scope="module")
def bento(home: Path) -> Path:
    return home / "bentos" / "denoiser" / "test"


def pins(requirements: Path) -> set[str]:
    """Every `name==version` and every hash of a requirements file."""
    text = requirements.read_text()
    return set(re.findall(r"^[\w.-]+==[\w.]+", text, re.M)) | set(re.findall(r"sha256:\w+", text))


def test_it_holds_the_service_and_the_bundle_alone(bento: Path) -> None:
    inside = {path.relative_to(bento / "src").parts[0] for path in (bento / "src").rglob("*.*")}
    assert {"service", "common", "denoiser_client", "bundles"} <= inside
    assert not inside & {"training", "export", "tests", "benchmarks", "runs"}
    assert (bento / "src" / "bundles" / "mnist" / "manifest.json").is_file()
    assert (bento / "src" / "service" / "http" / "openapi.json").is_file()
    page = ROOT / "service" / "playground"
    assert {path.name for path in page.iterdir()} == {
        path.name for path in (bento / "src" / "service" / "playground").iterdir()
    }


def test_its_requirements_are_the_serving_pins(bento: Path) -> None:
    built = pins(bento / "env" / "python" / "requirements.txt")
    assert len(built) > 50
    assert built == pins(ROOT / "requirements" / "serve.txt")
    assert not [pin for pin in built if pin.startswith(("tensorflow", "keras", "tf2onnx"))]


def test_it_answers_as_the_checkout_does(home: Path, server: Server, tmp_path: Path) -> None:
    # .venv-serve is made from the very pins that the test above finds in the bento.
    body = {"latents": [[0.1 * n for n in range(16)]]}
    with serving(
        tmp_path, target=["denoiser:test"], settings={"BENTOML_HOME": str(home)}, cwd=tmp_path
    ) as stored:
        answers = [httpx.post(f"{url}/decode", json=body) for url in (stored.url, server.url)]
        models = [httpx.get(f"{url}/model").json() for url in (stored.url, server.url)]
        pages = [httpx.get(f"{url}/playground") for url in (stored.url, server.url)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert models[0] == models[1]
    assert [page.status_code for page in pages] == [200, 200]
    assert pages[0].content == pages[1].content
