"""Folders appear whole or not at all: exceptions, replaced targets, two writers, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.publishing import (
    TargetBusyError,
    TargetExistsError,
    TargetUnusableError,
    staged_folder,
)
from tests.support.paths import ROOT

MARKS = ("top.txt",)


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "deep.txt").write_text(text)
    (folder / "top.txt").write_text(text)


def make(target: Path, text: str) -> None:
    with staged_folder(target, marks=MARKS) as stage:
        fill(stage, text)


def text_of(target: Path) -> str:
    """What a whole folder holds; fails on half of one."""
    found = (target / "top.txt").read_text()
    assert found == (target / "inner" / "deep.txt").read_text()
    assert sorted(path.name for path in target.rglob("*")) == ["deep.txt", "inner", "top.txt"]
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_at_the_end_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    with staged_folder(target, marks=MARKS) as stage:
        assert list(stage.iterdir()) == []
        assert stage.parent == target.parent
        fill(stage, "one")
        assert not target.exists()
    assert text_of(target) == "one"
    assert names(target.parent) == ["target"]


def test_a_target_is_replaced_whole(tmp_path: Path) -> None:
    make(tmp_path / "target", "one")
    (tmp_path / "target" / "old-only.txt").write_text("x")
    with staged_folder(tmp_path / "target", marks=MARKS) as stage:
        fill(stage, "two")
        assert (tmp_path / "target" / "top.txt").read_text() == "one"
    assert text_of(tmp_path / "target") == "two"
    assert names(tmp_path) == ["target"]


def test_a_relative_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("target"), "one")
    assert text_of(tmp_path / "target") == "one"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_an_exception_leaves_the_target_as_it_was(
    tmp_path: Path, kind: type[BaseException], existing: bool
) -> None:
    target = tmp_path / "target"
    if existing:
        make(target, "one")
    with pytest.raises(kind), staged_folder(target, marks=MARKS) as stage:
        (stage / "top.txt").write_text("half")
        raise kind
    assert names(tmp_path) == (["target"] if existing else [])
    if existing:
        assert text_of(target) == "one"


def test_what_an_earlier_kill_left_is_not_part_of_the_new_folder(tmp_path: Path) -> None:
    stage = tmp_path / ".target.partial"
    (stage / "folder").mkdir(parents=True)
    (stage / "leftover.txt").write_text("old")
    (stage / "link").symlink_to(tmp_path)
    make(tmp_path / "target", "one")
    assert text_of(tmp_path / "target") == "one"
    assert tmp_path.is_dir()


def test_two_writers_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with staged_folder(target, marks=MARKS) as stage:
        fill(stage, "first")
        with (
            pytest.raises(TargetBusyError, match="another --out"),
            staged_folder(target, marks=MARKS),
        ):
            pytest.fail("a second writer was let in")
        with staged_folder(tmp_path / "other", marks=MARKS) as other:  # another target is free
            fill(other, "other")
    assert text_of(target) == "first"
    make(target, "second")
    assert text_of(target) == "second"


# A child does `make` and stops for good just before the given call; the parent kills it there.
CHILD = """
import pathlib, sys, time
from common import publishing as staging

moment, target = sys.argv[1], pathlib.Path(sys.argv[2])

def stop(at):
    if at == moment:
        print("stopped", flush=True)
        time.sleep(60)

real_rename, renames = pathlib.Path.rename, []

def rename(self, to):
    renames.append(to)
    stop(f"before rename {len(renames)}")
    made = real_rename(self, to)
    stop(f"after rename {len(renames)}")
    return made

pathlib.Path.rename = rename
with staging.staged_folder(target, marks=("top.txt",)) as stage:
    stop("empty")
    (stage / "inner").mkdir()
    (stage / "inner" / "deep.txt").write_text("two")
    with (stage / "top.txt").open("w") as file:
        file.write("t")
        file.flush()
        stop("half a file")
        file.write("wo")
    stop("complete")
