"""The documentation cannot drift: commands, options, routes, settings and figures are the code's.

`python -m tests.test_docs` rewrites the table of settings in docs/operations.md.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

import common.errors
from benchmarks.__main__ import main as benchmarks_main
from common.errors import DenoiserError
from export.__main__ import main as export_main
from service.__main__ import main as service_main
from service.engine import Engine
from service.http import problem, query
from service.http.metrics import Metrics
from service.http.routes import ROUTES
from service.http.v2.models import INPUTS, OUTPUTS
from service.settings import PREFIX, Settings
from training.__main__ import main as training_main
from training.noise.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "LOG.md"])
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in DOCS}
MANUAL = {name: text for name, text in PAGES.items() if "LOG" not in name and "CHANGE" not in name}
README, HTTP, BULK = PAGES["README.md"], PAGES["docs/http.md"], PAGES["docs/bulk.md"]
TRAINING, RESULTS = PAGES["docs/training.md"], PAGES["docs/results.md"]
OPERATIONS = ROOT / "docs" / "operations.md"
SETTINGS = re.compile(
    r"(?<=<!-- settings: python -m tests.test_docs -->\n).*(?=<!-- end -->)", re.S
)

# Every command of the docs, by its beginning, and where it is run for real.
RUN_BY = {
    "make env": "tests/system/test_make.py",
    "make serve": "tests/system/test_make.py",
    "make run": "tests/system/test_make.py",
    "make test-fast": ".github/workflows/ci.yml",
    "make test-serving": ".github/workflows/ci.yml",
    "make test": ".ci/run",
    "make check": ".ci/run",
    "make format": "Makefile",
    "make bench": "tests/benchmarks/test_benchmarks.py",
    "curl": "tests/system/test_serving.py",
    "python -m training fit": "tests/training/test_main.py",
    "python -m training evaluate": "tests/training/test_main.py",
    "python -m training compare": "tests/training/test_main.py",
    "python -m export": "tests/export/test_bundling.py",
    "python -m service info": "tests/service/test_cli.py",
    "python -m service encode": "tests/service/bulk/test_job.py",
    "python -m service decode": "tests/service/bulk/test_job.py",
    "python -m service denoise": "tests/service/bulk/test_job.py",
    "python -m service drift": "tests/service/test_drift.py",
    "python -m examples.pgvector_search": "tests/system/test_examples_pgvector.py",
    "python -m examples.": "tests/system/test_examples.py",
    "duckdb -c": "tests/test_docs.py",
    "duckdb -cmd": "tests/system/test_examples.py",
    "node": "tests/system/test_examples_clients.py",
    "bentoml serve": "tests/system/test_serving.py",
    "bentoml build": "tests/system/test_bento.py",
}
PROGRAMS = {
    "training": training_main,
    "export": export_main,
    "service": service_main,
    "benchmarks": benchmarks_main,
}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of the fenced blocks in a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.M | re.S)
    return [(name, code) for name, text in MANUAL.items() for code in fence.findall(text)]


def commands() -> list[str]:
    """The command lines of all `sh` blocks."""
    lines = [line for _, code in blocks("sh") for line in code.splitlines()]
    return sorted({line.split("  #")[0].strip() for line in lines if line.strip()})


def rows(text: str, columns: int) -> Iterator[list[str]]:
    """The cells of all table rows with that many columns."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == columns:
            yield cells


def help_of(program: str, *command: str) -> str:
    """What `python -m program command --help` prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        PROGRAMS[program]([*command, "--help"])
    return output.getvalue()


def options_of(program: str, *command: str) -> set[str]:
    """The long options of a command."""
    return set(re.findall(r"--[a-z][a-z-]*", help_of(program, *command))) - {"--help"}


def section(text: str, heading: str) -> str:
    """A page's part under one heading."""
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("command", commands())
def test_every_command_is_run_somewhere(command: str) -> None:
    places = [place for start, place in RUN_BY.items() if command.startswith(start)]
    assert places, f"no test runs: {command}"
    assert all((ROOT / place).is_file() for place in places), places


