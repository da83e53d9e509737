"""What git would hand out is whole."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Words of a private dialect that the project no longer speaks.
OLD_WORDS = re.compile(r"\b(spoil\w*|came|todo|told|wishes|trust)\b")
PROSE = ("README.md", "CONTRIBUTING.md", "docs/*.md", "*.py", "*.js", "*.html", "*.css")
TEXT = ("*.md", "*.py", "*.js", "*.html", "*.toml", "*.y*ml", "*.in", "*.sh", "Makefile")


def tracked(*patterns: str) -> set[str]:
    """The files that git has, by patterns of names."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return set(listed.stdout.split())


def test_the_old_words_are_gone() -> None:
    uses = [
        f"{name}:{number}: {match[0]}"
        for name in sorted(tracked(*PROSE) - {"tests/test_repository.py"})
        for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), 1)
        for match in OLD_WORDS.finditer(line)
    ]
    assert uses == []


def test_no_file_names_a_path_beside_the_checkout() -> None:
    """But for `.ci/run`, which sets MNIST_NPZ."""
    outside = re.compile(r"\.\./shared|/work/")
    names = sorted(tracked(*TEXT) - {"tests/test_repository.py"})
    assert [name for name in names if outside.search((ROOT / name).read_text("utf-8"))] == []


def test_git_has_every_file_of_the_shipped_bundles() -> None:
    files_of_git = tracked("bundles")
    manifests = [name for name in files_of_git if name.endswith("manifest.json")]
    assert "bundles/mnist/manifest.json" in manifests
    for manifest in manifests:
        files = json.loads((ROOT / manifest).read_text(encoding="utf-8"))["files"]
        folder = manifest.removesuffix("manifest.json")
        assert {folder + name for name in files} <= files_of_git


def test_a_clone_that_converts_line_ends_has_the_same_bytes(tmp_path: Path) -> None:
    """As on Windows: a converted manifest, shell script or Makefile would be refused or fail."""
    tracked("README.md")  # or skip
    windows = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", "clone", "-q", "--shared", *windows, ROOT, tmp_path / "c"], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--eol"], cwd=tmp_path / "c", capture_output=True, text=True, check=True
    )
    ends = [line.split() for line in listed.stdout.splitlines()]  # i/lf w/lf attr/… name
    assert len(ends) > 300
    assert [line for line in ends if line[0][2:] != line[1][2:]] == []
