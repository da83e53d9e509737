"""Latents in PostgreSQL with pgvector: binary COPY, an HNSW index, search in SQL.

    python -m examples.pgvector_search latents.parquet --dsn postgresql://localhost/db
    python -m examples.pgvector_search latents.parquet --dsn … --query examples/noisy.png

`python -m service encode FOLDER --out latents.parquet` writes the Parquet file. Loading it again
changes nothing. Latents of several models share the table; each query is for one fingerprint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from pgvector.psycopg import register_vector

from common.arrays import Floats
from common.errors import DenoiserError
from examples import images
from service.bulk.provenance import Provenance
from service.engine import Engine

TABLE = """
CREATE TABLE IF NOT EXISTS latents (
    fingerprint text NOT NULL,  -- of the model; compare latents of one only
    id          text NOT NULL,
    latent      vector({size}) NOT NULL,
    PRIMARY KEY (fingerprint, id)
)"""
INDEX = "CREATE INDEX IF NOT EXISTS latents_hnsw ON latents USING hnsw (latent vector_l2_ops)"
STAGING = "CREATE TEMP TABLE incoming (id text, latent vector({size})) ON COMMIT DROP"
MERGE = """
INSERT INTO latents SELECT %(fingerprint)s, id, latent FROM incoming
ON CONFLICT (fingerprint, id) DO UPDATE SET latent = EXCLUDED.latent
    WHERE latents.latent <> EXCLUDED.latent"""
SEARCH = """
SELECT id, latent <-> %(latent)s AS distance
FROM latents WHERE fingerprint = %(fingerprint)s
ORDER BY latent <-> %(latent)s LIMIT %(count)s"""


def load(connection: psycopg.Connection, path: Path) -> tuple[str, int]:
    """Load a Parquet file of latents in one transaction: its fingerprint, and the rows changed."""
    with pq.ParquetFile(path) as file, connection.transaction():
        provenance = Provenance.from_metadata(file.schema_arrow.metadata)
        if provenance is None or provenance.kind != "latents":
            raise ValueError(f"{path} is no file of latents, as python -m service encode writes")
        size = file.schema_arrow.field("latent").type.list_size
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(TABLE.format(size=size))
        connection.execute(STAGING.format(size=size))
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY incoming FROM STDIN WITH (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["text", "vector"])
            for batch in file.iter_batches(columns=["id", "latent"]):
                latents = batch["latent"].flatten().to_numpy().reshape(-1, size)
                for name, latent in zip(batch["id"].to_pylist(), latents, strict=True):
                    copy.write_row((str(name), latent))
        changed = connection.execute(MERGE, {"fingerprint": provenance.fingerprint}).rowcount
        connection.execute(INDEX)  # after the rows: building is faster than growing
    return provenance.fingerprint, changed


def search(
    connection: psycopg.Connection, *, latent: Floats, fingerprint: str, count: int
) -> list[tuple[str, float]]:
    """The nearest of a float32 (D,) latent among one model's: ids and distances, nearest first."""
    with connection.transaction():
        # The index has no fingerprints: without this it yields the nearest 40 of all models, of
        # which the WHERE may leave fewer than `count`.
        connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        return connection.execute(
            SEARCH, {"latent": latent, "fingerprint": fingerprint, "count": count}
        ).fetchall()


def main() -> int:
    """Parse, load, search; 1 after an error, which is one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("latents", type=Path, help="Parquet file of latents")
    parser.add_argument("--dsn", required=True, help="e.g. postgresql://user@localhost/db")
    parser.add_argument("--query", type=Path, help="a PNG whose neighbours to print")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/mnist"))
    parser.add_argument("--count", type=int, default=5)
    options = parser.parse_args()

    try:
        with psycopg.connect(options.dsn, autocommit=True) as connection:
            fingerprint, changed = load(connection, options.latents)
            print(f"{changed:,} rows new or changed, fingerprint {fingerprint}")
            if options.query is None:
                return 0
            engine = Engine.load(options.bundle)
            latent = engine.encode(images.read([options.query], engine.manifest))[0]
            for name, distance in search(
                connection, latent=latent, fingerprint=engine.fingerprint, count=options.count
            ):
                print(f"{distance:10.4f}  {name}")
    except (DenoiserError, ValueError, OSError, pa.ArrowException, psycopg.Error) as exc:
        print(f"pgvector_search: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
