"""Classical denoisers on the same images: what one gets without training a network.

Each is given every chance that needs no training set. Its setting is the best of a small grid, by
mean PSNR on 50 validation images, the strengths in the grid being multiples of the noise's own
deviation there. And since noise may shift and stretch the values as well as scatter them, as
N(0.5, 0.5) does, a·x + b follows each denoiser, fitted to the same validation images by least
squares. BM3D takes about a third of a second an image, so all of them run on 500 test images at
most, spread evenly over the test split.

They come from scikit-image (the extra `evaluate`) and the authors' own `bm3d` package (the extra
`bm3d`), whose binaries are for non-commercial use only.
"""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from training.errors import RunError, SettingsError
from training.evaluation.heldout import HeldOut
from training.evaluation.metrics import Quality, quality

Setting = dict[str, Any]

VALIDATION = 50
TESTED = 500
MIN_PIXELS = 9  # a side: bm3d's binaries end the process on images of 8x8


@dataclass(frozen=True)
class Method:
    """One denoiser: what it is, its grid for noise of deviation d, and itself on one image.

    `run` takes float32 (H, W, C) in [0, 1] and a setting, and gives an image of that shape.
    """

    title: str
    package: str  # as it is imported
    source: str
    grid: Callable[[float], Iterable[Setting]]
    run: Callable[..., NDArray[Any]]


class Result(NamedTuple):
    """What one method made of the test images."""

    method: Method
    setting: Setting
    scale: float  # a of a·x + b
    shift: float  # b
    quality: Quality
    seconds: float  # for each image, by the clock, all cores at work


class Classical(NamedTuple):
    """All methods on the same test images."""

    indices: NDArray[np.int64]  # which of the held-out images
    validation: int  # images that the settings were chosen on
    deviation: float  # of noisy - clean, on those
    results: list[Result]
    left_out: dict[str, str]  # title → why


def chosen_methods(names: Sequence[str]) -> list[Method]:
    """The methods by name, each with its package at hand; [] stands for all."""
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise SettingsError(
            f"the classical method {unknown[0]!r}",
            expected=f"some of {','.join(METHODS)}",
            hint="Name them, or pass --classical alone for all.",
        )
    methods = [METHODS[name] for name in names or METHODS]
    for method in methods:
        if find_spec(method.package) is None:
            others = ",".join(key for key, other in METHODS.items() if find_spec(other.package))
            raise RunError(
                f"{method.title} without the package {method.package}",
                expected="the extra `evaluate`, and for BM3D the extra `bm3d`",
                hint="Install it (the extras are in pyproject.toml)."
                + f", or leave it out with --classical {others}" * bool(others),
            )
    return methods


def run_classical(held: HeldOut, methods: Sequence[Method]) -> Classical:
    """Choose each method's setting on validation images and measure it on test images."""
    _require_noise_and_validation(held)
    count = min(TESTED, len(held))
    indices = np.arange(count) * len(held) // count
    clean, noisy = held.pairs(indices.tolist())
    known = held.validation_pairs(VALIDATION)
    deviation = max(float(np.std(known[1] - known[0])), 1e-3)
    results, left_out = [], {}
    for method in methods:
        if method.package == "bm3d" and min(clean.shape[1:3]) < MIN_PIXELS:
            left_out[method.title] = f"sides under {MIN_PIXELS} pixels are too short for it"
            continue
        setting, scale, shift = _choose(method, deviation, clean=known[0], noisy=known[1])
        began = time.perf_counter()
        outputs = _over(method, noisy, setting)
        seconds = (time.perf_counter() - began) / count
        outputs = np.clip(outputs * np.float32(scale) + np.float32(shift), 0, 1)
        found = quality(clean=clean, output=outputs)
        results.append(Result(method, setting, scale, shift, found, seconds))
    return Classical(indices, len(known[0]), deviation, results, left_out)


def _require_noise_and_validation(held: HeldOut) -> None:
    if held.spec is None:
        raise SettingsError(
            "--classical for a run without noise", expected="noise to remove", hint="Pass --noise."
        )
    if held.dataset is None:
        raise SettingsError(
            "--classical on samples.npz",
            expected="validation images to choose settings on",
            hint="Name the data with --dataset.",
        )


def _choose(
    method: Method, deviation: float, *, clean: Floats, noisy: Floats
) -> tuple[Setting, float, float]:
    """The grid's best setting, and the a and b that go with it."""
    best: tuple[float, Setting, float, float] | None = None
    for setting in method.grid(deviation):
        outputs = _over(method, noisy, setting).astype(np.float64)
        scale, shift = np.polyfit(outputs.ravel(), clean.ravel(), 1) if outputs.std() else (0, 0)
        errors = np.clip(outputs * scale + shift, 0, 1) - clean
        mse = np.maximum(np.mean(errors**2, axis=(1, 2, 3)), 1e-10)
        decibels = float(np.mean(-10 * np.log10(mse)))
        if best is None or decibels > best[0]:
            best = decibels, setting, float(scale), float(shift)
    assert best is not None
    return best[1:]


