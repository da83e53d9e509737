"""Before timing: all runtimes compute the same function as Keras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.models import Models
from benchmarks.peers import Peer, Run
from common.arrays import Array

IMAGES = 64
BATCH = 24  # does not divide IMAGES: the remainder is checked too


class DisagreementError(Exception):
    """A runtime's output differs from Keras's, so that its speed means nothing."""


def check(models: Models, model: str, opened: Mapping[Peer, Run]) -> dict[str, float]:
    """Compare every opened peer with Keras called directly.

    Returns:
        peer → largest difference over all values; of latents, relative to the largest latent.

    Raises:
        DisagreementError: a difference beyond the peer's tolerance, or a nearly constant output,
            which would show nothing.
    """
    rows = models.rows(model, IMAGES)
    expected: Array = models.keras[model]([rows], training=False).numpy()
    scale = float(np.abs(expected).max()) if model == "encoder" else 1.0
    if float(expected.std(axis=0).max()) < 1e-3 * scale:
        raise DisagreementError(f"{model}: the output is the same for all images")
    differences = {}
    for peer, run in opened.items():
        output = run(rows, BATCH, models.output_buffer(model, IMAGES))
        if output.shape != expected.shape or output.dtype != np.float32:
            raise DisagreementError(
                f"{peer.name}, {model}: {output.dtype} {output.shape}, "
                f"expected float32 {expected.shape}"
            )
        difference = differences[peer.name] = float(np.abs(output - expected).max()) / scale
        if not difference <= peer.tolerance:
            raise DisagreementError(
                f"{peer.name}, {model}: differs from Keras by {difference:.1e}, "
                f"expected at most {peer.tolerance:.0e}"
            )
    return differences
