"""Classical denoisers on the same images: the baseline without a trained network.

Each has the best setting of a small grid, by mean PSNR on 50 validation images; strengths in the
grid are multiples of the noise's own deviation there. As noise may shift and scale the values as
well as scatter them (N(0.5, 0.5²) does), a·x + b follows each denoiser, fitted to the same
validation images by least squares. BM3D takes about a third of a second an image, so all of them
run on 500 test images at most, spread evenly over the test split.

They are from scikit-image (the extra `evaluate`) and the authors' own `bm3d` package (the extra
`bm3d`), whose binaries are for non-commercial use only.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Array, Floats
from common.cores import usable_cores
from training.errors import RunError, SettingsError
from training.evaluation.heldout import HeldOut
from training.evaluation.metrics import Quality, quality

Setting = dict[str, Any]

MAX_VALIDATION = 50
MAX_TESTED = 500
MIN_SIDE = 9  # pixels: bm3d's binaries end the process on images of 8x8


@dataclass(frozen=True)
class Method:
    """One denoiser.

    `grid` gives the settings to try for noise of a standard deviation. `run` takes float32
    (H, W, C) in [0, 1] and a setting, and returns an image of that shape.
    """

    title: str
    package: str  # as it is imported
    source: str
    grid: Callable[[float], Iterable[Setting]]
    run: Callable[..., Array]


class Result(NamedTuple):
    """One method on the test images."""

    method: Method
    setting: Setting
    scale: float  # a of a·x + b
    shift: float  # b
    quality: Quality
    seconds: float  # wall-clock per image, with all cores in use


class Classical(NamedTuple):
    """All methods on the same test images."""

    indices: NDArray[np.int64]  # of the held-out images
    validation: int  # images that the settings were chosen on
    deviation: float  # of noisy - clean, on those
    results: list[Result]
    left_out: dict[str, str]  # title → why


def chosen_methods(names: Sequence[str]) -> list[Method]:
    """The methods by name, all for []; a method whose package is missing is a RunError."""
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise SettingsError(
            f"the classical method {unknown[0]!r}",
            expected=f"some of {','.join(METHODS)}",
            hint="Pass --classical alone for all.",
        )
    methods = [METHODS[name] for name in names or METHODS]
    for method in methods:
        if find_spec(method.package) is None:
            others = ",".join(key for key, other in METHODS.items() if find_spec(other.package))
            raise RunError(
                f"{method.title} without the package {method.package}",
                expected="the extra `evaluate`, and for BM3D the extra `bm3d`",
                hint="Install the extra"
                + (f", or leave this one out with --classical {others}." if others else "."),
            )
    return methods


def run_classical(held: HeldOut, methods: Sequence[Method]) -> Classical:
    """Choose each method's setting on validation images and measure it on test images."""
    if held.spec is None:
        raise SettingsError(
            "--classical for a run without noise", expected="noise to remove", hint="Pass --noise."
        )
    if held.dataset is None:
        raise SettingsError(
            "--classical on samples.npz",
            expected="validation images to choose settings on",
            hint="Pass the dataset with --dataset.",
        )
    count = min(MAX_TESTED, len(held))
    indices = np.arange(count) * len(held) // count
    clean, noisy = held.pairs(indices.tolist())
    known = held.validation_pairs(MAX_VALIDATION)
    deviation = max(float(np.std(known[1] - known[0])), 1e-3)
    results, left_out = [], {}
    for method in methods:
        if method.package == "bm3d" and min(clean.shape[1:3]) < MIN_SIDE:
            left_out[method.title] = f"it needs images of at least {MIN_SIDE}x{MIN_SIDE} pixels"
            continue
        setting, scale, shift = _choose(method, deviation, clean=known[0], noisy=known[1])
        began = time.perf_counter()
        outputs = _apply(method, noisy, setting)
        seconds = (time.perf_counter() - began) / count
        outputs = np.clip(outputs * np.float32(scale) + np.float32(shift), 0, 1)
        measured = quality(clean=clean, output=outputs)
        results.append(Result(method, setting, scale, shift, measured, seconds))
    return Classical(indices, len(known[0]), deviation, results, left_out)


def _choose(
    method: Method, deviation: float, *, clean: Floats, noisy: Floats
) -> tuple[Setting, float, float]:
    """The grid's best setting, with its a and b."""
    best: tuple[float, Setting, float, float] | None = None
    for setting in method.grid(deviation):
        outputs = _apply(method, noisy, setting).astype(np.float64)
        scale, shift = np.polyfit(outputs.ravel(), clean.ravel(), 1) if outputs.std() else (0, 0)
        errors = np.clip(outputs * scale + shift, 0, 1) - clean
        mse = np.maximum(np.mean(errors**2, axis=(1, 2, 3)), 1e-10)
        decibels = float(np.mean(-10 * np.log10(mse)))
        if best is None or decibels > best[0]:
            best = decibels, setting, float(scale), float(shift)
    assert best is not None
    return best[1:]


def _apply(method: Method, images: Floats, setting: Setting) -> Floats:
    """The method on float32 (N, H, W, C), an image at a time on every core."""
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        warnings.filterwarnings("ignore", message="Level value of")  # wavelets, small images
        outputs = [*pool.map(partial(method.run, **setting), images)]
    return np.stack(outputs).astype(np.float32).reshape(images.shape)


def _product(**choices: Iterable[Any]) -> list[Setting]:
    """All combinations of the choices."""
    return [dict(zip(choices, row, strict=True)) for row in itertools.product(*choices.values())]


def _times(deviation: float, *factors: float) -> list[float]:
    return [float(f"{deviation * factor:.3g}") for factor in factors]


def _median(image: Floats, *, side: int) -> Array:
    from skimage.filters import median

    window = np.ones((side, side))
    return np.stack([median(image[..., k], window) for k in range(image.shape[2])], axis=-1)


def _skimage(name: str, **fixed: Any) -> Callable[..., Array]:
    """A function of skimage.restoration, imported at its first call."""

    def run(image: Floats, **setting: Any) -> Array:
        function = getattr(import_module("skimage.restoration"), name)
        output: Array = function(image, channel_axis=-1, **fixed, **setting)
        return output

    return run


def _bm3d(image: Floats, *, sigma: float) -> Array:
    from bm3d import BM3DProfile, bm3d, bm3d_rgb

    profile = BM3DProfile()
    profile.num_threads = 1  # more are slower on small images; images run in parallel instead
    output: Array
    if (image == image[..., :1]).all():  # grey, also in three channels, which bm3d_rgb makes NaN
        output = np.repeat(bm3d(image[..., 0], sigma, profile)[..., None], image.shape[2], axis=-1)
    else:
        output = bm3d_rgb(image, sigma, profile)
    return output


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
        _skimage("denoise_tv_chambolle"),
    ),
    "wavelets": Method(
        "Wavelets, BayesShrink",
        "skimage",
        "S. G. Chang, B. Yu and M. Vetterli, IEEE Trans. Image Processing 9, 2000; "
        "skimage.restoration.denoise_wavelet",
        lambda d: _product(wavelet=("db1", "db2", "sym4"), mode=("soft", "hard")),
        _skimage("denoise_wavelet", method="BayesShrink", rescale_sigma=True),
    ),
    "nlm": Method(
        "Non-local means",
        "skimage",
        "A. Buades, B. Coll and J.-M. Morel, CVPR 2005; skimage.restoration.denoise_nl_means",
        lambda d: _product(h=_times(d, 0.5, 0.7, 0.9, 1.2), patch_size=(3, 5, 7)),
        _skimage("denoise_nl_means", patch_distance=6),
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
