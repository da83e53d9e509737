"""The settings of one bulk job."""

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
    """Settings of one job; plain values, which can be sent to another process.

    Attributes:
        operation: what is computed.
        input: a path, a URL, or "-" for a list of image files on standard input.
        out: the output; its name determines the format, a "/" at the end makes it a folder.
        bundle, precision, threads: of the engine in this process; 0 threads means one per core.
        url, api_key: a service that computes instead; "" for none.
        column: of a Parquet file, or the array of an .npz, where several fit.
        fit, invert: for image files, as in service/codecs/png.py.
        dtype: of images that are written; None for that of the images read (uint8 after decode).
        batch: rows in one unit, 0 for a size that suits the input; Parquet has its row groups.
        score: add the novelty score of each image.
        strict: stop at the first row that cannot be read.
        overwrite: replace the output, and parts of another job.
        append: add a part file to an existing Parquet folder of the same model.
        first_id: number of the first row where the input has no ids; set by `append`.
        address, actors: of the Ray cluster; "" starts one on this machine, 0 actors means one per
            CPU.
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
    first_id: int = 0
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
