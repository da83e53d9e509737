"""What one bulk job is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.images import Fit
from service.bundle import FLOAT32, PrecisionName
from service.engine import ImageDtype

Operation = Literal["encode", "decode", "denoise"]
Kind = Literal["images", "latents"]


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """Settings of one job; plain values, so that another process can be handed them.

    Attributes:
        operation: what is computed.
        input: a path, or "-" for a list of image files on standard input.
        out: the output's name, which says its format; a "/" at its end makes it a folder.
        bundle, precision, threads: the engine in this process; threads 0 is one for each core.
        url, api_key: a service that computes instead; "" for none.
        column: of a Parquet file, or the array of an .npz, where several fit; "" for the only one.
        fit, invert: of image files, as in service/codecs/png.py.
        dtype: of images that are written; None for that of the images read (uint8 after decode).
        batch: rows in one unit; 0 for a number that suits the input.
        score: write how unusual each image is (`Engine.score`) beside its row.
        strict: stop at the first row that cannot be read.
        overwrite: replace the output, and parts of another job.
        append: add rows to a finished Parquet output of the same model.
        address, actors: of the Ray cluster that makes the parts, where one does; "" for one of
            its own on this machine, 0 for an actor on each of its CPUs.
    """

    operation: Operation
    input: str
    out: str
    bundle: Path
    precision: PrecisionName = FLOAT32
    threads: int = 0
    url: str = ""
    api_key: str = field(default="", repr=False)
    column: str = ""
    fit: Fit | None = None
    invert: bool = False
    dtype: ImageDtype | None = None
    batch: int = 0
    score: bool = False
    strict: bool = False
    overwrite: bool = False
    append: bool = False
    address: str = ""
    actors: int = 0

    @property
    def reads(self) -> Kind:
        """What the rows of the input are."""
        return "latents" if self.operation == "decode" else "images"

    @property
    def writes(self) -> Kind:
        """What the rows of the output are."""
        return "latents" if self.operation == "encode" else "images"
