"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores this process may use: its CPU affinity, limited by the quotas of its cgroups."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS
        cores = os.cpu_count() or 1
    quota = cgroup_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cgroup_quota(root: Path = CGROUPS, own: Path = OWN) -> float | None:
    """The smallest CPU quota, in cores, of the process's cgroup and all above it; None without one.

    A container's quota is that of the mounted root; systemd's CPUQuota= and a shared cgroup
    namespace set it on a cgroup below. Version 2 has `cpu.max`, version 1 `cpu.cfs_*_us`.
    """
    quotas = [quota for folder in _folders(root, own) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """The process's cgroup in each hierarchy that limits CPU time, and every one above it."""
    yield from (root, root / "cpu")
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        below = Path(path.lstrip("/"))
        yield from (top / part for part in (below, *below.parents))


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if quota == "max" or int(quota) <= 0:
            return None
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
