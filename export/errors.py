"""Errors of export."""

from __future__ import annotations

from common.errors import DenoiserError


class ParityError(DenoiserError):
    """The exported models do not compute what Keras computes."""

    title = "No parity"