@pytest.mark.parametrize(
    "command",
    sorted(
        {
            c
            for _, text in MANUAL.items()
            for c in re.findall(r"python -m (?!pytest|…)[^`\n]+", text)
        }
    ),
)
def test_every_option_of_a_command_exists(command: str) -> None:
    program, *arguments = command.removeprefix("python -m ").partition("  #")[0].split()
    if program not in PROGRAMS:
        assert (ROOT / (program.replace(".", "/") + ".py")).is_file(), program
        return
    subcommand = [] if program in ("export", "benchmarks") else arguments[:1]
    for name in subcommand[0].split("|") if subcommand else [""]:
        used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert used <= options_of(program, *filter(None, [name])), command


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M))
    for name, text in MANUAL.items():
        code = "\n".join(
            re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, re.M)
        )
        assert set(code.split()) <= targets, name


def test_the_printed_curls_are_the_readme_s() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("$(PORT)", "3000")
    curls = re.findall(r"^curl.*$", README, re.M)
    assert len(curls) == 3 and makefile.count('"  curl') == 3
    assert all(f'"  {curl}"' in makefile for curl in curls)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (section(TRAINING, "Options of `fit`"), [("training", "fit")]),
        (
            section(TRAINING, "Evaluate and compare"),
            [("training", "evaluate"), ("training", "compare")],
        ),
        (
            section(BULK, "Options"),
            [("service", "encode"), ("service", "decode"), ("service", "denoise")],
        ),
        (section(BULK, "Drift"), [("service", "drift")]),
    ],
    ids=["fit", "evaluate", "bulk", "drift"],
)
def test_every_option_is_documented(text: str, options: list[tuple[str, str]]) -> None:
    documented = set(re.findall(r"^\| `(--[a-z-]+)` \|", text, re.M))
    assert documented == set().union(*(options_of(*command) for command in options))


def test_latents_become_csv_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented line of DuckDB's command line, run by its Python package."""
    duckdb = pytest.importorskip("duckdb")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (statement,) = [line[len('duckdb -c "') : -1] for line in commands() if "COPY" in line]
    latents = pa.array([[1.5, -2.0], [0.25, 3.0]], pa.list_(pa.float32(), 2))
    parquet.write_table(
        pa.table({"id": ["a", "b"], "latent": latents}), tmp_path / "latents.parquet"
    )
    monkeypatch.chdir(tmp_path)
    duckdb.sql(statement)
    text = (tmp_path / "latents.csv").read_text("utf-8")
    assert text.splitlines() == ["id,latent", 'a,"[1.5, -2.0]"', 'b,"[0.25, 3.0]"']


def test_every_noise_is_documented() -> None:
    documented = re.findall(r"^\| `([a-z-]+:[A-Z,]+)` \|", TRAINING, re.M)
    assert documented == [kind.form() for kind in KINDS.values()]


# ---------------------------------------------------------------- service


def settings_table() -> str:
    """The table of settings, from the code."""
    lines = ["| variable | meaning | default |", "|---|---|---|"]
    for field in fields(Settings):
        default: Any = field.default
        if isinstance(default, Path):
            default = default.relative_to(ROOT).as_posix()
        elif isinstance(default, bool):
            default = "on" if default else "off"
        elif isinstance(default, float):
            default = f"{default:g}"
        shown = f"`{default}`" if default not in ("", ()) else "none"
        about = field.metadata["about"].replace("|", r"\|")
        lines.append(f"| `{PREFIX}{field.name.upper()}` | {about} | {shown} |")
    return "\n" + "\n".join(lines) + "\n\n"


def test_every_setting_is_documented() -> None:
    block = SETTINGS.search(OPERATIONS.read_text("utf-8"))
    assert block is not None
    assert block.group() == settings_table(), "run: python -m tests.test_docs"


