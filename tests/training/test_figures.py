"""Figures: every file is made, and what it shows depends on the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.backend import load_tensorflow

load_tensorflow()

from training.evaluation import figures  # noqa: E402
from training.model import build  # noqa: E402
from training.noise.kinds import KINDS  # noqa: E402
from training.noise.ranges import LEVELS  # noqa: E402
from training.noise.spec import parse_noise  # noqa: E402
from training.settings import FitSettings  # noqa: E402

HISTORY = [
    {"epoch": k, "loss": 0.1 / k, "val_loss": 0.12 / k, "learning_rate": 0.001, "seconds": 1.0}
    for k in range(1, 6)
]


def images(count: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 12, 16, channels), dtype=np.float32)


def pixels(path: Path | None) -> np.ndarray:
    assert path is not None
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("count", "channels"), [(20, 1), (20, 3), (5, 1)])
def test_grids_show_their_images(tmp_path: Path, count: int, channels: int) -> None:
    clean = images(count, channels)
    drawn = []
    for seed in (1, 2):
        output = images(count, channels, seed)
        drawn.append(pixels(figures.reconstruction(tmp_path, clean=clean, output=output)))
        figures.denoising(tmp_path, clean=clean, noisy=1 - clean, output=output)
        drawn.append(pixels(tmp_path / "denoising.png"))
    assert drawn[0].std() > 20
    for one, other in (drawn[::2], drawn[1::2]):
        assert one.shape == other.shape
        differing = (one != other).any(axis=(1, 2))
        assert differing.any()
        assert not differing[: len(differing) // 4].any()  # the originals on top are the same


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_levels_grow(tmp_path: Path, channels: int) -> None:
    clean = images(1, channels)[0]
    levels = figures.levels_of(clean, parse_noise("gaussian:0,0.3"))
    assert levels.noisy.shape == (len(LEVELS), *clean.shape)
    errors = abs(levels.noisy - clean).mean(axis=(1, 2, 3))
    assert (np.diff(errors) > 0).all()
    drawn = pixels(figures.noise_levels(tmp_path, levels, clean=clean, output=levels.noisy))
    assert drawn.std() > 20


@pytest.mark.parametrize("spec", [*KINDS, "gaussian:0..0.5,0..0.7", "blur:1+mask:0.2+poisson:9"])
def test_every_noise_can_be_drawn_in_levels(tmp_path: Path, spec: str) -> None:
    noise = parse_noise(spec)
    clean = images(1, 1)[0]
    levels = figures.levels_of(clean, noise)
    assert len(set(levels.names)) == len(levels.names) == len(levels.noisy)
    for part in noise.describe():
        assert all(part["kind"] in name for name in levels.names)
    itself = noise.at(1).apply(clean[None], np.random.default_rng(0))[0]
    assert any(np.array_equal(level, itself) for level in levels.noisy)
    drawn = pixels(figures.noise_levels(tmp_path, levels, clean=clean, output=levels.noisy))
    assert drawn.std() > 20


def test_levels_end_where_a_number_does(tmp_path: Path) -> None:
    levels = figures.levels_of(images(1, 1)[0], parse_noise("mask:0.8"))
    assert [name.split()[1] for name in levels.names] == ["0.2", "0.4", "0.6", "0.8", "1"]


def test_the_learning_curve_follows_the_history(tmp_path: Path) -> None:
    one = pixels(figures.learning_curve(tmp_path, HISTORY))
    other = pixels(figures.learning_curve(tmp_path, HISTORY[:1]))
    assert (one < 250).any()
    assert one.shape != other.shape or (one != other).any()


def test_latents_are_coloured_by_label(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    plain = pixels(figures.latent_scatter(tmp_path, latents, None))
    coloured = pixels(figures.latent_scatter(tmp_path, latents, np.arange(60) % 3))

    def colours(drawn: np.ndarray) -> int:
        hues = drawn.reshape(-1, 3).astype(int)
        vivid = hues[np.ptp(hues, axis=1) > 70]
        return len({tuple(hue) for hue in (vivid // 64)})

    assert colours(coloured) > colours(plain) > 0


def test_a_single_latent_number_can_be_drawn(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(9, 1)).astype(np.float32)
    assert figures.latent_scatter(tmp_path, latents, None).is_file()


def test_the_diagram_needs_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = build(FitSettings.resolve(filters=(2,)), (4, 4, 1))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert figures.model_diagram(tmp_path, models) is None
    assert list(tmp_path.iterdir()) == []
