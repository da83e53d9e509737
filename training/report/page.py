"""The page: what `page.html` shows of an assessment, and the file it is written to.

Everything that comes from outside (names of runs, data and noise, settings) goes through Jinja's
autoescaping. The page forbids itself, by its own policy, to load or run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from training.errors import SettingsError
from training.evaluation.assess import Assessment
from training.report.charts import COLOURS, SERIES, Line, latent_chart, level_chart
from training.report.pictures import data_uris

TEMPLATE = Path(__file__).with_name("page.html")
MINUS = "\N{MINUS SIGN}"
UNLIKE = ("time of training", "finished")  # which always differ, and say nothing by it


def require_place(path: str | Path) -> None:
    """Refuse a place that a report cannot be written to, before the work that it would show."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise SettingsError(
            f"--html {path}" + (" (a folder)" if path.is_dir() else ""),
            expected="a file to write in an existing folder",
            hint="Pass for example --html report.html.",
        )


def write_report(assessment: Assessment, summary: dict[str, Any], path: str | Path) -> Path:
    """Write the page under a temporary name and rename it: the file is whole or not there."""
    path = Path(path)
    require_place(path)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(render(assessment, summary), encoding="utf-8")
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise SettingsError(
            f"--html {path} ({exc.strerror})",
            expected="a file that can be written",
            hint="Choose another place.",
        ) from exc
    return path


def render(assessment: Assessment, summary: dict[str, Any]) -> str:
    """The page as text; `summary` is what `summarise` made of the same assessment."""
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
        clean=data_uris(assessment.clean),
        noisy=data_uris(assessment.noisy),
        answers=[data_uris(score.answers) for score in assessment.scores],
        curves=_curves(summary),
        maps=_maps(assessment),
        colours=COLOURS,
        series=len(SERIES),
        rivals=_rivals(summary),
        facts=_facts(summary["runs"]),
    )


def fixed(value: float | None, digits: int, *, signed: bool = False) -> str:
    """A number for a person: so many digits, a true minus sign, a dash where there is none."""
    if value is None:
        return "—"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)


def _curves(summary: dict[str, Any]) -> list[Markup]:
    """PSNR and SSIM over the strength of the noise; none for fewer than two strengths."""
    levels = summary["levels"]
    if len(levels) < 2:
        return []
    return [
        level_chart(
            [level["level"] for level in levels],
            _line([level[name] for level in levels]),
            [_line([level[name] for level in run["levels"]]) for run in summary["runs"]],
            axis=axis,
            about=f"{axis} over the strength of the noise",
        )
        for name, axis in (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
    ]


def _line(found: Sequence[dict[str, Any]]) -> Line:
    means, lows, highs = ([one[end] for one in found] for end in ("mean", "low", "high"))
    return Line(means, lows, highs)


def _maps(assessment: Assessment) -> list[tuple[Markup, list[int]]]:
    """Each run's latents as a map, and the labels that have a colour in it."""
    labels = assessment.held.labels
    return [
        latent_chart(
            score.codes,
            None if labels is None else labels[assessment.mapped],
            about=f"Latents of run {number} on their first two principal axes",
        )
        for number, score in enumerate(assessment.scores, 1)
    ]


def _rivals(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs, classical denoisers and the noisy input on the same images, best PSNR first."""
    classical = summary["classical"]
    if classical is None:
        return []
    rows = [{"name": "noisy input", "kind": "input", **classical["input"]}]
    rows += [{"kind": "run", "name": name, **found} for name, found in classical["runs"].items()]
    rows += [{"kind": "method", **method} for method in classical["methods"]]
    rows.sort(key=lambda row: -(row["psnr"]["mean"] or 0))
    return rows


def _facts(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """Rows of training facts: name, one text for each run, and whether the runs differ in it."""
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
            | {f"{name} then": text for name, text in training["versions"].items()}
        )
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [column.get(name, "—") for column in columns]) for name in names]
    return [(name, cells, len(set(cells)) > 1 and name not in UNLIKE) for name, cells in rows]


def _text(value: Any, joint: str = ", ") -> str:
    if value is None:
        return "—"
    return joint.join(map(str, value)) if isinstance(value, list) else str(value)