def test_no_page_names_an_unknown_setting() -> None:
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    for name, text in MANUAL.items():
        assert set(re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", text)) <= known, name


def test_every_route_is_documented() -> None:
    documented = set(re.findall(r"^\| `((?:GET|POST) /\S*)` \|", section(HTTP, "Routes"), re.M))
    known = {
        f"{route.methods[0]} {route.path}"
        for route in ROUTES
        if not route.alias and "/versions/" not in route.path  # one sentence for all of these
    }
    assert documented == known


def test_every_query_parameter_is_documented() -> None:
    table = rows(section(HTTP, "Query parameters"), 3)
    documented = {name: tuple(re.findall(r"`(\w+)`", values)) for name, values, _ in table}
    known = query._CHOICES
    assert {f"`{name}`": tuple(values) for name, values in known.items()} == {
        name: values for name, values in documented.items() if name.startswith("`")
    }


def test_every_error_is_documented() -> None:
    documented = {
        (int(status), slug.strip("`"))
        for status, slug, _ in rows(section(HTTP, "Errors"), 3)
        if status.isdigit()
    }
    kinds = [
        kind("", expected="")
        for kind in vars(common.errors).values()
        if isinstance(kind, type) and issubclass(kind, DenoiserError)
    ]
    known = {(kind.status, kind.slug) for kind in kinds if 400 <= kind.status < 500}
    assert documented == known - {(400, "input"), (409, "fingerprint")}  # a base; bulk jobs only


def test_every_metric_is_documented() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    known = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in registry.collect()
    }
    table = section(OPERATIONS.read_text("utf-8"), "Probes and metrics")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == known


def test_the_example_of_an_error_is_real(engine: Engine) -> None:
    (example,) = [json.loads(code) for name, code in blocks("json") if name == "docs/http.md"]
    error = common.errors.ShapeError(
        example["received"], expected=example["expected"], hint=example["hint"]
    )
    assert json.loads(problem.from_error(error)) == example


def test_every_v2_model_is_documented() -> None:
    table = rows(section(HTTP, "The Open Inference Protocol"), 3)
    documented = {
        model.strip("`"): (given.strip("`"), tuple(re.findall(r"`(\w+)`", outputs)))
        for model, given, outputs in table
        if model.startswith("`")
    }
    scores = {model: ("scores",) if given == "images" else () for model, given in INPUTS.items()}
    assert documented == {m: (INPUTS[m], (*OUTPUTS[m], *scores[m])) for m in INPUTS}


# ---------------------------------------------------------------- figures


def manifest(bundle: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (ROOT / "bundles" / bundle / "manifest.json").read_text("utf-8")
    )
    return content


def results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / name).read_text("utf-8")
    )
    return content


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_quality_is_the_shipped_bundles(page: str) -> None:
    for label, bundle, side in [
        ("noisy input", "mnist", "input"),
        ("noisy input", "classic", "input"),
        ("`classic`", "classic", "output"),
        ("`standard`", "mnist", "output"),
    ]:
        row = re.search(
            rf"^\| {label}.*?\| ([\d.]+) \| ([\d.]+) dB \| ([\d.]+) \|(.*)$", PAGES[page], re.M
        )
        assert row is not None, label
        facts = manifest(bundle)
        figures = facts["quality"]["test"][side]
        shown = (f"{figures['mse']:.4f}", f"{figures['psnr']:.2f}", f"{figures['ssim']:.3f}")
        assert row.groups()[:3] == shown
        if side == "output":
            assert facts["training"]["settings"]["preset"] == label.strip("`")
        if page == "README.md" and side == "output":
            assert row[4] == f" {facts['quality']['parameters']:,} |"


@pytest.mark.parametrize("bundle", ["classic", "mnist"])
def test_presets_have_the_documented_parameters(bundle: str) -> None:
    facts = manifest(bundle)
    preset = facts["training"]["settings"]["preset"]
    row = re.search(rf"^\| `{preset}` \| .* \| ([\d,]+) \|", section(TRAINING, "Presets"), re.M)
    assert row is not None and row[1] == f"{facts['quality']['parameters']:,}"


@pytest.mark.parametrize("page", ["README.md", "docs/export.md"])
def test_parity_is_the_shipped_bundle_s(page: str) -> None:
    parity = manifest("mnist")["parity"]
    worst = max(parity["largest_difference"].values())
    text = " ".join(PAGES[page].split())
    assert f"{parity['comparisons']} comparisons" in text
    assert f" is {worst:.1e}" in text or f" {worst:.1e}." in text


def test_int8_is_the_shipped_bundle_s() -> None:
    losses = manifest("mnist")["precisions"]["int8"]["figures"]["loss"].values()
    psnr, ssim = max(loss["psnr"] for loss in losses), max(loss["ssim"] for loss in losses)
    text = " ".join(PAGES["docs/export.md"].split())
    assert f"they fall by {psnr:.3f} dB and {ssim:.4f}" in text


