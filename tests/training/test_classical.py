"""Classical denoisers: a fair chance for each, and a clear word where one cannot run."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from tests.support.trained import waves
from training.backend import load_tensorflow

load_tensorflow()

from training.data.arrays import Part, Rows  # noqa: E402
from training.data.datasets import Dataset  # noqa: E402
from training.errors import RunError, SettingsError  # noqa: E402
from training.evaluation import classical  # noqa: E402
from training.evaluation.classical import METHODS, chosen_methods, run_classical  # noqa: E402
from training.evaluation.heldout import HeldOut  # noqa: E402
from training.evaluation.metrics import quality  # noqa: E402
from training.noise.spec import parse_noise  # noqa: E402

pytest.importorskip("skimage", reason="the extra `evaluate` is not installed")


def held(spec: str | None, *, channels: int = 1, times: int = 1) -> HeldOut:
    """Smooth images of 12×8, or that many times as large, 20 to test on and 20 for validation."""
    images = np.rint(waves()[0][..., None] * 255).astype(np.uint8)
    images = images.repeat(times, axis=1).repeat(times, axis=2)
    images = np.concatenate([np.roll(images, k, axis=2) for k in range(channels)], axis=3)
    train, validation, test = (
        Part(Rows(some)) for some in (images[40:], images[20:40], images[:20])
    )
    data = Dataset("waves", "file", train, validation, test)
    noise = parse_noise(spec) if spec else None
    return HeldOut("here", spec, noise, data.test.images, dataset=data)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "bm3d"])
def test_each_cleans_and_undoes_a_shift(name: str, channels: int) -> None:
    found = run_classical(held("gaussian:0.3,0.15", channels=channels), [METHODS[name]])
    (result,) = found.results
    clean, noisy = held("gaussian:0.3,0.15", channels=channels).pairs(range(20))
    given = quality(clean=clean, output=noisy).psnr.mean()
    shifted = quality(clean=clean, output=np.clip(noisy - 0.3, 0, 1)).psnr.mean()
    assert result.quality.psnr.shape == (20,)
    assert result.quality.psnr.mean() > max(given, shifted) + 0.5
    assert result.shift < -0.1  # the grey that the noise's mean adds
    assert result.setting in [*METHODS[name].grid(found.deviation)]
    assert 0.08 < found.deviation < 0.16  # the noise's 0.15, less what is clipped


def test_the_setting_is_the_best_on_validation_images() -> None:
    data = held("salt-pepper:0.4")
    (result,) = run_classical(data, [METHODS["median"]]).results
    clean, noisy = data.validation_pairs(20)
    decibels = {}
    for side in (3, 5, 7):
        output = np.stack([METHODS["median"].run(image, side=side) for image in noisy])
        a, b = np.polyfit(output.ravel(), clean.ravel(), 1)
        output = np.clip(a * output + b, 0, 1).astype(np.float32)
        decibels[side] = quality(clean=clean, output=output).psnr.mean()
    assert result.setting == {"side": max(decibels, key=lambda side: decibels[side])}


@pytest.mark.parametrize("channels", [1, 3])
def test_bm3d(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bm3d", reason="the package bm3d is not installed")
    monkeypatch.setattr(classical, "MAX_VALIDATION", 1)  # a third of a second an image
    monkeypatch.setattr(classical, "MAX_TESTED", 2)
    data = held("gaussian:0.0,0.2", channels=channels, times=2)
    found = run_classical(data, [METHODS["bm3d"]])
    clean, noisy = data.pairs(found.indices.tolist())
    assert found.indices.tolist() == [0, 10]
    assert found.results[0].quality.psnr.mean() > quality(clean=clean, output=noisy).psnr.mean()


def test_bm3d_is_kept_from_images_that_end_its_process() -> None:
    pytest.importorskip("bm3d", reason="the package bm3d is not installed")
    found = run_classical(held("gaussian:0.0,0.2"), [METHODS["bm3d"], METHODS["median"]])
    assert [result.method.title for result in found.results] == ["Median"]
    assert found.left_out == {"BM3D": "it needs images of at least 9x9 pixels"}


def test_methods_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_methods(["tv", "median"]) == [METHODS["tv"], METHODS["median"]]
    with pytest.raises(SettingsError, match="method 'runs/x'; expected some of median,tv,"):
        chosen_methods(["median", "runs/x"])
    monkeypatch.setattr(classical, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"without the package skimage; .* extra `evaluate`"):
        chosen_methods([])
    monkeypatch.setattr(classical, "find_spec", lambda n: None if n == "bm3d" else find_spec(n))
    with pytest.raises(RunError, match=r"BM3D without .* --classical median,tv,wavelets,nlm"):
        chosen_methods([])


def test_noise_and_validation_images_are_needed() -> None:
    with pytest.raises(SettingsError, match=r"without noise; .*\. Pass --noise"):
        run_classical(held(None), [METHODS["median"]])
    samples = HeldOut("samples.npz", "gaussian", None, held("gaussian").images)
    with pytest.raises(SettingsError, match=r"on samples\.npz; .* with --dataset"):
        run_classical(samples, [METHODS["median"]])
