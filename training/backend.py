"""TensorFlow, imported without the messages that it prints for its own developers."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from training.errors import RunError

ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # the default; set explicitly it prints no message
}


def load_tensorflow() -> None:
    """Import TensorFlow and Keras; a RunError where they are not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _silent_stderr(), _home_untouched():
            import keras  # noqa: F401
            import tensorflow
    except ModuleNotFoundError as exc:
        raise RunError(
            f"{exc.name} is not installed",
            expected="the packages of the `train` extra",
            hint="Install them with: make env.",
        ) from exc
    tensorflow.get_logger().setLevel(logging.ERROR)  # it warns of retracing from the fifth model on


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of installed packages, by name."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@contextmanager
def _home_untouched() -> Iterator[None]:
    """Let Keras, and Matplotlib which it imports, write settings and caches where they vanish."""
    names = [name for name in ("KERAS_HOME", "MPLCONFIGDIR") if name not in os.environ]
    with TemporaryDirectory(prefix="denoiser-") as folder:
        os.environ.update(dict.fromkeys(names, folder))
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: C++ does not write through Python's sys.stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
