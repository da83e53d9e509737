"""Facts about the machine that the results were measured on."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.cores import usable_cores

FLAGS = re.compile(r"avx2|avx512(f|_vnni|_bf16)|avx_vnni|amx_(tile|bf16|int8)")
PACKAGES = ("numpy", "onnxruntime", "openvino", "tensorflow", "keras", "tf2onnx", "onnx")


def facts() -> dict[str, Any]:
    """CPU, cores, vector units, versions, load and date, as JSON types."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "flags": [flag for flag in _cpuinfo("flags").split() if FLAGS.fullmatch(flag)],
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES if find_spec(package)},
    }


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
