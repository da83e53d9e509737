"""Do the runtimes compute the same function? A benchmark of a wrong answer is not one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.material import Material
from benchmarks.peers import Peer, Run
from common.arrays import Array

IMAGES = 64
BATCH = 24  # does not divide IMAGES: the rest is checked too


class DisagreementError(Exception):
    """A runtime answers otherwise than Keras; its speed means nothing."""


def check(material: Material, model: str, opened: Mapping[Peer, Run]) -> dict[str, float]:
    """Compare every opened peer with Keras called directly.

    Returns:
        peer → largest difference over all values; of latents, relative to the largest latent.

    Raises:
        DisagreementError: a difference beyond the peer's tolerance, or answers all alike, which
            would show nothing.
    """
    rows = material.rows(model, IMAGES)
    wanted: Array = material.keras[model]([rows], training=False).numpy()
    scale = float(np.abs(wanted).max()) if model == "encoder" else 1.0
    if float(wanted.std(axis=0).max()) < 1e-3 * scale:
        raise DisagreementError(f"{model}: the answers are all alike; they would agree anyway")
    found = {}
    for peer, run in opened.items():
        answer = run(rows, BATCH, material.answer(model, IMAGES))
        if answer.shape != wanted.shape or answer.dtype != np.float32:
            raise DisagreementError(
                f"{peer.name}, {model}: {answer.dtype} {answer.shape}, "
                f"expected float32 {wanted.shape}"
            )
        found[peer.name] = float(np.abs(answer - wanted).max()) / scale
        if not found[peer.name] <= peer.tolerance:
            raise DisagreementError(
                f"{peer.name}, {model}: differs from Keras by {found[peer.name]:.1e}, "
                f"expected at most {peer.tolerance:.0e}"
            )
    return found