def test_speed_tables_are_the_committed_results() -> None:
    from benchmarks.readme import BLOCK
    from benchmarks.readme import section as speed

    block = BLOCK.search(PAGES["docs/performance.md"])
    assert block is not None
    assert block.group() == speed(), "run: python -m benchmarks.readme"


def test_the_readme_s_speeds_are_the_committed_results() -> None:
    peers = results("engine.json")["results"]["denoise"]["peers"]
    ours, int8 = (
        peers[name]["images_per_second"]["median"]
        for name in ("Engine (ours)", "Engine int8 (ours)")
    )
    openvino = [
        peer["engine_speedup"]["median"]
        for name, peer in peers.items()
        if name.startswith("OpenVINO f32")
    ]
    text = " ".join(README.split())
    assert f"{ours:,.0f} images/s" in text and f"int8 reaches {int8:,.0f}" in text
    assert f"{min(openvino):.2f} × OpenVINO float32" in text


def test_latencies_are_the_committed_results() -> None:
    grey, colour = (results(name)["latency"] for name in ("scaling.json", "64x64x3/scaling.json"))

    def cells(peer: str, latency: dict[str, Any]) -> list[str]:
        ratio = latency[peer]["engine_speedup"]["median"]
        shown = "" if peer == "Engine (ours)" else f"{ratio:.2f} ×"
        return [f"{1000 * latency[peer]['median']:.2f} ms", shown]

    table = section(PAGES["docs/performance.md"], "One image")
    lines = [line.split("|")[1:-1] for line in table.splitlines() if re.match(r"\| \w", line)]
    shown = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert shown == {peer: cells(peer, grey) + cells(peer, colour) for peer in grey}


def test_novelty_is_the_committed_results() -> None:
    kinds = results("novelty.json")["precisions"]["float32"]["noise"]
    shown = {
        kind.removesuffix(" (false alarms)"): (auroc, share)
        for kind, auroc, share in rows(section(RESULTS, "Novelty scores"), 3)
        if share.endswith("%")
    }
    assert shown == {
        kind: (
            "–" if facts["auroc"] is None else f"{facts['auroc']:.3f}",
            f"{100 * facts['share_above']:.1f} %",
        )
        for kind, facts in kinds.items()
    }


def test_search_is_the_committed_results() -> None:
    shown = {name: tuple(cells) for name, *cells in rows(section(RESULTS, "Search by latent"), 4)}
    recall = results("search.json")["recall"]
    assert {name: shown.get(name) for name in recall} == {
        name: tuple(f"{100 * share:.1f} %" for share in depths.values())
        for name, depths in recall.items()
    }


