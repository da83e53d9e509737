"""Where things are: the checkout, the committed test data, the shipped bundle, genuine MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
BUNDLE = ROOT / "bundles" / "mnist"
SERVING = ROOT / ".venv-serve" / "bin"

MNIST = Path(os.environ.get("MNIST_NPZ", ""))
needs_mnist = pytest.mark.skipif(
    not MNIST.is_file(), reason="set MNIST_NPZ to the path of Keras's mnist.npz"
)
