"""How far apart two sets of latents are, dimension by dimension and as a whole.

Each dimension: the two-sample Kolmogorov–Smirnov test, its p-values corrected for the number of
dimensions (S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6,
1979), and as sizes the Wasserstein distance and the shift of the mean, in standard deviations of
the reference. The whole: the energy distance (G. Székely and M. Rizzo, "Energy statistics", J.
Stat. Plan. Inference 143, 2013) with a permutation test, exact whatever the distribution.

Both share `alpha` half and half, so two sets from one source raise an alarm with a probability of
at most `alpha`. The rows of a set must be independent of each other: neighbouring frames of one
film are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from common.arrays import Array

# Rows of a set in the joint test: all pairs of both sets' rows take 64 MB as float32.
JOINT_ROWS = 2_000
PERMUTATIONS = 999
BLOCK = 512  # permutations in one matrix product
MIN_ALPHA, MAX_ALPHA = 0.001, 0.5


@dataclass(frozen=True)
class Dimension:
    """One of the latent's numbers in both sets.

    Attributes:
        index: which, from 0.
        statistic: Kolmogorov–Smirnov: the largest gap of the distribution functions, in [0, 1].
        p_value: corrected for the number of dimensions; compare it with half of alpha.
        wasserstein: in standard deviations of the reference (as are the next).
        shift: mean of the new set less that of the reference.
        spread: standard deviation of the new set.
        drifted: whether this dimension alone is reason for the alarm.
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
            deviation of both sets together; 0 for equal ones.
        p_value: share of `permutations` (and the sets as they are) that lie as far apart.
        rows: of each set that were compared.
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
    """Both answers; `found` if either raises the alarm."""

    alpha: float
    dimensions: tuple[Dimension, ...]
    joint: Joint

    @property
    def found(self) -> bool:
        return self.joint.drifted or any(one.drifted for one in self.dimensions)


def compare(*, reference: Array, new: Array, alpha: float, rng: np.random.Generator) -> Drift:
    """Test whether two sets of latents come from one source.

    Args:
        reference: float32 (M, D), finite.
        new: float32 (N, D), finite.
        alpha: probability of a false alarm, MIN_ALPHA to MAX_ALPHA.
        rng: draws the rows of the joint test, and its permutations.
    """
    return Drift(
        alpha,
        dimensions(reference=reference, new=new, alpha=alpha / 2),
        joint(reference=reference, new=new, alpha=alpha / 2, rng=rng),
    )


def dimensions(*, reference: Array, new: Array, alpha: float) -> tuple[Dimension, ...]:
    """Each dimension by itself; arguments as in `compare`, all of `alpha` for these tests."""
    from scipy import stats  # slow to import, and not in the serving install

    # Of equal numbers there is nothing to scale by: a dimension that the encoder never uses.
    scale = reference.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1
    tests = [
        stats.ks_2samp(old, fresh, method="asymp")
        for old, fresh in zip(reference.T, new.T, strict=True)
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
    """All dimensions together; arguments as in `compare`, all of `alpha` for this test."""
    from scipy.spatial import distance

    old, fresh = (_some(rows, JOINT_ROWS, rng) for rows in (reference, new))
    pooled = np.concatenate([old, fresh]).astype(np.float64)
    scale = pooled.std(axis=0)
    pooled /= np.where(scale > 0, scale, 1)
    apart = distance.cdist(pooled, pooled).astype(np.float32)  # (M + N, M + N)

    # The p-value cannot be smaller than one over the permutations: as many as alpha asks for.
    permutations = max(PERMUTATIONS, math.ceil(5 / alpha) - 1)
    belongs = np.zeros(len(pooled), np.float32)  # 1: to the reference
    belongs[: len(old)] = 1
    measured = _energy(apart, belongs[None], len(old))[0]
    under_null = np.concatenate(
        [
            _energy(apart, rng.permuted(np.tile(belongs, (count, 1)), axis=1), len(old))
            for count in _blocks(permutations)
        ]
    )
    # Sums in float32: a permutation that puts equal rows elsewhere may differ in the last digits.
    as_far = int((under_null >= measured - 1e-6 * float(apart.mean())).sum())
    p_value = (as_far + 1) / (permutations + 1)
    return Joint(float(measured), p_value, (len(old), len(fresh)), under_null, p_value <= alpha)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction: of true hypotheses, any is ≤ alpha with probability ≤ alpha."""
    ranked = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(ranked):
        largest = max(largest, min(1.0, p_values[k] * (len(p_values) - rank)))
        corrected[k] = largest
    return corrected


def _energy(apart: Array, belongs: Array, size: int) -> Array:
    """2 E|X − Y| − E|X − X′| − E|Y − Y′| for each row of `belongs`.

    apart float32 (R, R); belongs float32 (P, R), 1 for the `size` rows of X and 0 for Y → (P,).
    """
    rest = apart.shape[0] - size
    towards = belongs @ apart  # (P, R): each row's distances to X, summed
    inside = (towards * belongs).sum(axis=1, dtype=np.float64)  # of X to X
    across = towards.sum(axis=1, dtype=np.float64) - inside
    outside = apart.sum(dtype=np.float64) - inside - 2 * across
    energy: Array = 2 * across / (size * rest) - inside / size**2 - outside / rest**2
    return energy


def _some(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """At most `count` of the rows, drawn without replacement."""
    return rows if len(rows) <= count else rows[rng.choice(len(rows), count, replace=False)]


def _blocks(count: int) -> list[int]:
    """`count` in parts of at most BLOCK."""
    return [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