"""
REPLACING = ["before rename 1", "after rename 1", "before rename 2", "after rename 2"]
WRITING = ["empty", "half a file", "complete"]


def stopped_child(moment: str, target: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, moment, str(target)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "stopped\n"
    return child


def kill(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=10)


@pytest.mark.parametrize("moment", [*WRITING, "before rename 1", "after rename 1"])
def test_kill_9_leaves_no_target_or_a_whole_one(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "target"
    kill(stopped_child(moment, target))
    if moment == "after rename 1":
        assert text_of(target) == "two"
    else:
        assert not target.exists()
    make(target, "three")
    assert text_of(target) == "three"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("moment", [*WRITING, *REPLACING])
def test_kill_9_while_replacing_leaves_the_old_or_the_new_one(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "target"
    make(target, "one")
    kill(stopped_child(moment, target))
    if moment in ("after rename 1", "before rename 2"):
        assert not target.exists()  # between the two renames: absent, but not lost
    else:
        assert text_of(target) == ("two" if moment == "after rename 2" else "one")
    with pytest.raises(ValueError, match="on purpose"), staged_folder(target, marks=MARKS):
        raise ValueError("on purpose")  # the next call mends, even if it fails itself
    assert text_of(target) == ("two" if moment == "after rename 2" else "one")
    assert names(tmp_path) == ["target"]


def test_two_processes_exclude_each_other_and_a_kill_frees_the_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    child = stopped_child("half a file", target)
    try:
        with pytest.raises(TargetBusyError):
            make(target, "three")
        assert (tmp_path / ".target.partial" / "top.txt").read_text() == "t"  # left alone
    finally:
        kill(child)
    make(target, "three")
    assert text_of(target) == "three"


def test_a_link_to_a_folder_can_be_replaced_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    for text in ("one", "two", "three"):
        make(tmp_path / "target", text)
        assert text_of(tmp_path / "target") == text
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_another_kind_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    """The photographs that a run was trained on, or the folder of all runs."""
    target = tmp_path / "photographs"
    (target / "run").mkdir(parents=True)
    (target / "run" / "top.txt").write_text("precious")
    with (
        pytest.raises(TargetExistsError, match=r"has no top\.txt"),
        staged_folder(target, marks=MARKS, overwrite=overwrite),
    ):
        pass
    assert (target / "run" / "top.txt").read_text() == "precious"
    assert names(tmp_path) == ["photographs"]


def test_a_folder_with_other_contents_is_never_replaced(tmp_path: Path) -> None:
    """Photographs that were put into a run's folder, or runs into that of another."""
    make(tmp_path / "target", "one")
    (tmp_path / "target" / "photographs").mkdir()
    with (
        pytest.raises(TargetExistsError, match="holds photographs, which would be lost"),
        staged_folder(tmp_path / "target", marks=MARKS, contents=("top.txt", "inn*")),
    ):
        pass
    assert names(tmp_path / "target") == ["inner", "photographs", "top.txt"]
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_is_kept(tmp_path: Path, overwrite: bool) -> None:
    with (
        pytest.raises(TargetExistsError),
        staged_folder(tmp_path / "target", marks=MARKS, overwrite=overwrite) as stage,
    ):
        fill(stage, "one")
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "mine.txt").write_text("mine")
    assert (tmp_path / "target" / "mine.txt").read_text() == "mine"
    assert names(tmp_path) == ["target"]


def test_a_file_and_a_link_to_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(TargetExistsError), staged_folder(tmp_path / name, marks=MARKS):
            pass
    assert names(tmp_path) == ["file", "link"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    make(tmp_path / "target", "one")
    assert text_of(tmp_path / "target") == "one"


def test_places_that_hold_no_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target in (Path("/"), tmp_path / "..", tmp_path / "file" / "x", Path("/proc/x")):
        with pytest.raises(TargetUnusableError), staged_folder(target, marks=MARKS):
            pass
