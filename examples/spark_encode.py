"""Latents of a folder of PNGs in Spark: the bundle inside `predict_batch_udf`.

    python -m examples.spark_encode FOLDER latents/ [--master local[2]]

FOLDER may be anything that Spark reads, a bucket too. The bundle and the packages `service` and
`common` are sent to the workers with the job; numpy, onnxruntime, pillow, pandas and pyarrow must
be installed there. Each worker process loads the bundle once. Needs pyspark 4 and Java 17 or newer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pyspark import SparkFiles
from pyspark.errors import PySparkException
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, lit
from pyspark.sql.types import ArrayType, FloatType

import common
import service
from common.errors import DenoiserError
from service.bundle import Bundle

BATCH = 1024


def encoder(bundle: str) -> Callable[[], Callable[[np.ndarray], np.ndarray]]:
    """The argument of `predict_batch_udf`: a function that a worker calls once, for the model."""

    def load() -> Callable[[np.ndarray], np.ndarray]:
        from service.codecs import png
        from service.codecs.rows import RowSpec
        from service.engine import Engine

        engine = Engine.load(SparkFiles.get(bundle), threads=1)  # Spark has a worker for each core
        spec = RowSpec("images", engine.manifest.image_shape)

        def predict(files: np.ndarray) -> np.ndarray:
            """PNG files, bytes (N,), to latents, float32 (N, D)."""
            return engine.encode(np.concatenate([png.decode(file, spec) for file in files]))

        return predict

    return load


def latents(spark: SparkSession, folder: str, bundle: Path) -> DataFrame:
    """One row for each PNG: id, latent, fingerprint."""
    fingerprint = Bundle.open(bundle).manifest.fingerprint
    spark.sparkContext.addFile(str(bundle), recursive=True)
    encode = predict_batch_udf(
        encoder(bundle.name), return_type=ArrayType(FloatType()), batch_size=BATCH
    )
    files = spark.read.format("binaryFile").option("pathGlobFilter", "*.png").load(folder)
    return files.select(
        col("path").alias("id"),
        encode("content").alias("latent"),
        lit(fingerprint).alias("fingerprint"),
    )


def main() -> int:
    """Encode with Spark; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="PNGs of the model's own size")
    parser.add_argument("out", help="folder for the Parquet files; must not be there yet")
    parser.add_argument("--master", default="local[*]")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/mnist"))
    options = parser.parse_args()

    # Workers on this machine run this Python; for those of a cluster, name theirs before the call.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    with TemporaryDirectory() as folder:
        spark = SparkSession.builder.master(options.master).appName("latents").getOrCreate()
        try:
            for package in map(Path, (*service.__path__, *common.__path__)):
                name = f"{folder}/{package.name}"
                archive = shutil.make_archive(name, "zip", package.parent, package.name)
                spark.sparkContext.addPyFile(archive)
            rows = latents(spark, options.folder, options.bundle.resolve())
            rows.write.parquet(options.out)
            count = spark.read.parquet(options.out).count()
        except (DenoiserError, PySparkException) as exc:
            print(f"spark_encode: {exc}", file=sys.stderr)
            return 1
        finally:
            spark.stop()
    print(f"{count:,} latents in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