def _over(method: Method, images: Floats, setting: Setting) -> Floats:
    """The method on float32 (N, H, W, C), an image at a time on every core."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_cores()) as pool:
        warnings.filterwarnings("ignore", message="Level value of")  # wavelets, small images
        answers = [*pool.map(partial(method.run, **setting), images)]
    return np.stack(answers).astype(np.float32).reshape(images.shape)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _product(**choices: Iterable[Any]) -> list[Setting]:
    """All combinations of the choices."""
    return [dict(zip(choices, row, strict=True)) for row in itertools.product(*choices.values())]


def _times(deviation: float, *factors: float) -> list[float]:
    return [float(f"{deviation * factor:.3g}") for factor in factors]


def _median(image: Floats, *, side: int) -> NDArray[Any]:
    from skimage.filters import median

    return np.stack(
        [median(image[..., channel], np.ones((side, side))) for channel in range(image.shape[2])],
        axis=-1,
    )


def _total_variation(image: Floats, *, weight: float) -> NDArray[Any]:
    from skimage.restoration import denoise_tv_chambolle

    answer: NDArray[Any] = denoise_tv_chambolle(image, weight=weight, channel_axis=-1)
    return answer


def _wavelets(image: Floats, *, wavelet: str, mode: str) -> NDArray[Any]:
    from skimage.restoration import denoise_wavelet

    answer: NDArray[Any] = denoise_wavelet(
        image,
        wavelet=wavelet,
        mode=mode,
        method="BayesShrink",
        rescale_sigma=True,
        channel_axis=-1,
    )
    return answer


def _nonlocal_means(image: Floats, *, h: float, patch_size: int) -> NDArray[Any]:
    from skimage.restoration import denoise_nl_means

    answer: NDArray[Any] = denoise_nl_means(
        image, h=h, patch_size=patch_size, patch_distance=6, channel_axis=-1
    )
    return answer


def _bm3d(image: Floats, *, sigma: float) -> NDArray[Any]:
    from bm3d import BM3DProfile, bm3d, bm3d_rgb

    profile = BM3DProfile()
    profile.num_threads = 1  # more cost more than they give on small images; ours run beside
    answer: NDArray[Any]
    if (image == image[..., :1]).all():  # grey, also in three channels, which bm3d_rgb makes NaN
        answer = np.repeat(bm3d(image[..., 0], sigma, profile)[..., None], image.shape[2], axis=-1)
    else:
        answer = bm3d_rgb(image, sigma, profile)
    return answer


METHODS = {
    "median": Method(
        "Median",
        "skimage",
        "J. W. Tukey, Exploratory Data Analysis, 1977; skimage.filters.median",
        lambda d: _product(side=(3, 5, 7)),
        _median,
    ),
    "tv": Method(
        "Total variation",
        "skimage",
        "L. Rudin, S. Osher and E. Fatemi, Physica D 60, 1992, by A. Chambolle, J. Math. Imaging "
        "and Vision 20, 2004; skimage.restoration.denoise_tv_chambolle",
        lambda d: _product(weight=_times(d, 0.35, 0.7, 1.0, 1.5, 2.2)),
        _total_variation,
    ),
    "wavelets": Method(
        "Wavelets, BayesShrink",
        "skimage",
        "S. G. Chang, B. Yu and M. Vetterli, IEEE Trans. Image Processing 9, 2000; "
        "skimage.restoration.denoise_wavelet",
        lambda d: _product(wavelet=("db1", "db2", "sym4"), mode=("soft", "hard")),
        _wavelets,
    ),
    "nlm": Method(
        "Non-local means",
        "skimage",
        "A. Buades, B. Coll and J.-M. Morel, CVPR 2005; skimage.restoration.denoise_nl_means",
        lambda d: _product(h=_times(d, 0.5, 0.7, 0.9, 1.2), patch_size=(3, 5, 7)),
        _nonlocal_means,
    ),
    "bm3d": Method(
        "BM3D",
        "bm3d",
        "K. Dabov, A. Foi, V. Katkovnik and K. Egiazarian, IEEE Trans. Image Processing 16, 2007, "
        "and Y. Mäkinen, L. Azzari and A. Foi, IEEE Trans. Image Processing 29, 2020; bm3d",
        lambda d: _product(sigma=_times(d, 0.6, 0.75, 0.9, 1.1)),
        _bm3d,
    ),
}
