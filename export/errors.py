"""Errors between a run and a bundle."""

from __future__ import annotations

from common.errors import DenoiserError


class ExportError(DenoiserError):
    """A run cannot become a bundle."""

    title = "The export failed"


class ParityError(ExportError):
    """The exported models do not compute what Keras computes."""

    title = "No parity"
