"""`python -m service` as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def service(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_info_of_a_good_bundle(bundle_path: Path) -> None:
    done = service("info", str(bundle_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "fingerprint" in done.stdout


@pytest.mark.parametrize("damage", ["missing", "no manifest", "flipped", "wrong kind"])
def test_info_of_a_bad_bundle_is_one_clean_line(bundle_copy: Path, damage: str) -> None:
    if damage == "missing":
        bundle_copy = bundle_copy / "absent"
    elif damage == "no manifest":
        (bundle_copy / "manifest.json").unlink()
    elif damage == "flipped":
        (bundle_copy / "decoder.onnx").write_bytes(b"x")
    else:
        (bundle_copy / "manifest.json").write_text('{"schema_version": [1]}')
    done = service("info", str(bundle_copy))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("service: ")
    assert len(done.stderr.splitlines()) == 1
    assert str(bundle_copy) in done.stderr or damage == "wrong kind"


@pytest.mark.parametrize("arguments", [(), ("infos",), ("info",)])
def test_wrong_usage_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    done = service(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -m service")
    assert "Traceback" not in done.stderr


def test_help_names_the_commands() -> None:
    done = service("--help")
    assert done.returncode == 0
    for command in ("info", "encode", "decode", "denoise"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["encode", "decode", "denoise"])
def test_help_of_a_bulk_command_names_its_options(command: str) -> None:
    done = service(command, "--help")
    assert done.returncode == 0
    for option in ("--out", "--url", "--strict", "--overwrite", "--append", "--engine"):
        assert option in done.stdout
    assert ("--fit" in done.stdout) == (command != "decode")
    assert ("--dtype" in done.stdout) == (command != "encode")


@pytest.mark.parametrize(
    "arguments",
    [("encode", "x.npy"), ("encode", "x.npy", "--out", "y.npy", "--batch", "0"),
     ("encode", "x.npy", "--out", "y.npy", "--engine", "magic"),
     ("decode", "x.npy", "--out", "y.npy", "--fit", "contain")],
)  # fmt: skip
def test_wrong_options_are_exit_status_2(arguments: tuple[str, ...]) -> None:
    done = service(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
