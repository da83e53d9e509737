"""The pictures of the documentation, each drawn from the content of a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks.peers import OURS, OURS_INT8

INK, FAINT = "#222222", "#8a8a8a"
DASHES = (0, (6, 3))
MIN_MEMORY = 0.01  # MiB, so that 0 has a place on the logarithmic axis
STYLES = {
    OURS: ("#c8402f", "-", 2.8),
    OURS_INT8: ("#c8402f", "--", 2.2),
    "ONNX Runtime": ("#2f6db5", "-", 1.6),
    "OpenVINO f32 throughput": ("#3b8f5b", "-", 1.6),
    "OpenVINO f32 latency": ("#3b8f5b", "--", 1.6),
    "OpenVINO bf16 throughput": ("#8b6fb8", "-", 1.6),
    "OpenVINO bf16 latency": ("#8b6fb8", "--", 1.6),
    "Keras predict": ("#d99a2b", "-", 1.6),
    "TensorFlow XLA": ("#7c5a3c", "-", 1.6),
}


def rates(result: dict[str, Any], path: Path) -> Path:
    """Denoised images per second by batch size, every runtime, the limit as a line."""
    denoise = result["results"]["denoise"]
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    axes = figure.subplots()
    ends = []
    for name, by_batch in denoise["sweep"].items():
        color, line, width = STYLES.get(name, (FAINT, "-", 1.6))
        points = {int(batch): facts["images_per_second"] for batch, facts in by_batch.items()}
        if name in (OURS, OURS_INT8):  # also the headline's one call
            points[result["images"]] = denoise["peers"][name]["images_per_second"]
        batches = sorted(points)
        middle = np.array([points[batch]["median"] for batch in batches])
        axes.plot(batches, middle, line, color=color, lw=width, marker="o", ms=width + 2, zorder=3)
        low = [points[batch]["low"] for batch in batches]
        high = [points[batch]["high"] for batch in batches]
        axes.vlines(batches, low, high, color=color, alpha=0.35, lw=1.2, zorder=2)
        ends.append((name, batches[-1], middle[-1], color))
    limit = denoise["peers"]["GEMM peak"]["images_per_second"]["median"]
    axes.axhline(limit, color=INK, lw=1.2, ls=DASHES)
    flop = 2 * result["multiply_adds"]["denoise"]["needed"] / 1e6
    axes.annotate(
        f"limit: {limit:,.0f} = GEMM peak ÷ {flop:.1f} MFLOP",
        (1, limit),
        (0, 5),
        textcoords="offset points",
        color=INK,
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        zorder=4,
    )
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.85, max(batch for _, batch, _, _ in ends) * 14)
    top = max(limit, axes.dataLim.ymax) * 1.12
    axes.set_ylim(0, top)
    _label_ends(axes, ends, gap=top * 0.047)
    ticks = sorted({int(b) for by_batch in denoise["sweep"].values() for b in by_batch})
    axes.set_xticks([tick for tick in ticks if tick != 32])
    axes.set_xlabel("images in one call (batch size)")
    axes.set_title(
        f"Denoised images per second on {result['machine']['cores']} cores "
        f"({result['machine']['cpu']})",
        loc="left",
        color=INK,
        fontsize=13,
    )
    _tidy(axes)
    return _save(figure, path)


def growth(result: dict[str, Any], path: Path) -> Path:
    """Time and memory of one call by its number of images, beside proportional growth."""
    rows = result["growth"]
    images = [row["images"] for row in rows]
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)

    seconds = [sorted(row["seconds"])[len(row["seconds"]) // 2] for row in rows]
    slope = seconds[-1] / images[-1]
    proportional = [slope * count for count in images]
    arrays = [(row["input_bytes"] + row["output_bytes"]) / 2**20 for row in rows]
    extra = [max(row["extra_bytes"] / 2**20, MIN_MEMORY) for row in rows]
    color = STYLES[OURS][0]
    for axes, title, reference, values in (
        (left, "Seconds for one call", proportional, seconds),
        (right, "MiB of memory", arrays, extra),
    ):
        axes.plot(images, reference, color=FAINT, lw=1.2, ls=DASHES)
        axes.plot(images, values, color=color, lw=2.4, marker="o")
        axes.set_title(title, loc="left", color=INK, fontsize=12)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("images in one call")
        _tidy(axes, plain_y=False)
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9.5}
    left.annotate("proportional", (images[0], slope), (8, -2), color=FAINT, va="top", **style)
    style["ha"] = "right"
    right.annotate("input and output", (images[-1], arrays[-1]), (-6, 0), color=FAINT, **style)
    right.annotate("beyond these", (images[-1], extra[-1]), (-2, 8), color=color, **style)
    return _save(figure, path)


def _label_ends(axes: Axes, ends: list[tuple[str, int, float, str]], *, gap: float) -> None:
    """Names to the right of their lines, moved so that they do not overlap."""
    right = max(batch for _, batch, _, _ in ends)
    below = -gap
    for name, batch, value, color in sorted(ends, key=lambda end: end[2]):
        below = max(value, below + gap)
        axes.annotate(
            name,
            (batch, value),
            (right * 1.35, below),
            color=color,
            fontsize=9.5,
            fontweight="bold" if name == OURS else "normal",
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.5},
        )


def _tidy(axes: Axes, *, plain_y: bool = True) -> None:
    for axis in (axes.xaxis, axes.yaxis) if plain_y else (axes.xaxis,):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#e6e6e6", lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    axes.xaxis.label.set_color(INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    print(f"written: {path}")
    return path
