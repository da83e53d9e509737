"""The README cannot drift: its commands, routes, settings and figures are looked up in the code."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest

from service.http.formats import OPERATIONS
from service.settings import PREFIX, Settings
from tests.support.paths import BUNDLE, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

# Every command of the README, and where it is run for real.
RUN_BY = {
    "make serve": "tests/system/test_make.py",
    "make run": "tests/system/test_make.py",
    "make test": ".ci/run",
    "make check": ".ci/run",
    "make bench": "tests/benchmarks/test_benchmarks.py",
    "make lock": "tests/test_requirements.py",
    "make screenshots": "tests/system/test_screenshots.py",
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
    "duckdb": "tests/system/test_examples.py",
    "node": "tests/system/test_examples_clients.py",
    "bentoml serve": "tests/system/test_serving.py",
    "bentoml build": "tests/system/test_bento.py",
}


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [line.split("  #")[0].strip() for line in lines]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_run_somewhere(command: str) -> None:
    found = [where for start, where in RUN_BY.items() if command.startswith(start)]
    assert found, f"no test runs: {command}"
    assert all((ROOT / where).is_file() for where in found), found


def test_the_printed_curls_are_the_readme_s() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(PORT)", "3000")
    curls = [command for command in commands() if command.startswith("curl")]
    printed = [curl for curl in curls if f'"  {curl}"' in makefile]
    assert printed == curls[:3] and makefile.count('"  curl') == 3


def test_every_setting_is_documented() -> None:
    table = dict(re.findall(rf"^\| `({PREFIX}\w+)` \| (.+?) \|", README, re.M))
    assert set(table) == {PREFIX + f.name.upper() for f in fields(Settings)}
    for f in fields(Settings):
        assert table[PREFIX + f.name.upper()] == f.metadata["about"]


def test_every_route_is_documented() -> None:
    for route in [*OPERATIONS, "/model", "/playground", "/api", "/docs.json", "/v2/…"]:
        assert re.search(rf"^\| `((POST|GET) )?{route}`", README, re.M), route


def test_the_quality_table_is_the_shipped_bundles() -> None:
    for label, bundle, side in [
        ("noisy", "mnist", "input"),
        ("noisy", "classic", "input"),
        ("`classic`", "classic", "output"),
        ("`standard`", "mnist", "output"),
    ]:
        manifest = json.loads((ROOT / "bundles" / bundle / "manifest.json").read_text())
        row = re.search(rf"^\| {label}.*\| ([\d.]+) \| ([\d.]+) dB \| ([\d.]+) \|", README, re.M)
        assert row is not None, label
        figures = manifest["quality"]["test"][side]
        shown = (f"{figures['mse']:.4f}", f"{figures['psnr']:.2f}", f"{figures['ssim']:.3f}")
        assert row.groups() == shown
        if side == "output":
            assert manifest["training"]["settings"]["preset"] == label.strip("`")


def test_the_parity_figure_is_the_shipped_bundle_s() -> None:
    parity = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))["parity"]
    worst = max(parity["largest_difference"].values())
    said = f"difference of {parity['comparisons']} comparisons is {worst:.1e}"
    assert said in " ".join(README.split())


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tables_on_speed_are_the_committed_results() -> None:
    from benchmarks.readme import BLOCK, section

    found = BLOCK.search(README)
    assert found is not None
    assert found.group() == section()


def test_the_int8_figures_are_the_shipped_bundle_s() -> None:
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    losses = manifest["precisions"]["int8"]["figures"]["loss"].values()
    psnr, ssim = max(loss["psnr"] for loss in losses), max(loss["ssim"] for loss in losses)
    said = f"they fall by {psnr:.3f} dB and {ssim:.4f}"
    assert said in " ".join(README.split())
