"""Usable cores: affinity, and the CPU quotas of the process's cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common import cores


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "some words here\n"}, None),
        ({"cpu.max": "100000 0\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, None),
        # of the process's own cgroup, as systemd's CPUQuota= sets it, and those above it
        ({"a/b.service/cpu.max": "50000 100000\n"}, 0.5),
        ({"a/cpu.max": "100000 100000\n", "a/b.service/cpu.max": "300000 100000\n"}, 1.0),
        ({"a/b.service/cpu.max": "max 100000\n", "cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu/c/d/cpu.cfs_quota_us": "50000\n", "cpu/c/d/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"other/cpu.max": "50000 100000\n"}, None),
        ({}, None),
    ],
)
def test_cgroup_quotas(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    own = tmp_path / "self"
    own.write_text("4:memory:/x\n3:cpu,cpuacct:/c/d\n0::/a/b.service\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.cgroup_quota(tmp_path, own) == quota


@pytest.mark.parametrize(
    ("quota", "expected"), [(None, 8), (0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 8)]
)
def test_usable_cores(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "cgroup_quota", lambda: quota)
    assert cores.usable_cores() == expected


def test_usable_cores_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores, "cgroup_quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1
