"""Section `learning`: the time until `standard` denoises as well as `classic` after training.

Both train in one run, one after the other, each by its own recipe. The time includes validation:
once per epoch of `classic`, twice per epoch of `standard`, which needs only a few.
Needs `--dataset`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks import machine, report
from benchmarks.settings import Settings
from training.batches import NoisyBatches
from training.data.datasets import Dataset, load_dataset
from training.evaluation.heldout import add_noise
from training.noise.spec import parse_noise
from training.settings import FitSettings

CLASSIC_MSE = 0.0158  # of the script that `classic` follows, after 10 epochs on MNIST


def run(settings: Settings) -> dict[str, Any]:
    """Train both, print a table, write JSON."""
    if settings.dataset is None:
        print("learning: skipped, it needs --dataset path/to/mnist.npz")
        return {}
    dataset = load_dataset(settings.dataset)
    epochs = {"epochs": 2} if settings.quick else {}
    fits = (
        FitSettings.resolve(dataset=settings.dataset, preset=preset, **epochs)
        for preset in ("classic", "standard")
    )
    classic = _progress(next(fits), dataset)
    standard = _progress(next(fits), dataset, times=2, until=CLASSIC_MSE)
    share = standard[-1]["seconds"] / classic[-1]["seconds"]
    result = {
        "machine": machine.facts(),
        "dataset": dataset.name,
        "target_mse": CLASSIC_MSE,
        "classic": classic,
        "standard": standard,
        "reached": standard[-1]["val_loss"] <= CLASSIC_MSE,
        "share_of_the_time": share,
    }
    ends = {
        "classic, its whole recipe": classic[-1],
        f"standard, until {CLASSIC_MSE}": standard[-1],
    }
    lines = [
        [name, f"{end['epochs']:g}", f"{end['val_loss']:.5f}", report.duration(end["seconds"])]
        for name, end in ends.items()
    ]
    print(report.table(["training", "epochs", "validation MSE", "time"], lines))
    print(f"standard takes {share:.2f} of the time\n")
    report.write_json(settings.results / "learning.json", result)
    return result


def _progress(
    fit: FitSettings, dataset: Dataset, *, times: int = 1, until: float | None = None
) -> list[dict[str, float]]:
    """Train; epochs, validation loss and seconds since the start, `times` times per epoch."""
    import keras

    from training.model import averaged, build, compile_for

    noise = parse_noise(str(fit.noise))
    keras.utils.set_random_seed(fit.seed)
    autoencoder = build(fit, dataset.image_shape).autoencoder
    batches = NoisyBatches(
        dataset.train.images, noise=noise, batch_size=fit.batch_size, seed=fit.seed
    )
    compile_for(autoencoder, fit, len(batches))
    clean, noisy = add_noise(dataset.validation.images, noise, key=0)
    swaps = averaged(fit)
    for swap in swaps:
        swap.set_model(autoencoder)
    progress: list[dict[str, float]] = []
    start = time.perf_counter()

    def note(epochs: float) -> None:
        for swap in swaps:
            swap.on_test_begin()
        denoised = autoencoder.predict(noisy, batch_size=500, verbose=0)
        for swap in swaps:
            swap.on_test_end()
        loss = float(np.mean((denoised - clean) ** 2))
        seconds = time.perf_counter() - start
        progress.append({"epochs": epochs, "val_loss": loss, "seconds": seconds})
        if until is not None and loss <= until:
            autoencoder.stop_training = True

    class Watch(keras.callbacks.Callback):
        """Notes the validation loss `times` times per epoch."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch, self.part = epoch, 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.part < times and (batch + 1) * times >= self.part * len(batches):
                note(self.epoch + self.part / times)
                self.part += 1

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if not autoencoder.stop_training:
                note(epoch + 1)

    autoencoder.fit(
        batches,
        epochs=fit.epochs,
        callbacks=[batches.follow(), Watch()],
        shuffle=False,
        verbose=0,
    )
    return progress
