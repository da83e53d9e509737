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
IdType = Literal["int64", "uint64", "string"]


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """Settings of one job; plain values, which can be sent to another process."""

    operation: Operation
    input: str  # a path, a URL, or "-" for a list of image files on standard input
    out: str  # its name determines the format; a "/" at the end makes it a folder
    bundle: Path
    precision: PrecisionName = FLOAT32
    threads: int = 0  # of the engine in this process; 0 for one per core
    url: str = ""  # of a service that computes instead
    api_key: str = field(default="", repr=False)  # for that service
    column: str = ""  # of a Parquet file, or the array of an .npz, where several fit
    fit: Fit | None = None  # for image files, as in common/images.py
    invert: bool = False  # the same
    dtype: ImageDtype | None = None  # of images written; None: as they were read, uint8 of latents
    batch: int = 0  # rows in one unit, 0 for a size that suits the input; not for Parquet
    score: bool = False  # add the novelty score of each image
    strict: bool = False  # stop at the first row that cannot be read
    overwrite: bool = False  # replace the output, and parts of another job
    append: bool = False  # add a part file to an existing Parquet folder of the same model
    first_id: int = 0  # of the first row where the input has no ids; set by `append`
    address: str = ""  # of a Ray cluster; "" starts one on this machine
    actors: int = 0  # of Ray; 0 for one per CPU

    @property
    def reads(self) -> Kind:
        """What the rows of the input are."""
        return "latents" if self.operation == "decode" else "images"

    @property
    def writes(self) -> Kind:
        """What the rows of the output are."""
        return "latents" if self.operation == "encode" else "images"
