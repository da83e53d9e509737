"""What packages may import: proved in a fresh interpreter that refuses the rest, and by their text.

The whole contract between packages is in pyproject.toml, for import-linter. This proves the part
that installations depend on: the service runs without training's packages, `common` needs numpy and
Pillow alone, the client numpy and httpx alone.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine import Engine
from tests.support.paths import ROOT

TRAINING = {"tensorflow", "keras", "tf2onnx", "onnx", "training", "export"}
SERVING = {"service", "onnxruntime", "bentoml", "starlette", "orjson", "prometheus_client"}
BLOCKED = {
    "service": TRAINING,
    "common": TRAINING | SERVING | {"denoiser_client", "httpx"},
    "denoiser_client": TRAINING | SERVING | {"common", "PIL"},
}
# Packages beside the standard library; `service` has many, and all of them in `dependencies`.
ALLOWED = {"common": {"numpy", "PIL"}, "denoiser_client": {"numpy", "httpx"}}

SCRIPT = """
import importlib, json, pkgutil, sys

package, blocked, then = sys.argv[1], set(json.loads(sys.argv[2])), sys.argv[3]
requested, refused = [], {}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            requested.append(name)
            raise ImportError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for name in (*blocked, "export.parity", "training.fit", "keras.layers"):
    try:
        importlib.import_module(name)
    except ImportError as exc:
        refused[name] = str(exc)
requested.clear()

root = importlib.import_module(package)
modules = [package, *(m.name for m in pkgutil.walk_packages(root.__path__, package + "."))]
for name in modules:
    importlib.import_module(name)
result = {}
exec(then)
print(json.dumps({
    "refused": refused,
    "requested": requested,
    "modules": modules,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules} & blocked),
    **result,
}))
"""
COMPUTE = """
import numpy as np
from service.engine import Engine
engine = Engine.load({bundle!r}, threads=2)
images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
result = {{"denoised": engine.denoise(images).tolist()}}
"""


def import_all(package: str, then: str = "") -> dict[str, Any]:
    """Import each module of `package` where BLOCKED cannot be imported, then run `then`."""
    blocked = json.dumps(sorted(BLOCKED[package]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, package, blocked, then],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def imports(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"a relative import in {path}"
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", BLOCKED)
def test_every_module_imports_without_what_is_blocked(package: str) -> None:
    report = import_all(package)
    for name in (*BLOCKED[package], "export.parity", "training.fit", "keras.layers"):
        assert "is blocked" in report["refused"][name]
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / package).rglob("*.py")
    }
    assert files == set(report["modules"])
    assert report["loaded"] == []
    ours = {"training", "export", "service", "common", "denoiser_client"}
    assert [name for name in report["requested"] if name.partition(".")[0] in ours] == []


def test_the_service_computes_without_training(bundle_path: Path, engine: Engine) -> None:
    report = import_all("service", COMPUTE.format(bundle=str(bundle_path)))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    denoised = np.array(report["denoised"], np.float32)
    np.testing.assert_allclose(denoised, engine.denoise(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("package", BLOCKED)
def test_no_file_names_a_blocked_package(package: str) -> None:
    """Also inside functions, which importing the module does not run."""
    for path in (ROOT / package).rglob("*.py"):
        assert not set(imports(path)) & BLOCKED[package], path


@pytest.mark.parametrize("package", ALLOWED)
def test_the_small_packages_depend_on_little(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert set(imports(path)) <= sys.stdlib_module_names | ALLOWED[package] | {package}, path


def test_importing_service_reads_no_environment_and_prints_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import service.app"],
        cwd=ROOT,
        env={"DENOISER_NONSENSE": "1", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "DENOISER" not in done.stderr
