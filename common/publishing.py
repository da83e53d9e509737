"""Folders that appear whole or not at all.

A folder is put together under a hidden name beside its target (`bundles/.mnist.partial`) and
renamed last, so whatever is killed, whenever, the final name never holds half of it. What a kill
leaves behind is cleared away by the next call for the same target.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DenoiserError


class TargetBusyError(DenoiserError):
    """Another process is writing the same target."""

    title = "The target is being written"


class TargetExistsError(DenoiserError):
    """The target is there already, and was not to be replaced."""

    title = "The target exists"


@contextmanager
def staged_folder(target: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well.

    An exception removes the temporary folder and leaves `target` as it was. An existing `target`
    is replaced by two renames; a kill between them is mended by the next call.

    Raises:
        TargetBusyError: another process holds the temporary folder.
        TargetExistsError: `target` is there and `overwrite` is False.
    """
    target = target.absolute()
    stage = target.with_name(f".{target.name}.partial")
    stage.mkdir(parents=True, exist_ok=True)
    with _locked(stage):
        _recover(target)
        _empty(stage)
        if target.exists() and not overwrite:
            stage.rmdir()
            raise TargetExistsError(
                f"{target.name} exists",
                expected="a new name",
                hint="Choose another --out, or add --overwrite.",
            )
        try:
            yield stage
            _publish(stage, target)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def _publish(stage: Path, target: Path) -> None:
    for file in stage.rglob("*"):
        if file.is_file():
            _sync(file)
    retired = _retired(target)
    if target.exists():
        target.rename(retired)
    try:
        stage.rename(target)
    except BaseException:  # also Ctrl-C between the two
        if retired.exists() and not target.exists():
            retired.rename(target)
        raise
    _remove(retired)


def _recover(target: Path) -> None:
    """Undo what a kill inside `_publish` left: an old folder without its name, or not yet gone."""
    retired = _retired(target)
    if retired.exists() and not target.exists():
        retired.rename(target)
    _remove(retired)


def _remove(path: Path) -> None:
    """Remove a folder, or the link or file that stood in its place."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _retired(target: Path) -> Path:
    return target.with_name(f".{target.name}.retired")


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
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
