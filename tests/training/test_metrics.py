"""MSE, PSNR and SSIM against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from training.backend import load_tensorflow

load_tensorflow()

from training.evaluation import metrics  # noqa: E402
from training.evaluation.metrics import DEFINITIONS, quality  # noqa: E402


def pair(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = rng.random(shape, dtype=np.float32)
    noise = rng.normal(0, 0.2, shape).astype(np.float32)
    return clean, np.clip(clean + noise, 0, 1)


def ssim_by_hand(a: np.ndarray, b: np.ndarray, window: int) -> float:
    """SSIM of two (H, W) images by its definition, with a Gaussian window of sigma 1.5."""
    line = np.exp(-((np.arange(window) - (window - 1) / 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2

    def local(image: np.ndarray) -> np.ndarray:
        sums: np.ndarray = (sliding_window_view(image, (window, window)) * weights).sum((2, 3))
        return sums

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    cov = local(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


@pytest.mark.parametrize("shape", [(5, 28, 28, 1), (4, 16, 20, 3), (3, 8, 12, 1)])
def test_against_plain_numpy(shape: tuple[int, ...]) -> None:
    clean, output = pair(*shape)
    result = quality(clean=clean, output=output)
    mse = ((clean - output) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(result.mse, mse, rtol=1e-4)
    np.testing.assert_allclose(result.psnr, 10 * np.log10(1 / mse), rtol=1e-4)
    window = min(11, shape[1], shape[2])
    by_hand = [
        np.mean([ssim_by_hand(a[..., c], b[..., c], window) for c in range(shape[3])])
        for a, b in zip(clean.astype(float), output.astype(float), strict=True)
    ]
    np.testing.assert_allclose(result.ssim, by_hand, atol=1e-4)
    assert result.means()["psnr"] == pytest.approx(np.mean(10 * np.log10(1 / mse)), rel=1e-4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, output = pair(7, 12, 12, 1)
    whole = quality(clean=clean, output=output)
    monkeypatch.setattr(metrics, "CHUNK", 3)
    parts = quality(clean=clean, output=output)
    for name in DEFINITIONS:
        assert getattr(parts, name).shape == (7,)
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-6)


def test_identical_images_have_no_finite_psnr() -> None:
    clean, _ = pair(2, 12, 12, 1)
    means = quality(clean=clean, output=clean).means()
    assert means == {"mse": 0.0, "psnr": None, "ssim": pytest.approx(1.0)}
