"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

# Between blocks that are freed there are some that stay, in several threads.
SCRIPT = """
import resource, threading
from common import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

memory.return_early()  # without it some 300 MiB stay
start = resident()

def work():
    for _ in range(3):
        blocks = [bytearray(b"x") * (5 * 2**20) for _ in range(20)]
        kept.append(bytearray(b"x") * 2**20)
        del blocks

kept = []
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_are_returned_when_they_are_freed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert int(done.stdout) < 24 * 2**20
