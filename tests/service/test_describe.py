"""A bundle in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import describe as report
from service.bundle import Bundle


def test_everything_a_person_asks_for(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    text = report.describe(bundle)
    for part in [
        str(bundle_path),
        "grey, schema 1, 2026-01-02T03:04:05+00:00",
        f"fingerprint  {bundle.manifest.fingerprint}\n",
        "8×8×1; latents of 4 numbers",
        "dataset digits, task denoise, epochs 3, seed 0\n",
        "1,234 test images: MSE 0.1500 → 0.0125, PSNR dB 8.25 → 19.50, SSIM 0.250 → 0.800",
        "80 comparisons with Keras, largest difference 5.0e-07",
        "denoiser 0.1.0, numpy 2.4.0",
    ]:
        assert part in text
    for name, facts in bundle.manifest.files.items():
        line = next(line for line in text.splitlines() if line.startswith(f"    {name} "))
        assert f"{facts.bytes:,} bytes" in line
        assert facts.sha256[:16] in line


@pytest.mark.parametrize(
    "quality",
    [{}, {"test": {}}, {"test": None}, {"test": {"n": 3, "input": {}, "output": {}}},
     {"test": {"n": 3, "input": {"mse": "x"}, "output": {"mse": "y"}}}],
)  # fmt: skip
def test_quality_that_was_not_recorded(
    tmp_path: Path, make_bundle: Callable[..., Path], quality: dict[str, Any]
) -> None:
    path = make_bundle(tmp_path / "b", quality=quality)
    assert "quality      not recorded" in report.describe(Bundle.open(path))


def test_settings_may_lie_at_the_top(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    path = make_bundle(tmp_path / "b", training={"dataset": "mnist", "noise": None}, tools={})
    assert "trained      dataset mnist\n" in report.describe(Bundle.open(path))


def test_parity_that_was_not_recorded(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    path = make_bundle(tmp_path / "b", parity={})
    assert "0 comparisons" in report.describe(Bundle.open(path))
