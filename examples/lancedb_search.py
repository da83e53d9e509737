"""Find clean images by a noisy one: latents in LanceDB, neighbours as a picture.

    python -m examples.lancedb_search FOLDER NOISY.png --picture neighbours.png

FOLDER holds clean PNGs. A second call adds new ones and replaces the others. Each model has a table
of its own, named by its fingerprint: latents of two models cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

from common.arrays import Floats
from common.errors import DenoiserError
from examples import images
from examples.index import index_latents
from service.engine import Engine


def index(database: lancedb.DBConnection, engine: Engine, paths: list[Path]) -> lancedb.Table:
    """Encode clean PNGs and merge them into the model's table, by path."""
    size = engine.manifest.latent_size
    schema = pa.schema({"id": pa.string(), "latent": pa.list_(pa.float32(), size)})
    name = f"latents_{engine.fingerprint[:16]}"
    table = database.create_table(name, schema=schema, exist_ok=True)
    latents = index_latents(engine, images.read(paths, engine.manifest))
    column = pa.FixedSizeListArray.from_arrays(pa.array(latents.ravel()), size)
    rows = pa.table([pa.array(map(str, paths), pa.string()), column], schema=schema)
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    return table


def search(table: lancedb.Table, latent: Floats, count: int) -> list[tuple[str, float]]:
    """The nearest of a float32 (D,) latent: paths and squared distances, nearest first.

    Exact: milliseconds for 10,000 latents. From about 100,000 an index pays:
    `table.create_index("latent", config=lancedb.index.IvfFlat())`.
    """
    rows = table.search(latent).distance_type("l2").limit(count).to_list()
    return [(row["id"], row["_distance"]) for row in rows]


def main() -> int:
    """Parse, index, search, draw; 1 after an error, which is one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="clean PNGs")
    parser.add_argument("query", type=Path, help="a noisy PNG")
    parser.add_argument("--picture", type=Path, default=Path("neighbours.png"))
    parser.add_argument("--database", type=Path, default=Path("latents.lance"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/mnist"))
    parser.add_argument("--count", type=int, default=9)
    options = parser.parse_args()

    try:
        engine = Engine.load(options.bundle)
        table = index(
            lancedb.connect(options.database), engine, sorted(options.folder.glob("*.png"))
        )
        query = images.read([options.query], engine.manifest)
        nearest = search(table, engine.encode(query)[0], options.count)
        neighbours = images.read([Path(path) for path, _ in nearest], engine.manifest)
    except (DenoiserError, OSError) as exc:
        print(f"lancedb_search: {exc}", file=sys.stderr)
        return 1
    for path, distance in nearest:
        print(f"{distance:10.4f}  {path}")
    denoised = engine.denoise(query, dtype="uint8")
    images.write_sheet(
        options.picture,
        [
            ("query, denoised", np.concatenate([query, denoised])),
            (f"nearest of {table.count_rows():,}", neighbours),
        ],
    )
    print(f"written: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
