"""The command line: quick help, one line for an error, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.trained import Trained, trained  # noqa: F401
from training import __main__ as cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command", [["--help"], *([name, "--help"] for name in ("fit", "evaluate", "compare"))]
)
def test_help_needs_no_tensorflow(command: list[str]) -> None:
    program = (
        "import sys, training.__main__ as cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "finally:\n    print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m training")
    assert done.stdout.endswith("set()\n")


def test_errors_are_one_line_and_status_2(tmp_path: Path) -> None:
    done = run("fit", "--dataset", "nowhere", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: dataset 'nowhere'; expected digits, ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--out", "x", "--epochs", "0"], "error: epochs 0; expected"),
        (["fit", "--out", "x", "--noise", "rain"], "error: noise 'rain'; expected"),
        (["evaluate", "no/such/run"], "error: no run folder no/such/run; expected"),
    ],
)
def test_every_kind_of_error_is_translated(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [[], ["fit"], ["fit", "--out", "x", "--resize", "28"], ["fit", "--out", "x", "--filters", "a"]],
)
def test_bad_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_fit", interrupted)
    assert cli.main(["fit", "--out", "x"]) == 130


def test_missing_tensorflow_is_named() -> None:
    program = (
        "import sys\n"
        "sys.modules['keras'] = None\n"
        "from training.__main__ import main\n"
        "sys.exit(main(['evaluate', 'x']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "keras is not installed; expected the packages of the `train` extra" in done.stderr


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(
        "fit", "--dataset", "digits", "--out", str(out), "--filters", "2,2", "--epochs", "1",
        "--resize", "8x8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ('Model: "encoder"', "Total params", "val_loss", "256 test images", "PSNR dB"):
        assert part in done.stdout
    assert (out / "metrics.json").is_file()


def test_a_run_is_evaluated_and_compared_from_the_command_line(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.html"
    done = run(
        "compare", str(trained.one), str(trained.other), "--dataset", trained.data,
        "--levels", "1,2", "--html", str(report), "--json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert [r["name"] for r in result["runs"]] == ["one", "other"]
    assert [level["level"] for level in result["levels"]] == [1, 2]
    assert report.read_text(encoding="utf-8").rstrip().endswith("</html>")
    done = run("evaluate", str(trained.one), "--noise", "mask:0.3", "--levels", "1")
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("30 images: samples.npz", "noise: mask:0.3", "PSNR dB", "latents not measured"):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "a"], "error: compare with a; expected two or more different runs"),
        (["evaluate", "a", "--html", "no/such/x.html"], "error: --html no/such/x.html; expected a"),
        (["evaluate", "a", "--classical", "b"], "error: the classical method 'b'; expected some"),
        (["evaluate", "a", "--levels", "nan"], "error: noise level nan; expected"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    text = "".join(capsys.readouterr().out.split())
    from training.evaluation.classical import METHODS
    from training.noise.ranges import LEVELS

    assert ",".join(METHODS) in text
    assert f"(default:{','.join(f'{level:g}' for level in LEVELS)})" in text
