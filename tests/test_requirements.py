"""The pins: complete, hashed, without index addresses, and current with pyproject.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SETS = ("serve", "train", "dev")
OTHERS = ("bench", "peers", "spark", "test")


def pins(name: str) -> dict[str, str]:
    """Package → version. Where interpreters need different ones, the last."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))


def declared() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"client": project["dependencies"], **project["optional-dependencies"]}


@pytest.mark.parametrize("name", [*SETS, *OTHERS])
def test_every_pin_has_a_hash_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert len(entries) > (50 if name in SETS else 1)
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text and "index-url" not in text


@pytest.mark.parametrize("name", SETS)
def test_every_declared_package_is_pinned(name: str) -> None:
    groups = {
        "serve": ["client", "serve"],
        "train": ["client", "serve", "train"],
        "dev": [group for group in declared() if group not in ("bm3d", "spark")],
    }
    for group in groups[name]:
        for requirement in declared()[group]:
            package = re.split(r"[<>=;\[ ]", requirement)[0].lower()
            assert package in pins(name), package


def test_the_serving_set_is_small_and_agrees_with_the_others() -> None:
    serve, train, dev = pins("serve"), pins("train"), pins("dev")
    assert not {"tensorflow", "keras", "tf2onnx", "onnx", "scikit-learn", "pytest"} & set(serve)
    assert serve.items() <= train.items() <= dev.items()


def test_the_serving_tests_need_nothing_that_serving_pins_otherwise() -> None:
    serve, test = pins("serve"), pins("test")
    assert {"pytest", "hypothesis"} <= set(test) and not {"onnx", "pyarrow"} & set(test)
    shared = serve.keys() & test.keys()
    assert {name: test[name] for name in shared} == {name: serve[name] for name in shared}


def test_the_client_needs_two_packages() -> None:
    assert [re.split(r"[<>=;\[ ]", name)[0] for name in declared()["client"]] == ["numpy", "httpx"]


@pytest.mark.slow
def test_make_lock_gives_the_same_pins(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy2(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    environment = tmp_path / ".venv"
    (environment / "bin").mkdir(parents=True)
    shim = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    (environment / "bin" / "python").write_text(shim)
    (environment / "bin" / "python").chmod(0o755)
    (environment / ".ready").touch()
    done = subprocess.run(["make", "lock"], cwd=tmp_path, capture_output=True, text=True)
    if "error sending request" in done.stderr or "Failed to fetch" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    for name in (*SETS, *OTHERS):
        made = (tmp_path / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        kept = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        assert made == kept, f"requirements/{name}.txt is not what pyproject.toml gives"
