"""Two sets of latents in one picture: histograms of each dimension, and the joint test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.arrays import Array
from service.drift.sample import Sample
from service.drift.statistics import Dimension, Drift, Joint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 130
INK, FAINT, ALARM = "#222222", "#777777", "#c0392b"
BLUE, ORANGE = "#2f6db5", "#e07b39"  # reference, new
BINS = 40


def draw(drift: Drift, *, reference: Sample, new: Sample, path: Path) -> None:
    """Write a PNG, whole or not at all. Dimensions that drifted have red titles."""
    from matplotlib.figure import Figure  # not in the serving install

    columns = math.ceil(math.sqrt(len(drift.dimensions)))
    rows = math.ceil(len(drift.dimensions) / columns)
    figure = Figure(figsize=(2.1 * columns + 3.4, 1.75 * rows + 0.7), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(2.1 * columns, 3.4))
    left, right = halves
    panels = np.ravel(left.subplots(rows, columns, squeeze=False))
    for axes, dimension in zip(panels, drift.dimensions, strict=False):
        k = dimension.index
        _draw_dimension(axes, dimension, reference.latents[:, k], new.latents[:, k])
    for axes in panels[len(drift.dimensions) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    left.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    _draw_joint(right.subplots(), drift.joint)
    result = "drift" if drift.detected else "no drift"
    figure.suptitle(
        f"{result} at alpha {drift.alpha:g}: {reference.rows:,} latents and {new.rows:,} new ones",
        color=ALARM if drift.detected else INK,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        figure.savefig(temporary, dpi=DPI, facecolor="white", format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw_dimension(axes: Axes, dimension: Dimension, reference: Array, new: Array) -> None:
    """Both histograms of one dimension, float32 (M,) and (N,), from quantile 0.001 to 0.999."""
    low, high = np.quantile(np.concatenate([reference, new]), [0.001, 0.999])
    edges = np.linspace(low, max(high, np.nextafter(low, np.inf)), BINS + 1).tolist()
    weights = np.full(len(reference), 1 / len(reference)), np.full(len(new), 1 / len(new))
    axes.hist(reference, edges, weights=weights[0], color=BLUE, alpha=0.35, label="reference")
    axes.hist(new, edges, weights=weights[1], color=ORANGE, histtype="step", lw=1.4, label="new")
    axes.set_title(
        f"{dimension.index}: gap {dimension.statistic:.2f}, p {dimension.p_value:.2g}",
        fontsize=8,
        color=ALARM if dimension.drifted else INK,
    )
    axes.set_yticks([])
    axes.tick_params(labelsize=7, colors=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_joint(axes: Axes, joint: Joint) -> None:
    """The energy distances of the permutations, and that of the two sets."""
    axes.hist(joint.under_null, 30, color=FAINT, alpha=0.5, label="random permutations")
    axes.axvline(joint.distance, color=ORANGE, lw=2, label="reference and new")
    axes.set_title(
        f"together: p = {joint.p_value:.3g}", fontsize=10, color=ALARM if joint.drifted else INK
    )
    axes.set_xlabel("energy distance", color=FAINT, fontsize=9)
    axes.set_yticks([])
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13))
