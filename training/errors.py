"""Errors of training.

    DenoiserError
    └── TrainingError
        ├── DatasetError    the images: missing, unreadable, of the wrong shape, type or range
        ├── SettingsError   the options: unknown names, values out of range, contradictions
        └── RunError        the run folder: exists already, is damaged, does not match

`training.__main__` turns them into one line on stderr and exit status 2.
"""

from __future__ import annotations

from common.errors import DenoiserError


class TrainingError(DenoiserError):
    title = "Training failed"


class DatasetError(TrainingError):
    title = "Unusable dataset"


class SettingsError(TrainingError):
    title = "Unusable setting"


class RunError(TrainingError):
    title = "Unusable run"