def test_time_to_quality_is_the_committed_result() -> None:
    learning = results("learning.json")
    seconds = [learning[preset][-1]["seconds"] for preset in ("standard", "classic")]
    text = " ".join(section(RESULTS, "Time to quality").split())
    assert f"in {learning['share_of_the_time']:.2f} of the time" in text
    assert f"{seconds[0]:.0f} s beside {seconds[1]:.0f} s" in text


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_exist(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else ROOT / page
        assert path.exists(), target
        if anchor:
            text = path.read_text("utf-8")
            assert anchor in {slug(title) for title in re.findall(r"^#+ (.*)$", text, re.M)}, target


def slug(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", MANUAL)
def test_paths_exist(page: str) -> None:
    tops = (
        "common|training|export|service|denoiser_client|tests|benchmarks|examples|docs|requirements"
    )
    for path in re.findall(rf"`((?:{tops})/[\w./-]*)`", MANUAL[page]):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_examples_run(page: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the shipped bundle; the client's against the engine in its place."""
    monkeypatch.chdir(ROOT)
    images = np.zeros((3, 28, 28, 1), np.float32)
    names: dict[str, Any] = {"images": images}
    if "DenoiserClient" in code:
        module = importlib.import_module("denoiser_client")
        monkeypatch.setattr(module, "DenoiserClient", LocalClient)
    exec(compile(code, page, "exec"), names)
    for name in ("latents", "clean", "decoded", "scores"):
        assert len(names.get(name, images)) == 3, name


class LocalClient:
    """A client of no server: the methods of the real one, answered by the engine."""

    def __init__(self, url: str, **options: Any) -> None:
        from denoiser_client.client import AsyncDenoiserClient

        AsyncDenoiserClient(url, **options)  # refuses unknown options
        self._engine = Engine.load(ROOT / "bundles" / "mnist")

    def __enter__(self) -> LocalClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def encode(self, images: Any) -> Any:
        return self._engine.encode(images)

    def denoise(self, images: Any) -> Any:
        return self._engine.denoise(images)

    def run(self, outputs: Any, images: Any) -> Any:
        return self._engine.run(outputs, images=images)


def test_the_readme_is_a_door() -> None:
    assert len(README.splitlines()) <= 150
    first_screen = "\n".join(README.splitlines()[:20])
    assert "make serve" in first_screen and "make run" in first_screen


def test_the_log_is_dated_newest_first_with_an_index() -> None:
    log = PAGES["benchmarks/LOG.md"]
    titles = re.findall(r"^## (.*)$", log, re.M)
    assert titles[0] == "Index"
    dates = [re.match(r"(\d{4}-\d\d-\d\d): ", title) for title in titles[1:]]
    assert all(dates)
    assert [d[1] for d in dates if d] == sorted((d[1] for d in dates if d), reverse=True)
    index = re.findall(r"^\| (\S+) \| \[(.*)\]\(#(.*)\) \|", section(log, "Index"), re.M)
    assert [f"{date}: {title}" for date, title, _ in index] == titles[1:]


def test_the_changelog_has_this_version() -> None:
    from service import __version__

    titles = re.findall(r"^## (.*)$", PAGES["CHANGELOG.md"], re.M)
    assert titles[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", titles[1])


# ---------------------------------------------------------------- .github


def read_yaml(path: str) -> Any:
    return importlib.import_module("yaml").safe_load((ROOT / path).read_text("utf-8"))


YAMLS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob(".github/**/*.yml"),
        *ROOT.glob("examples/*.yaml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / "bentofile.yaml",
    ]
)


@pytest.mark.parametrize("path", YAMLS)
def test_yaml_parses(path: str) -> None:
    assert isinstance(read_yaml(path), dict)


def test_the_workflow_runs_the_documented_commands() -> None:
    workflow = read_yaml(".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    ran = []
    for name, job in workflow["jobs"].items():
        assert job["runs-on"].startswith("ubuntu-") and job["timeout-minutes"] <= 60, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", step["uses"])
            else:
                ran += re.findall(r"make ([a-z-]+)", step["run"])
        uses = [step.get("uses", "").partition("@")[0] for step in job["steps"]]
        assert uses[:2] == ["actions/checkout", "actions/setup-python"], name
    assert {"check", "test-fast", "test", "test-serving"} <= set(ran)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert set(ran) <= set(re.findall(r"^([a-z-]+):", makefile, re.M))


def test_the_workflow_covers_every_supported_python() -> None:
    versions = read_yaml(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"][
        "python-version"
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    install = (ROOT / "requirements" / "install.sh").read_text("utf-8")
    bounds = re.search(r"\((\d), (\d+)\) <= sys\.version_info\[:2\] <= \(\d, (\d+)\)", install)
    assert bounds is not None
    assert versions == [
        f"{bounds[1]}.{minor}" for minor in range(int(bounds[2]), int(bounds[3]) + 1)
    ]
    assert project["requires-python"].startswith(f">={versions[0]}")
    assert f"Python {versions[0]} to {versions[-1]}" in README


def test_issue_forms_have_what_github_asks_for() -> None:
    for path in (path for path in YAMLS if "ISSUE_TEMPLATE" in path and "config" not in path):
        form = read_yaml(path)
        assert form["name"] and form["description"] and form["body"], path
        identifiers = [part.get("id") for part in form["body"] if part["type"] != "markdown"]
        assert len(identifiers) == len(set(identifiers)) and None not in identifiers, path
        assert any(part.get("validations", {}).get("required") for part in form["body"]), path


def test_pre_commit_runs_what_make_check_runs() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        command = hook["entry"].removeprefix(".venv/bin/").split(" --")[0]
        assert f"-m {command}" in makefile, hook["id"]


def rewrite() -> None:
    """Rewrite the table of settings in docs/operations.md."""
    text = OPERATIONS.read_text("utf-8")
    OPERATIONS.write_text(SETTINGS.sub(lambda _: settings_table(), text), "utf-8")


if __name__ == "__main__":
    rewrite()
    sys.exit(0)
