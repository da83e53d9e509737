"""`service/` runs where TensorFlow, ONNX and our other packages are not: a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

SCRIPT = """
import importlib, json, pkgutil, sys

BLOCKED = ("tensorflow", "keras", "tf2onnx", "onnx", "training", "export")
asked, refused = [], {}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            asked.append(name)
            raise ImportError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for name in (*BLOCKED, "export.parity", "training.fit", "keras.layers"):
    try:
        importlib.import_module(name)
    except ImportError as exc:
        refused[name] = str(exc)
asked.clear()

import service
modules = ["service"] + [m.name for m in pkgutil.walk_packages(service.__path__, "service.")]
for name in modules:
    importlib.import_module(name)

import numpy as np
from service.engine import Engine
engine = Engine.load(sys.argv[1], threads=2)
images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
print(json.dumps({
    "refused": refused,
    "asked": asked,
    "modules": modules,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules} & set(BLOCKED)),
    "denoised": engine.denoise(images).tolist(),
    "latents": engine.decode(engine.encode(images)).shape,
}))
"""


def run_blocked(bundle: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_service_imports_and_answers_without_training(bundle_path: Path, engine: Any) -> None:
    import numpy as np

    told = run_blocked(bundle_path)
    # the blocker blocks
    for name in ("tensorflow", "keras", "tf2onnx", "onnx", "training", "export"):
        assert "is blocked" in told["refused"][name]
    assert len(told["refused"]) == 9
    # every module that is on disk was imported, and none asked for a blocked one
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "service").rglob("*.py")
    }
    assert found == set(told["modules"])
    ours = [name for name in told["asked"] if name.partition(".")[0] in ("training", "export")]
    assert (told["loaded"], ours) == ([], [])
    # and it computes
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_allclose(
        np.array(told["denoised"], np.float32), engine.denoise(images), rtol=0, atol=1e-6
    )


def test_no_module_of_service_names_a_blocked_package() -> None:
    """The static half: also imports inside functions, which no import of the module would show."""
    import ast

    blocked = {"tensorflow", "keras", "tf2onnx", "onnx", "training", "export"}
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            assert not {name.partition(".")[0] for name in names} & blocked, path


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
