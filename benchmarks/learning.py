"""Section `learning`: how long `standard` trains until it denoises as well as `article` in the end.

Both train here in one run, one after the other, each by its own recipe; validation after every
epoch is part of the time. Needs `--dataset`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import machine, report
from benchmarks.settings import Settings
from training.batches import NoisyBatches
from training.datasets import Dataset, load_dataset
from training.heldout import spoil
from training.noise import parse_noise
from training.settings import FitSettings

CLASSIC_MSE = 0.0158  # the classic script's own, after 10 epochs on MNIST; from the project's brief


def run(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Epochs of both; write JSON."""
    if settings.dataset is None:
        say("learning: skipped, it needs --dataset path/to/mnist.npz")
        return {}
    dataset = load_dataset(settings.dataset)
    epochs = {"epochs": 2} if settings.quick else {}
    article = _epochs(
        FitSettings.resolve(dataset=settings.dataset, preset="article", **epochs), dataset
    )
    standard = _epochs(
        FitSettings.resolve(dataset=settings.dataset, preset="standard", **epochs),
        dataset,
        until=CLASSIC_MSE,
    )
    whole, passed = article[-1]["seconds"], standard[-1]["seconds"]
    result = {
        "machine": machine.facts(),
        "dataset": dataset.name,
        "target_mse": CLASSIC_MSE,
        "article": article,
        "standard": standard,
        "reached": standard[-1]["val_loss"] <= CLASSIC_MSE,
        "share_of_the_time": passed / whole,
    }
    lines = [
        ["article, its whole recipe", str(len(article)), _mse(article), report.duration(whole)],
        [
            f"standard, until {CLASSIC_MSE}",
            str(len(standard)),
            _mse(standard),
            report.duration(passed),
        ],
    ]
    say(report.table(["training", "epochs", "validation MSE", "time"], lines))
    say(f"standard takes {passed / whole:.2f} of the time\n")
    report.write_json(settings.results / "learning.json", result)
    return result


def _mse(epochs: list[dict[str, float]]) -> str:
    return f"{epochs[-1]['val_loss']:.5f}"


def _epochs(
    fit: FitSettings, dataset: Dataset, *, until: float | None = None
) -> list[dict[str, float]]:
    """Train; validation loss and seconds since the start, after each epoch."""
    import keras

    from training.model import build, compile_for

    noise = parse_noise(str(fit.noise))
    keras.utils.set_random_seed(fit.seed)
    autoencoder = build(fit, dataset.image_shape).autoencoder
    batches = NoisyBatches(dataset.train, noise=noise, batch_size=fit.batch_size, seed=fit.seed)
    compile_for(autoencoder, fit, len(batches))
    clean, noisy = spoil(dataset.validation, noise, key=0)
    found: list[dict[str, float]] = []
    begin = time.perf_counter()

    def note(epoch: int, logs: dict[str, float]) -> None:
        seconds = time.perf_counter() - begin
        found.append({"val_loss": float(logs["val_loss"]), "seconds": seconds})
        if until is not None and logs["val_loss"] <= until:
            autoencoder.stop_training = True

    autoencoder.fit(
        batches,
        validation_data=(noisy, clean),
        validation_batch_size=128,
        epochs=fit.epochs,
        callbacks=[batches.follow(), keras.callbacks.LambdaCallback(on_epoch_end=note)],
        shuffle=False,
        verbose=0,
    )
    return found
