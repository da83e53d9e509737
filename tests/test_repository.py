"""What git would hand out is whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_git_has_every_file_of_the_shipped_bundles() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "bundles"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    tracked = set(listed.stdout.split())
    manifests = [name for name in tracked if name.endswith("manifest.json")]
    assert "bundles/mnist/manifest.json" in manifests
    for manifest in manifests:
        files = json.loads((ROOT / manifest).read_text(encoding="utf-8"))["files"]
        folder = manifest.removesuffix("manifest.json")
        assert {folder + name for name in files} <= tracked
