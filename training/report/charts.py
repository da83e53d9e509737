"""Charts as inline SVG in the page's colours, light or dark.

Matplotlib draws with placeholder colours, which are then replaced by the page's CSS variables.
Legends are part of the page, where names from outside are escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from common.arrays import Floats
from training.data.arrays import Labels
from training.evaluation.figures import principal

INK, FAINT, LINE = "#010101", "#010102", "#010103"
SERIES = tuple(f"#01011{k}" for k in range(1, 7))
VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line"} | {
    colour: f"--series-{k}" for k, colour in enumerate(SERIES, 1)
}
SIZE = (4.6, 3.2)  # inches; narrow, for phones
COLOURS = [to_hex(colour) for colour in matplotlib.color_sequences["tab10"]]  # of classes


class Line(NamedTuple):
    """Means and their intervals over the noise levels; None where there is none."""

    means: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


def level_chart(
    factors: Sequence[float], noisy: Line, runs: Sequence[Line], *, axis: str, about: str
) -> Markup:
    """A curve for each run over the noise level, and a dashed one for the noisy input."""
    figure, axes = _chart()
    axes.plot(factors, _floats(noisy.means), color=FAINT, lw=1.4, ls=(0, (4, 3)))
    for k, line in enumerate(runs):
        colour = SERIES[k % len(SERIES)]
        lows, highs = _floats(line.lows), _floats(line.highs)
        axes.fill_between(factors, lows, highs, color=colour, alpha=0.18, lw=0)
        axes.plot(factors, _floats(line.means), color=colour, lw=1.8, marker="o", ms=3.5)
    axes.set_xlabel("noise level", color=FAINT)
    axes.set_title(axis, color=FAINT, fontsize=9.5, loc="left")
    axes.set_xlim(0, max(factors) * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:g} ×")
    return _svg(figure, about)


def latent_chart(latents: Floats, labels: Labels | None, *, about: str) -> tuple[Markup, list[int]]:
    """Latents (N, D) on their first two principal axes, and the classes that have a colour."""
    points, shares = principal(latents)
    figure, axes = _chart()
    dots: dict[str, Any] = {"s": 9, "alpha": 0.75, "linewidths": 0}
    classes = [] if labels is None else np.unique(labels).tolist()
    if labels is None or len(classes) > len(COLOURS):
        classes = []
        axes.scatter(*points.T, color=SERIES[0], **dots)
    else:
        for k, label in enumerate(classes):
            axes.scatter(*points[labels == label].T, color=COLOURS[k], **dots)
    axes.set_xlabel(f"first principal axis, {shares[0]:.0%} of the variance", color=FAINT)
    axes.set_ylabel(f"second, {shares[1]:.0%}", color=FAINT)
    return _svg(figure, about), classes


def _chart() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.grid(color=LINE, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=FAINT, labelsize=9)
    axes.set_facecolor("none")
    return figure, axes


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _svg(figure: Figure, about: str) -> Markup:
    """The figure as an <svg> element without a fixed size, described by `about`."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": about}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", text)  # nothing refers to these
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    view = re.search(r"viewBox=\"[^\"]*\"", text)
    assert view is not None
    inside = text[text.index(">") + 1 :]
    return Markup('<svg {} role="img" aria-label="{}" xmlns:xlink="{}">{}').format(
        Markup(view[0]), escape(about), "http://www.w3.org/1999/xlink", Markup(inside)
    )
