"""The report: `page.html` filled in from an assessment, and the file it is written to.

All text from outside (names of runs, data and noise, settings) is escaped by Jinja. The page's
content security policy forbids it to load or run anything.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from common.arrays import Floats, to_bytes
from training.errors import SettingsError
from training.evaluation.assess import Assessment
from training.report.charts import COLOURS, SERIES, Line, latent_chart, level_chart
from training.runs import staged_file

TEMPLATE = Path(__file__).with_name("page.html")
MINUS = "\N{MINUS SIGN}"
ALWAYS_DIFFER = {"time of training", "finished"}  # not marked as a difference between runs
MAX_SIDE = 160  # pixels of an image in the page


def require_place(path: str | Path) -> None:
    """Refuse a place that a report cannot be written to, before the work for it."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise SettingsError(
            f"--html {path}" + (" (a folder)" if path.is_dir() else ""),
            expected="a file to write in an existing folder",
        )


def write_report(assessment: Assessment, summary: dict[str, Any], path: str | Path) -> Path:
    """Write the page; the file is whole or not there."""
    path = Path(path)
    require_place(path)
    try:
        with staged_file(path) as temporary:
            temporary.write_text(render(assessment, summary), encoding="utf-8")
    except OSError as exc:
        received = f"--html {path} ({exc.strerror})"
        raise SettingsError(received, expected="a file that can be written") from exc
    return path


def render(assessment: Assessment, summary: dict[str, Any]) -> str:
    """The page as text; `summary` is the result of `summarise` for the same assessment."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["fixed"] = fixed
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = {index: place for place, index in enumerate(assessment.shown)}
    return page.render(
        summary=summary,
        runs=summary["runs"],
        first=summary["runs"][0],
        place=shown,
        clean=[data_uri(image) for image in assessment.clean],
        noisy=[data_uri(image) for image in assessment.noisy],
        denoised=[[data_uri(image) for image in score.denoised] for score in assessment.scores],
        curves=_curves(summary),
        maps=_maps(assessment),
        colours=COLOURS,
        series=len(SERIES),
        ranking=_ranking(summary),
        facts=_facts(summary["runs"]),
    )


def fixed(value: float | None, digits: int, *, signed: bool = False) -> str:
    """A number with so many digits and a true minus sign; a dash for None."""
    if value is None:
        return "—"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def data_uri(image: Floats) -> str:
    """float32 (H, W, C) in [0, 1], C 1 or 3, as a small PNG in a `data:` address."""
    values = to_bytes(np.clip(image, 0, 1))
    picture = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _curves(summary: dict[str, Any]) -> list[Markup]:
    """PSNR and SSIM over the noise level; none for fewer than two levels."""
    levels = summary["levels"]
    if len(levels) < 2:
        return []
    return [
        level_chart(
            [level["level"] for level in levels],
            _line([level[name] for level in levels]),
            [_line([level[name] for level in run["levels"]]) for run in summary["runs"]],
            axis=axis,
            about=f"{axis} over the noise level",
        )
        for name, axis in (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
    ]


def _line(estimates: Sequence[dict[str, Any]]) -> Line:
    means, lows, highs = ([one[end] for one in estimates] for end in ("mean", "low", "high"))
    return Line(means, lows, highs)


def _maps(assessment: Assessment) -> list[tuple[Markup, list[int]]]:
    """Each run's latents as a map, and the labels that have a colour in it."""
    labels = assessment.held.labels
    return [
        latent_chart(
            score.mapped,
            None if labels is None else labels[assessment.mapped],
            about=f"Latents of run {number} on their first two principal axes",
        )
        for number, score in enumerate(assessment.scores, 1)
    ]


def _ranking(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs, classical denoisers and the noisy input on the same images, best PSNR first."""
    classical = summary["classical"]
    if classical is None:
        return []
    rows = [{"name": "noisy input", "kind": "input", **classical["input"]}]
    rows += [{"kind": "run", "name": name, **values} for name, values in classical["runs"].items()]
    rows += [{"kind": "method", **method} for method in classical["methods"]]
    rows.sort(key=lambda row: -(row["psnr"]["mean"] or 0))
    return rows


def _facts(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """Rows of training facts: name, one text per run, and whether to mark a difference."""
    columns = []
    for run in runs:
        training = run["training"]
        columns.append(
            {name.replace("_", " "): _text(value) for name, value in training["settings"].items()}
            | {
                "training images": f"{training['data']['counts']['train']:,}",
                "image shape": _text(training["data"]["image_shape"], " × "),
                "parameters": f"{training['parameters']:,}",
                "epochs trained": _text(training["epochs"]),
                "time of training": f"{training['seconds']:,.0f} s",
                "finished": training["finished"].replace("T", " ").replace("+00:00", " UTC"),
            }
            | {f"{name} at training": text for name, text in training["versions"].items()}
        )
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [column.get(name, "—") for column in columns]) for name in names]
    return [
        (name, cells, len(set(cells)) > 1 and name not in ALWAYS_DIFFER) for name, cells in rows
    ]


def _text(value: Any, joint: str = ", ") -> str:
    if value is None:
        return "—"
    return joint.join(map(str, value)) if isinstance(value, list) else str(value)
