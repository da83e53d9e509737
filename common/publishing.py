"""Folders that appear whole or not at all.

A folder is put together under a hidden name beside its target (`bundles/.mnist.partial`) and
renamed last, so whatever is killed, whenever, the final name never holds half of it. What a kill
leaves behind is cleared away by the next call for the same target.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from common.errors import DenoiserError


class TargetBusyError(DenoiserError):
    """Another process is writing the same target."""

    title = "The target is being written"


class TargetExistsError(DenoiserError):
    """The target is there already, and was not to be replaced."""

    title = "The target exists"


class TargetUnusableError(DenoiserError):
    """The target cannot be made where it should be."""

    title = "The target cannot be written"


@contextmanager
def staged_folder(
    target: Path, *, marks: Sequence[str], contents: Sequence[str] = ("*",), overwrite: bool = True
) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well.

    An exception removes the temporary folder and leaves `target` as it was. An existing `target`
    is replaced by two renames; a kill between them is mended by the next call.

    Args:
        target: the final name.
        marks: files that a folder of this kind has; a folder without them is not replaced.
        contents: patterns of all names in such a folder; one with other names is not replaced.
        overwrite: whether an existing folder is replaced.

    Raises:
        TargetBusyError: another process holds the temporary folder.
        TargetExistsError: `target` is there and `overwrite` is False, or it is of another kind.
    """
    target = target.absolute()
    rules: dict[str, Any] = {"marks": marks, "contents": contents, "overwrite": overwrite}
    stage = stage_of(target)
    make_stage(stage)
    with locked(stage):
        recover(target)
        clear(stage)
        try:
            check_target(target, **rules)
        except TargetExistsError:
            stage.rmdir()
            raise
        try:
            yield stage
            check_target(target, **rules)  # someone else may have made it meanwhile
            publish(stage, target)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def stage_of(target: Path) -> Path:
    """The hidden folder beside `target` in which it is put together."""
    if target.name in ("", ".."):  # a root, or a name that cannot be renamed
        raise TargetUnusableError(f"{target} as an output", expected="a new name in some folder")
    return target.with_name(f".{target.name}.partial")


def make_stage(stage: Path) -> None:
    """Make the folder and its parents.

    Raises:
        TargetUnusableError: the place cannot be written to.
    """
    try:
        stage.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise TargetUnusableError(
            f"{stage.parent} cannot hold the output ({exc.strerror})",
            expected="a new name in a folder that can be written to",
        ) from exc


def check_target(
    target: Path, *, marks: Sequence[str], contents: Sequence[str] = ("*",), overwrite: bool
) -> None:
    """Refuse to replace what is not of the same kind, or anything without `overwrite`.

    Arguments as for `staged_folder`.

    Raises:
        TargetExistsError
    """
    if not os.path.lexists(target):
        return
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else [""]
    foreign = [name for name in names if not any(fnmatch(name, known) for known in contents)]
    problem = ""
    if names and not all((target / name).is_file() for name in marks):
        problem = f"has no {' and '.join(marks)}"
    elif foreign:
        problem = f"holds {foreign[0]}, which would be lost"
    if problem:
        raise TargetExistsError(
            f"{target} exists and {problem}",
            expected="a new name, or a folder that this command made",
            hint="Choose another --out; nothing was changed.",
        )
    if not overwrite:
        raise TargetExistsError(
            f"{target.name} exists",
            expected="a new name",
            hint="Choose another --out, or add --overwrite.",
        )


def publish(stage: Path, target: Path) -> None:
    """Give the stage its final name, and only then remove what it replaces."""
    for file in stage.rglob("*"):
        if file.is_file():
            _sync(file)
    retired = retired_of(target)
    if os.path.lexists(target):
        target.rename(retired)
    try:
        stage.rename(target)
    except BaseException:  # also Ctrl-C between the two
        if retired.exists() and not target.exists():
            retired.rename(target)
        raise
    _remove(retired)


def recover(target: Path) -> None:
    """Undo what a kill inside `publish` left: an old folder without its name, or not yet gone."""
    retired = retired_of(target)
    if retired.exists() and not target.exists():
        retired.rename(target)
    _remove(retired)


def _remove(path: Path) -> None:
    """Remove a folder, or the link or file that stood in its place."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def retired_of(target: Path) -> Path:
    """Where a folder that is being replaced waits until the new one has its name."""
    return target.with_name(f".{target.name}.retired")


def clear(folder: Path) -> None:
    """Empty a folder and keep it, with any lock held on it."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise TargetBusyError(
                f"another process is writing {folder}",
                expected="one writer",
                hint="Wait for it, or choose another --out.",
            ) from exc
        if not folder.exists() or os.fstat(handle).st_ino != folder.stat().st_ino:
            raise TargetBusyError(  # renamed by its writer between our open and our lock
                f"another process has just written {folder}",
                expected="one writer",
                hint="Look at what it wrote, then try again.",
            )
        yield
    finally:
        os.close(handle)


def _sync(file: Path) -> None:
    """Have the file's bytes on disk before the rename that makes them count."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
