"""Clusters and outliers among latents, with scikit-learn; the decoder shows what they are.

    python -m examples.sklearn_clusters latents.parquet --picture clusters.png

The Parquet file is what `python -m service encode FOLDER --out latents.parquet` writes. No image is
read: each latent is drawn as its model decodes it, which is the image without its noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.cluster import KMeans
from sklearn.neighbors import LocalOutlierFactor

from common.errors import DenoiserError
from examples import images
from service.bulk.provenance import Provenance
from service.engine import Engine

Array = np.ndarray[Any, np.dtype[Any]]

ACROSS = 16  # images in a row of the picture
NEIGHBOURS = 20


def read(path: Path, engine: Engine) -> tuple[list[str], Array]:
    """Ids and latents, float32 (N, D), of a Parquet file that this engine's model made.

    Raises:
        FingerprintError: another model made them. ValueError: it is not a file of latents.
    """
    table = pq.read_table(path)
    provenance = Provenance.from_metadata(table.schema.metadata)
    if provenance is None or provenance.kind != "latents":
        raise ValueError(f"{path} holds no latents; make them: python -m service encode")
    if provenance.fingerprint != engine.fingerprint:
        raise ValueError(
            f"{path} has latents of the fingerprint {provenance.fingerprint}, the bundle is "
            f"{engine.fingerprint}; name the bundle that made them: --bundle"
        )
    column = table["latent"].combine_chunks()
    latents = column.flatten().to_numpy().reshape(-1, engine.manifest.latent_size)
    return [str(name) for name in table["id"].to_pylist()], latents


def clusters(latents: Array, count: int) -> tuple[Array, Array]:
    """k-means: each latent's cluster, int32 (N,), and its distance to the centre, float (N,)."""
    found = KMeans(count, n_init=4, random_state=0).fit(latents)
    return found.labels_, np.linalg.norm(latents - found.cluster_centers_[found.labels_], axis=1)


def outliers(latents: Array) -> Array:
    """How much emptier it is around a latent than around its neighbours (1: just as full).

    Local outlier factor; M. Breunig et al., "LOF: identifying density-based local outliers",
    SIGMOD 2000. float (N,); from about 1.5 on, look at them.
    """
    model = LocalOutlierFactor(n_neighbors=min(NEIGHBOURS, len(latents) - 1))
    model.fit(latents)
    return -np.asarray(model.negative_outlier_factor_)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("latents", type=Path, help="Parquet file of latents")
    parser.add_argument("--picture", type=Path, default=Path("clusters.png"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/mnist"))
    parser.add_argument("--count", type=int, default=10, help="clusters")
    options = parser.parse_args()

    try:
        engine = Engine.load(options.bundle)
        names, latents = read(options.latents, engine)
        if len(latents) < max(options.count, 2):
            raise ValueError(f"{len(latents)} latents are too few for {options.count} clusters")
    except (DenoiserError, ValueError, OSError, pa.ArrowException) as exc:
        print(f"sklearn_clusters: {exc}", file=sys.stderr)
        return 1
    labels, distances = clusters(latents, options.count)
    factors = outliers(latents)

    rows = []
    for cluster in np.argsort(-np.bincount(labels)):
        members = np.flatnonzero(labels == cluster)
        middle = members[np.argsort(distances[members])][:ACROSS]
        rows.append((f"cluster {cluster}: {len(members):,}", middle))
        print(f"cluster {cluster}: {len(members):6,} latents, such as {names[middle[0]]}")
    farthest = np.argsort(-factors)[:ACROSS]
    rows.append((f"outliers, factor {factors[farthest[0]]:.1f} and less", farthest))
    for place in farthest:
        print(f"outlier factor {factors[place]:5.2f}  {names[place]}")
    images.write_sheet(
        options.picture,
        [(title, engine.decode(latents[which], dtype="uint8")) for title, which in rows],
    )
    print(f"written: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
