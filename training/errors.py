"""Errors of training.

    DenoiserError
    └── TrainingError
        ├── DatasetError    images: missing, unreadable, of the wrong shape, type or range
        ├── SettingsError   options: unknown names, values out of range, contradictions
        ├── RunError        the run folder: missing, damaged, of other settings
        └── LearningError   a loss that is not finite, an output that is always the same

`training.__main__` prints them as one line on stderr, with exit status 2.
"""

from __future__ import annotations

from common.errors import DenoiserError


class TrainingError(DenoiserError):
    """Base of the errors of training."""

    title = "Training failed"


class DatasetError(TrainingError):
    """The dataset cannot be used."""

    title = "Unusable dataset"


class SettingsError(TrainingError):
    """A setting is unknown or invalid."""

    title = "Unusable setting"


class LearningError(TrainingError):
    """The network does not learn; a bundle of it would be of no use."""

    title = "Nothing is learned"


class RunError(TrainingError):
    """A run folder cannot be used."""

    title = "Unusable run"
