"""What others install: a wheel of `denoiser_client` that needs numpy and httpx alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from service import __version__
from tests.support.paths import ROOT

IMPORT = """
import json, sys, time
began = time.perf_counter()
import numpy, httpx
needed = set(sys.modules)
half = time.perf_counter()
import denoiser_client
print(json.dumps({
    "seconds": time.perf_counter() - began,
    "own_seconds": time.perf_counter() - half,
    "version": denoiser_client.__version__,
    "names": sorted(denoiser_client.__all__),
    "file": denoiser_client.__file__,
    "added": sorted({name.partition(".")[0] for name in set(sys.modules) - needed}),
}))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    if done.returncode:
        unreachable = ("No matching distribution", "Could not find a version", "Connection")
        if any(words in done.stdout + done.stderr for words in unreachable):
            pytest.skip("pip cannot fetch packages")
        pytest.fail(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files, so that a build leaves nothing behind in this checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    if not any(names):
        pytest.skip("not a git checkout")
    for name in names:
        if name.startswith(("denoiser_client/", "service/")) or (name and "/" not in name):
            target = copy / name
            if (ROOT / name).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", "dist", cwd=checkout)
    (path,) = (checkout / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_the_client_alone(wheel: Path) -> None:
    assert wheel.name.startswith(f"denoiser-{__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {name for name in names if ".dist-info/" not in name}
    expected = {f"denoiser_client/{path.name}" for path in (ROOT / "denoiser_client").glob("*.py")}
    assert code == expected | {"denoiser_client/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel)
    packages = {
        row["name"] for row in json.loads(run(python, "-m", "pip", "list", "--format=json"))
    }
    assert {"denoiser", "numpy", "httpx"} <= packages
    assert len(packages - {"pip", "setuptools"}) <= 10
    runs = [json.loads(run(python, "-c", IMPORT, cwd=tmp_path)) for _ in range(4)]
    result = min(runs, key=lambda one: one["seconds"])
    print(f"\nimport: {result['seconds']:.2f} s, {result['own_seconds']:.3f} s of them its own")
    assert result["version"] == __version__
    assert "DenoiserClient" in result["names"]
    assert Path(result["file"]).is_relative_to(tmp_path)
    foreign = set(result["added"]) - set(sys.stdlib_module_names) - {"numpy", "httpx"}
    assert foreign == {"denoiser_client"}
    assert result["own_seconds"] < 0.1
    assert result["seconds"] < 1  # 0.3 on a quiet machine


def test_the_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path) -> None:
    script = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", script], cwd=checkout, check=True, capture_output=True)
    (source,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "denoiser_client/client.py"} <= names
    assert not [name for name in names if name.startswith(("training", "export", "tests/"))]
    out = checkout / "again"
    run(sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--wheel-dir", out)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(next(out.glob("*.whl"))) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
