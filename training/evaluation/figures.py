"""The figures of a run: grids of images, curves, a map of the latents, the network as a diagram.

Images are float32 (N, H, W, C) in [0, 1], C 1 (grey) or 3 (RGB). Each function writes one PNG
into a folder, without pyplot's global state.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.arrays import Floats
from training.data.arrays import Labels
from training.evaluation.metrics import quality
from training.model import Models
from training.noise.ranges import LEVELS
from training.noise.spec import Noise

DPI = 150
INK = "#222222"
FAINT = "#777777"
BLUE, ORANGE = "#2f6db5", "#e07b39"
ROW_TITLE: dict[str, Any] = {"fontsize": 11, "color": INK, "labelpad": 6}
MAX_CLASSES = 10  # with a colour each


class Levels(NamedTuple):
    """One image at several noise levels: their names, and float32 (L, H, W, C) in [0, 1]."""

    names: list[str]
    noisy: Floats


def levels_of(image: Floats, noise: Noise) -> Levels:
    """The image (H, W, C) under the noise from weak to strong, the same draw at each level.

    Levels at which all numbers have reached their limits (every pixel is masked) are one.
    """
    levels = {str(level): level for level in map(noise.at, LEVELS)}
    noisy = [level.apply(image[None], np.random.default_rng(0)) for level in levels.values()]
    return Levels([_title(level) for level in levels.values()], np.concatenate(noisy))


def reconstruction(folder: Path, *, clean: Floats, output: Floats) -> Path:
    """4 × 4 originals above, the model's outputs for them below."""
    figure = Figure(figsize=(4.2, 9.0), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    for part, title, images in zip(halves, ("Original", "Decoded"), (clean, output), strict=True):
        part.suptitle(title, color=INK, fontsize=13)
        for axes, image in zip(part.subplots(4, 4).flat, images[:16], strict=False):
            _show(axes, image)
        _hide_empty(part.axes)
    return _save(figure, folder / "reconstruction.png")


def denoising(folder: Path, *, clean: Floats, noisy: Floats, output: Floats) -> Path:
    """Nine images in three rows: original, noisy, denoised."""
    figure = Figure(figsize=(10.2, 3.7), layout="constrained")
    grid = figure.subplots(3, 9)
    rows = (("Original", clean), ("Noisy", noisy), ("Denoised", output))
    for row, (title, images) in zip(grid, rows, strict=True):
        for axes, image in zip(row, images, strict=False):
            _show(axes, image)
        row[0].set_ylabel(title, **ROW_TITLE)
    _hide_empty(grid.flat)
    return _save(figure, folder / "denoising.png")


def noise_levels(folder: Path, levels: Levels, *, clean: Floats, output: Floats) -> Path:
    """One image (H, W, C) at several noise levels, noisy and denoised, with the PSNR of each."""
    count = len(levels.names)
    figure = Figure(figsize=(1.55 * (count + 1), 4.0), layout="constrained")
    grid = figure.subplots(2, count + 1)
    originals = np.broadcast_to(clean, output.shape)
    _show(grid[0, 0], clean)
    grid[0, 0].set_title("Original", fontsize=9, color=INK)
    for row, title, images in ((0, "Noisy", levels.noisy), (1, "Denoised", output)):
        decibels = quality(clean=originals, output=images).psnr
        for axes, image, value in zip(grid[row, 1:], images, decibels, strict=True):
            _show(axes, image)
            axes.set_xlabel(f"{value:.1f} dB", fontsize=9, color=FAINT, labelpad=3)
        grid[row, 1].set_ylabel(title, **ROW_TITLE)
    for axes, name in zip(grid[0, 1:], levels.names, strict=True):
        axes.set_title(name, fontsize=9, color=INK)
    _hide_empty(grid.flat)
    return _save(figure, folder / "noise_levels.png")


def learning_curve(folder: Path, history: list[dict[str, float]]) -> Path:
    """Training and validation loss by epoch, on a logarithmic scale."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    epochs = [int(row["epoch"]) for row in history]
    marker = "o" if len(epochs) <= 20 else None
    for key, label, colour in (("loss", "training", BLUE), ("val_loss", "validation", ORANGE)):
        values = [row[key] for row in history]
        axes.plot(epochs, values, label=label, color=colour, marker=marker, ms=4, lw=1.8)
    axes.set_title(
        f"Learning curve: validation loss {history[-1]['val_loss']:.4f} at the end", color=INK
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", color="#e6e6e6", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _save(figure, folder / "learning_curve.png")


def latent_scatter(folder: Path, latents: Floats, labels: Labels | None) -> Path:
    """Latents, float32 (N, D), on their first two principal axes, coloured by label."""
    points, shares = principal(latents)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    dots: dict[str, Any] = {"s": 13, "alpha": 0.75, "linewidths": 0}
    classes = [] if labels is None else sorted(set(labels.tolist()))
    if labels is None or len(classes) > MAX_CLASSES:
        axes.scatter(*points.T, color=BLUE, **dots)
    else:
        for k, label in enumerate(classes):
            axes.scatter(*points[labels == label].T, color=f"C{k}", label=label, **dots)
        axes.legend(frameon=False, markerscale=1.8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title(f"{len(latents):,} latents on two of {latents.shape[1]} axes", color=INK)
    axes.set_xlabel(f"first principal axis ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal axis ({shares[1]:.0%})")
    axes.grid(color="#eeeeee", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, folder / "latent_scatter.png")


def model_diagram(folder: Path, models: Models) -> Path | None:
    """The network as Keras draws it; None where Graphviz or pydot is missing."""
    if shutil.which("dot") is None:
        return None
    path = folder / "model.png"
    options = {"show_shapes": True, "show_layer_names": True, "expand_nested": True, "dpi": 100}
    try:
        keras.utils.plot_model(models.autoencoder, to_file=path, **options)
    except (ImportError, OSError):
        return None
    return path if path.is_file() else None


def _title(noise: Noise) -> str:
    """A fixed noise: each kind with its numbers below it, to three digits."""
    lines = []
    for part in noise.describe():
        numbers = (f"{low:.3g}" for low, _ in part["parameters"].values())
        lines.append(f"{part['kind']}\n{', '.join(numbers)}")
    return "\n".join(lines)


def principal(latents: Floats) -> tuple[Floats, tuple[float, float]]:
    """The first two principal components, (N, 2), and their shares of the variance."""
    centred = latents - latents.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    points, shares = np.zeros((len(latents), 2), np.float32), np.zeros(2)
    count = min(2, len(axes))
    points[:, :count] = centred @ axes[:count].T
    shares[:count] = sizes[:count] ** 2 / max(float((sizes**2).sum()), math.ulp(1.0))
    return points, (float(shares[0]), float(shares[1]))


def _show(axes: Axes, image: Floats) -> None:
    """One image, grey or RGB, without ticks or frame."""
    axes.imshow(image.squeeze(-1) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _hide_empty(grid: Any) -> None:
    """Switch off the axes that have no image."""
    for axes in grid:
        if not axes.images:
            axes.set_axis_off()


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI, facecolor="white")
    return path
