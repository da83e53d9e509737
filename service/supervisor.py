"""The parent process of `bentoml serve`: no open control port, one bundle, an orderly stop.

BentoML's process manager (circus) listens on an unauthenticated ZeroMQ port through which any local
user can run commands as the server's user. `Supervisor` gives it an endpoint inside the process
instead. It also gives all workers one private copy of the bundle, so that a bundle that changes on
disk never mixes two models, and checks a new one before SIGHUP replaces the workers.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bentoml._internal.utils import circus
from tornado.concurrent import Future

from service.bundle import Bundle
from service.settings import PREFIX, Settings

log = logging.getLogger("bentoml.serve")

BUNDLE = PREFIX + "BUNDLE"
CHECK_SECONDS = 120  # for a new bundle's golden answers
_CHECK = (
    "import sys\n"
    "from common.errors import DenoiserError\n"
    "from service.engine import Engine\n"
    "try:\n"
    "    Engine.load(sys.argv[1], threads=1, precision=sys.argv[2])\n"
    "except DenoiserError as error:\n"
    "    sys.exit(str(error))\n"
)


class Supervisor:
    """What the parent keeps: where the bundle comes from, and the copy that workers load."""

    def __init__(self, settings: Settings) -> None:
        """Copy and verify the bundle.

        Raises:
            BundleError: it cannot be served.
        """
        self._source = settings.bundle
        self._precision = settings.precision
        Bundle.open(self._source)
        self._folder = Path(tempfile.mkdtemp(prefix="denoiser-bundle-"))
        atexit.register(self._remove, os.getpid())
        self.copy = self._copied()
        self._previous: Path | None = None
        Bundle.open(self.copy).manifest.at(self._precision)
        os.environ[BUNDLE] = str(self.copy)  # workers inherit it

    def renew(self) -> str | None:
        """Copy the bundle again and try it in a process of its own.

        Returns:
            The copy's path; None, with the reason in the log, where it cannot be served.
        """
        try:
            copy = self._copied()
        except OSError as error:
            log.error("The new bundle is not served, the old one goes on: %s", error)
            return None
        command = [sys.executable, "-c", _CHECK, str(copy), self._precision]
        try:
            check = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=CHECK_SECONDS
            )
            reason = check.stderr.strip() if check.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"its golden answers took more than {CHECK_SECONDS} s"
        if reason:
            log.error("The new bundle is not served, the old one goes on: %s", reason)
            shutil.rmtree(copy, ignore_errors=True)
            return None
        if self._previous is not None:
            shutil.rmtree(self._previous, ignore_errors=True)
        self._previous, self.copy = self.copy, copy  # a worker may be loading the old one still
        os.environ[BUNDLE] = str(copy)
        return str(copy)

    def _copied(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        return Path(shutil.copytree(self._source, folder / self._source.resolve().name))

    def _remove(self, pid: int) -> None:
        if os.getpid() == pid:  # not in a forked child
            shutil.rmtree(self._folder, ignore_errors=True)


def install(supervisor: Supervisor) -> None:
    """Have BentoML, in this process, manage workers through an `Arbiter` with this supervisor."""

    class Arbiter(circus.Arbiter):
        def __init__(self, *args: Any, **options: Any) -> None:
            if not options.get("plugins"):  # --reload watches files from another process
                options["endpoint"] = "inproc://control"
                options["pubsub_endpoint"] = "inproc://events"
            super().__init__(*args, **options)

        def reload(self, graceful: bool = True, sequential: bool = False) -> Any:
            """SIGHUP: new workers with the bundle as it is now, if that can be served."""
            copy = supervisor.renew()
            if copy is None:
                refused: Future[None] = Future()
                refused.set_result(None)
                return refused
            for watcher in self.iter_watchers():
                watcher.env[BUNDLE] = copy
            return super().reload(graceful=graceful, sequential=sequential)

        def stop(self) -> Any:
            """Refuse new connections at once, instead of letting them wait for the last answer."""
            self.sockets.close_all()
            return super().stop()

    circus.Arbiter = Arbiter
