"""Measuring a model on held-out images, with noise that is the same every time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.batches import Pair, to_floats
from training.datasets import Dataset, load_dataset
from training.errors import DatasetError
from training.metrics import CHUNK, Quality, joined, quality
from training.noise import Noise, parse_noise
from training.runs import Run, Samples

EVALUATION_SEED = 20_000  # one for all runs, so that they can be compared
SAMPLES = 1024


def spoil(images: NDArray[np.uint8], noise: Noise | None, *, key: int) -> Pair:
    """Clean and noisy float32 (N, H, W, C) in [0, 1]; `key` says which part of a set this is."""
    clean = to_floats(images)
    if noise is None:
        return clean, clean
    return clean, noise.apply(clean, np.random.default_rng([EVALUATION_SEED, key]))


def draw_samples(dataset: Dataset, noise: Noise | None) -> tuple[Samples, NDArray[np.int64] | None]:
    """Up to 1,024 pairs from all over the test split, and their labels, int64 (N,) or None."""
    count = min(SAMPLES, len(dataset.test))
    rng = np.random.default_rng(EVALUATION_SEED)
    chosen = np.sort(rng.choice(len(dataset.test), count, replace=False))
    labels = None if dataset.test_labels is None else dataset.test_labels[chosen]
    return Samples(*spoil(dataset.test[chosen], noise, key=len(dataset.test))), labels


def denoise(autoencoder: Any, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's answer to float32 (N, H, W, C) in [0, 1], of the same kind."""
    answer: NDArray[np.float32] = autoencoder.predict(noisy, batch_size=128, verbose=0)
    return answer


def measure(autoencoder: Any, images: NDArray[np.uint8], noise: Noise | None) -> dict[str, Any]:
    """Mean MSE, PSNR and SSIM on uint8 (N, H, W, C): of the noisy input and of the output."""
    inputs: list[Quality] = []
    outputs: list[Quality] = []
    for start in range(0, len(images), CHUNK):
        clean, noisy = spoil(images[start : start + CHUNK], noise, key=start)
        inputs.append(quality(clean=clean, output=noisy))
        outputs.append(quality(clean=clean, output=denoise(autoencoder, noisy)))
    return _summary(joined(inputs) if noise else None, joined(outputs))


def evaluate(
    path: str | Path, *, noise: str | None = None, dataset: str | None = None
) -> dict[str, Any]:
    """Measure a run again, on its own dataset's test split or on another's.

    Without `noise` it is the run's own. A run that was trained on a file or a folder
    knows only its name: without `dataset` it is measured on the pairs that it kept in samples.npz.
    """
    run = Run.load(path)
    spec = noise if noise is not None else run.config["settings"]["noise"]
    kind = parse_noise(spec) if spec else None
    autoencoder = run.models().autoencoder
    if dataset is None and run.config["data"]["source"] != "builtin":
        clean, noisy = run.samples()
        if noise is not None and kind is not None:
            noisy = kind.apply(clean, np.random.default_rng(EVALUATION_SEED))
        result = _summary(
            quality(clean=clean, output=noisy) if kind else None,
            quality(clean=clean, output=denoise(autoencoder, noisy)),
        )
        source = f"samples.npz, from the test split of {run.config['data']['name']}"
    else:
        resize = run.config["settings"]["resize"]
        images = load_dataset(
            dataset or run.config["data"]["name"], resize=tuple(resize) if resize else None
        )
        _require_shape(images, run)
        result = measure(autoencoder, images.test, kind)
        source = f"the test split of {images.name}"
    return {"run": str(run.path), "source": source, "noise": spec, **result}


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` or `measure` for a person."""
    lines = [f"{'':10}{'MSE':>10}{'PSNR dB':>10}{'SSIM':>10}"]
    for row in ("input", "output"):
        if result[row] is not None:
            figures = (result[row][name] for name in ("mse", "psnr", "ssim"))
            cells = (
                "—" if x is None else f"{x:.{d}f}" for x, d in zip(figures, (5, 2, 4), strict=True)
            )
            lines.append(f"{row:10}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _summary(noisy: Quality | None, output: Quality) -> dict[str, Any]:
    return {
        "n": len(output.mse),
        "input": noisy.means() if noisy else None,
        "output": output.means(),
    }


def _require_shape(dataset: Dataset, run: Run) -> None:
    shape = tuple(run.config["data"]["image_shape"])
    if dataset.image_shape != shape:
        raise DatasetError(
            f"images of the shape {dataset.image_shape} from {dataset.name}",
            expected=f"{shape}, as the run was trained with",
            do="pass another --dataset",
        )
