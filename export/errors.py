"""Errors of export."""

from __future__ import annotations

from common.errors import DenoiserError


class NetworkError(DenoiserError):
    """The run's network cannot be exported, or is not worth it."""

    title = "Unusable network"


class ParityError(DenoiserError):
    """The exported models do not compute what Keras computes."""

    title = "No parity"
