-- Nearest neighbours and clusters straight from the Parquet file that
--     python -m service encode FOLDER --out latents.parquet
-- writes. Nothing is imported or kept. With DuckDB's command line (tested with 2.0):
--     duckdb -cmd "SET VARIABLE latents = 'latents.parquet'" < examples/duckdb_latents.sql
-- FLOAT[16] is the latent size of bundles/mnist; `python -m service info` prints that of another.

-- The model: only latents of one fingerprint can be compared.
SELECT decode(key) AS fact, decode(value) AS value
FROM parquet_kv_metadata(getvariable('latents'))
WHERE starts_with(decode(key), 'denoiser.');

CREATE TEMP VIEW latents AS
SELECT id, latent::FLOAT[16] AS latent FROM read_parquet(getvariable('latents'));

-- The five nearest neighbours of the first image.
SELECT id, array_distance(latent, (SELECT arg_min(latent, id) FROM latents)) AS distance
FROM latents
ORDER BY distance
LIMIT 5 OFFSET 1;  -- the first is the image itself

-- Ten clusters by k-means (Lloyd's algorithm): each round moves every centre to the mean of the
-- latents nearest to it. The first centres are ten latents, chosen by a hash of their ids.
CREATE TEMP TABLE centres AS
WITH RECURSIVE rounds AS (
    SELECT 0 AS round, row_number() OVER () AS cluster, latent AS centre
    FROM (SELECT latent FROM latents ORDER BY hash(id) LIMIT 10)
  UNION ALL
    SELECT round + 1, cluster, list(mean ORDER BY axis)::FLOAT[16]
    FROM (
        SELECT round, cluster, axis, avg(latent[axis]) AS mean
        FROM (
            SELECT any_value(round) AS round, any_value(latent) AS latent,
                   arg_min(cluster, array_distance(latent, centre)) AS cluster
            FROM latents, rounds
            GROUP BY id
        ), range(1, 17) AS axes(axis)
        GROUP BY round, cluster, axis
    )
    WHERE round < 20
    GROUP BY round, cluster
)
SELECT cluster, centre FROM rounds WHERE round = 20;

-- Size of each, mean distance to the centre, and the latent nearest to it.
SELECT cluster, count(*) AS size, round(avg(distance), 2) AS mean_distance,
       arg_min(id, distance) AS example
FROM (
    SELECT id, arg_min(cluster, array_distance(latent, centre)) AS cluster,
           min(array_distance(latent, centre)) AS distance
    FROM latents, centres
    GROUP BY id
)
GROUP BY cluster
ORDER BY size DESC;
