"""Two-sample tests between two sets of latents, per dimension and for all dimensions together.

Per dimension: the Kolmogorov–Smirnov test, its p-values corrected for the number of dimensions
(S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6, 1979), and
as effect sizes the Wasserstein distance and the shift of the mean, in standard deviations of the
reference. Together: the energy distance (G. Székely and M. Rizzo, "Energy statistics", J. Stat.
Plan. Inference 143, 2013) with a permutation test, which is exact for any distribution.

Each of the two gets half of `alpha`, so the false-alarm rate is at most `alpha`. The rows of a set
must be independent: neighbouring frames of one film are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.arrays import Array

# Rows per set in the joint test: the distances of all pairs take 64 MB as float32.
JOINT_ROWS = 2_000
PERMUTATIONS = 999
BLOCK = 512  # permutations in one matrix product
MIN_ALPHA, MAX_ALPHA = 0.001, 0.5


@dataclass(frozen=True)
class Dimension:
    """One dimension of the latents in both sets.

    Attributes:
        index: from 0.
        statistic: Kolmogorov–Smirnov: the largest gap of the distribution functions, in [0, 1].
        p_value: corrected for the number of dimensions; compare it with half of alpha.
        wasserstein: in standard deviations of the reference (as are the next).
        shift: mean of the new set minus that of the reference.
        spread: standard deviation of the new set.
        drifted: whether p_value is at most half of alpha.
    """

    index: int
    statistic: float
    p_value: float
    wasserstein: float
    shift: float
    spread: float
    drifted: bool


@dataclass(frozen=True)
class Joint:
    """All dimensions together.

    Attributes:
        distance: squared energy distance of the sets, each dimension divided by the standard
            deviation of the pooled sets; 0 for equal ones.
        p_value: share of permutations, the identity included, with at least this distance.
        rows: number of rows of each set that were compared.
        under_null: the permutations' distances, float64 (permutations,).
        drifted: whether p_value is at most half of alpha.
    """

    distance: float
    p_value: float
    rows: tuple[int, int]
    under_null: Array
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """The results of both tests."""

    alpha: float
    dimensions: tuple[Dimension, ...]
    joint: Joint

    @property
    def detected(self) -> bool:
        """Whether either test is significant."""
        return self.joint.drifted or any(dimension.drifted for dimension in self.dimensions)


def compare(*, reference: Array, new: Array, alpha: float, rng: np.random.Generator) -> Drift:
    """Test whether two sets of latents come from one source.

    Args:
        reference: float32 (M, D), finite.
        new: float32 (N, D), finite.
        alpha: false-alarm rate, MIN_ALPHA to MAX_ALPHA.
        rng: draws the rows of the joint test, and its permutations.
    """
    return Drift(
        alpha,
        dimensions(reference=reference, new=new, alpha=alpha / 2),
        joint(reference=reference, new=new, alpha=alpha / 2, rng=rng),
    )


def dimensions(*, reference: Array, new: Array, alpha: float) -> tuple[Dimension, ...]:
    """Test each dimension; arguments as in `compare`, with all of `alpha` for these tests."""
    from scipy import stats  # slow to import, and not in the serving install

    # A dimension that the encoder never uses is constant and cannot be scaled.
    scale = reference.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    tests = [
        stats.ks_2samp(column, new_column, method="asymp")
        for column, new_column in zip(reference.T, new.T, strict=True)
    ]
    corrected = holm([float(test.pvalue) for test in tests])
    shift = (new.mean(axis=0, dtype=np.float64) - reference.mean(axis=0, dtype=np.float64)) / scale
    spread = new.std(axis=0, dtype=np.float64) / scale
    return tuple(
        Dimension(
            index=k,
            statistic=float(test.statistic),
            p_value=corrected[k],
            wasserstein=float(stats.wasserstein_distance(reference[:, k], new[:, k])) / scale[k],
            shift=float(shift[k]),
            spread=float(spread[k]),
            drifted=corrected[k] <= alpha,
        )
        for k, test in enumerate(tests)
    )


def joint(*, reference: Array, new: Array, alpha: float, rng: np.random.Generator) -> Joint:
    """Test all dimensions together; arguments as in `compare`, with all of `alpha`."""
    from scipy.spatial import distance

    reference, new = (_sample(rows, JOINT_ROWS, rng) for rows in (reference, new))
    size = len(reference)
    pooled = np.concatenate([reference, new]).astype(np.float64)
    scale = pooled.std(axis=0)
    pooled /= np.where(scale > 0, scale, 1)
    distances = distance.cdist(pooled, pooled).astype(np.float32)  # (M + N, M + N)

    # The smallest possible p-value is 1 / (permutations + 1), and must be well below alpha.
    permutations = max(PERMUTATIONS, math.ceil(5 / alpha) - 1)
    membership = np.zeros(len(pooled), np.float32)  # 1: in the reference
    membership[:size] = 1
    measured = _energy(distances, membership[None], size)[0]
    under_null = np.concatenate(
        [
            _energy(distances, rng.permuted(np.tile(membership, (count, 1)), axis=1), size)
            for count in _blocks(permutations)
        ]
    )
    # The sums are float32: a permutation that only swaps equal rows may differ in the last digits.
    extreme = int((under_null >= measured - 1e-6 * float(distances.mean())).sum())
    p_value = (extreme + 1) / (permutations + 1)
    return Joint(float(measured), p_value, (size, len(new)), under_null, p_value <= alpha)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction: corrected p-values, which bound the family-wise error rate."""
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(ranked):
        largest = max(largest, min(1.0, p_values[k] * (len(p_values) - rank)))
        corrected[k] = largest
    return corrected


def _energy(distances: Array, membership: Array, size: int) -> Array:
    """Squared energy distance 2 E|X − Y| − E|X − X′| − E|Y − Y′| for each row of `membership`.

    distances float32 (R, R); membership float32 (P, R), 1 for the `size` rows of X, 0 for Y → (P,).
    """
    rest = distances.shape[0] - size
    sums = membership @ distances  # (P, R): sum of each row's distances to X
    within_x = (sums * membership).sum(axis=1, dtype=np.float64)
    between = sums.sum(axis=1, dtype=np.float64) - within_x
    within_y = distances.sum(dtype=np.float64) - within_x - 2 * between
    energy: Array = 2 * between / (size * rest) - within_x / size**2 - within_y / rest**2
    return energy


def _sample(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """At most `count` of the rows, drawn without replacement."""
    return rows if len(rows) <= count else rows[rng.choice(len(rows), count, replace=False)]


def _blocks(count: int) -> list[int]:
    """`count` in parts of at most BLOCK."""
    return [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
