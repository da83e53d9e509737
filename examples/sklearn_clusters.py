"""Clusters and outliers among latents, with scikit-learn; the decoder draws them.

    python -m examples.sklearn_clusters latents.parquet --picture clusters.png

`python -m service encode FOLDER --out latents.parquet` writes the Parquet file. No image is read:
each latent is drawn as the model decodes it, which is the image without its noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.cluster import KMeans
from sklearn.neighbors import LocalOutlierFactor

from common.arrays import Array, Floats
from common.errors import DenoiserError
from examples import images
from service.bulk.provenance import Provenance
from service.engine import Engine

COLUMNS = 16  # images in a row of the picture
NEIGHBOURS = 20


def read(path: Path, engine: Engine) -> tuple[list[str], Floats]:
    """Ids and latents, float32 (N, D), of a Parquet file; ValueError if of another model."""
    table = pq.read_table(path)
    provenance = Provenance.from_metadata(table.schema.metadata)
    if provenance is None or provenance.kind != "latents":
        raise ValueError(f"{path} is no file of latents, as python -m service encode writes")
    if provenance.fingerprint != engine.fingerprint:
        raise ValueError(
            f"{path} has latents of model {provenance.fingerprint}; expected {engine.fingerprint}, "
            "that of the bundle (--bundle)"
        )
    column = table["latent"].combine_chunks()
    latents = column.flatten().to_numpy().reshape(-1, engine.manifest.latent_size)
    return [str(name) for name in table["id"].to_pylist()], latents


def clusters(latents: Floats, count: int) -> tuple[Array, Array]:
    """k-means: each latent's cluster, int32 (N,), and its distance to the centre, float (N,)."""
    model = KMeans(count, n_init=4, random_state=0).fit(latents)
    return model.labels_, np.linalg.norm(latents - model.cluster_centers_[model.labels_], axis=1)


def outliers(latents: Floats) -> Array:
    """Local outlier factors, float (N,): 1 = as dense as its neighbours, above 1.5 = isolated.

    M. Breunig et al., "LOF: identifying density-based local outliers", SIGMOD 2000.
    """
    model = LocalOutlierFactor(n_neighbors=min(NEIGHBOURS, len(latents) - 1))
    model.fit(latents)
    return -np.asarray(model.negative_outlier_factor_)


def main() -> int:
    """Parse, cluster, draw; 1 after an error, which is one line."""
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
        nearest = members[np.argsort(distances[members])][:COLUMNS]
        rows.append((f"cluster {cluster}: {len(members):,}", nearest))
        print(f"cluster {cluster}: {len(members):6,} latents, such as {names[nearest[0]]}")
    farthest = np.argsort(-factors)[:COLUMNS]
    rows.append((f"outliers, factor up to {factors[farthest[0]]:.1f}", farthest))
    for row in farthest:
        print(f"outlier factor {factors[row]:5.2f}  {names[row]}")
    images.write_sheet(
        options.picture,
        [(title, engine.decode(latents[chosen], dtype="uint8")) for title, chosen in rows],
    )
    print(f"written: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
