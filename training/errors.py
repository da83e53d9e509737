"""What can go wrong in training, as one small tree.

    TrainingError
    ├── DatasetError    the images: missing, unreadable, of the wrong shape, type or range
    ├── SettingsError   the options: unknown names, values out of range, contradictions
    └── RunError        the run folder: exists already, is damaged, does not match

Every message has three parts: what came, what was expected, what to do.
`training.__main__` turns them into one line on stderr and exit status 2.
"""


class TrainingError(Exception):
    """A message of three parts, for a person: what came, what was expected, what to do."""

    def __init__(self, came: str, *, expected: str, do: str) -> None:
        super().__init__(f"{came}; expected {expected}; {do}")
        self.came = came
        self.expected = expected
        self.do = do


class DatasetError(TrainingError):
    """The images cannot be used as they are."""


class SettingsError(TrainingError):
    """The options cannot be used as they are."""


class RunError(TrainingError):
    """The run folder cannot be read, written or resumed."""
