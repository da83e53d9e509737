"""The benchmark of bulk jobs runs end to end; no clocks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import bulk
from benchmarks.__main__ import SPEED
from benchmarks.models import Models
from benchmarks.settings import Settings


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_quick_run(bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "bulk" in SPEED
    models = Models(tmp_path, bundle_path, tmp_path, "none", seed=0)
    settings = Settings(bundle=bundle_path, out=tmp_path, quick=True)
    result = bulk.run(settings, models)
    assert json.loads((tmp_path / "bulk.json").read_text())["array"]["images"] == 2_000
    assert set(result["array"]["seconds"]) == {"engine", "bulk"}
    assert set(result["folder"]["seconds"]) == {"bulk", "reader", "pillow", "pillow_processes"}
    assert result["array"]["peak_bytes"] > result["array"]["bare_bytes"] > 0
    assert "python -m service encode" in capsys.readouterr().out
