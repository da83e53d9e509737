"""Settings of the service: the one place that reads environment variables.

Each field is `DENOISER_<NAME>`. Anything that makes no sense is refused at start, by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from service.errors import SettingsError

PREFIX = "DENOISER_"
ROOT = Path(__file__).resolve().parent.parent  # the checkout, or the source folder of a bento


def _setting(
    default: Any, about: str, *, low: float | None = None, high: float | None = None
) -> Any:
    return field(default=default, metadata={"about": about, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """What the service runs with; each field's `about` is its documentation."""

    bundle: Path = _setting(ROOT / "bundles/mnist", "folder of the bundle to serve")
    threads: int = _setting(
        0, "engine threads in each worker; 0: all usable cores", low=0, high=1024
    )
    max_body: int = _setting(64 * 2**20, "largest request body, in bytes", low=1024, high=2**31)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read `DENOISER_…` variables.

        Raises:
            SettingsError: an unknown name, or a value of the wrong kind or outside its bounds.
        """
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        values: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            if variable not in known:
                raise SettingsError(
                    f"the environment variable {variable}",
                    expected=f"one of {', '.join(sorted(known))}",
                    todo="Correct its name or unset it.",
                )
            spec = known[variable]
            values[spec.name] = _parse(variable, text, type(spec.default), spec.metadata)
        return cls(**values)


def _parse(variable: str, text: str, kind: Any, metadata: Mapping[str, Any]) -> Any:
    if issubclass(kind, Path):
        if not text:
            raise SettingsError(
                f"{variable} without a value",
                expected=f"a path ({metadata['about']})",
                todo="Correct it or unset it.",
            )
        return Path(text)
    try:
        value = kind(text)
    except ValueError:
        value = None
    low, high = metadata["low"], metadata["high"]
    if value is None or (low is not None and value < low) or (high is not None and value > high):
        raise SettingsError(
            f"{variable}={text!r}",
            expected=f"{kind.__name__} from {low} to {high} ({metadata['about']})",
            todo="Correct it or unset it.",
        )
    return value
