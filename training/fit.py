"""One run from settings to a finished folder: load, train, measure, draw, publish.

All of it happens in a hidden folder beside the target, which is renamed last. A kill at any
moment leaves that folder behind, and `resume` goes on from its newest checkpoint; the optimizer,
the learning-rate schedule, the order of the images and their noise are those of a run that was
never disturbed. The test split is looked at once, after the last epoch.
"""

from __future__ import annotations

import csv
import platform
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common import publishing
from training import runs
from training.batches import NoisyBatches
from training.checkpoints import (
    Checkpoints,
    Row,
    exhausted,
    restore,
    since_best,
    use_best,
    written,
)
from training.data.datasets import Dataset, load_dataset
from training.errors import RunError
from training.evaluation import figures
from training.evaluation.heldout import add_noise, draw_samples
from training.evaluation.measure import denoise, measure, table
from training.evaluation.metrics import DEFINITIONS
from training.model import Models, averaged, build, compile_for, freeze_normalisation
from training.noise.spec import Noise, described, drawn_noise
from training.reference import draw_reference, write_reference
from training.runs import Run, Samples
from training.settings import FitSettings

Say = Callable[[str], Any]


def fit(
    settings: FitSettings,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    verbose: int = 2,
    say: Say = print,
) -> Run:
    """Train, measure and publish a run under the folder `out`.

    `resume` goes on with an unfinished run, and starts anew where there is none. `overwrite`
    replaces a finished run, at the very end, and starts an unfinished one anew unless `resume`.
    `verbose` is Keras's: 0 silent, 1 a bar, 2 a line for each epoch.
    """
    out = Path(out).absolute()
    partial = publishing.stage_of(out)
    publishing.recover(out)
    rules: dict[str, Any] = {"marks": runs.MARKS, "contents": runs.CONTENTS, "overwrite": overwrite}
    publishing.check_target(out, **rules)
    dataset = load_dataset(settings.dataset, resize=settings.resize)
    dataset.require_divisible(settings.stride)
    publishing.make_stage(partial)
    with publishing.locked(partial):
        config = {
            "settings": settings.saved(),
            "data": dataset.facts(),
            "noise": described(settings.noise),
            "versions": versions(),
        }
        _prepare(partial, settings, config, resume=resume, overwrite=overwrite)
        if not (partial / runs.METRICS).is_file():  # else killed just before its last rename
            _work(partial, settings, dataset, verbose, say)
        shutil.rmtree(partial / runs.CHECKPOINTS, ignore_errors=True)
        publishing.check_target(out, **rules)  # someone else may have made it meanwhile
        publishing.publish(partial, out)
    return Run.load(out)


def _prepare(
    partial: Path,
    settings: FitSettings,
    config: dict[str, Any],
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Leave the partial folder either empty but for its config, or fit to be resumed."""
    begun = (partial / runs.CONFIG).is_file()
    if begun and resume:
        saved = runs.read_json(partial, runs.CONFIG)
        differing = settings.differences(saved["settings"])
        if saved["data"]["sha256"] != config["data"]["sha256"]:
            differing.append("the images themselves")
        if differing:
            raise RunError(
                f"an unfinished run {partial} with other settings: {', '.join(differing)}",
                expected="the same settings",
                hint="Repeat them, or start anew with --overwrite and without --resume.",
            )
        return
    found = written(partial / runs.CHECKPOINTS)
    if found and not overwrite:
        raise RunError(
            f"an unfinished run {partial} ({found[0].stem})",
            expected="no earlier work that would be lost",
            hint="Pass --resume to go on, or --overwrite to start anew.",
        )
    publishing.clear(partial)
    runs.write_json(partial / runs.CONFIG, config)


def _work(partial: Path, settings: FitSettings, dataset: Dataset, verbose: int, say: Say) -> None:
    """Everything between the empty partial folder and the finished one."""
    noise = drawn_noise(settings.noise)
    keras.utils.set_random_seed(settings.seed)
    models = build(settings, dataset.image_shape)
    if settings.start:
        _start_from(models, Run.load(settings.start))
    if verbose:
        for model in models:
            model.summary(print_fn=say)
    history = _train(models, partial / runs.CHECKPOINTS, settings, dataset, noise, verbose, say)

    for name, model in zip(runs.MODELS, models, strict=True):
        keras.Model(model.inputs, model.outputs, name=name).save(partial / f"{name}.keras")
    _write_history(partial / runs.HISTORY, history)
    samples, labels = draw_samples(dataset, noise)
    np.savez_compressed(partial / runs.SAMPLES, clean=samples.clean, noisy=samples.noisy)
    write_reference(partial / runs.REFERENCE, draw_reference(dataset))
    _draw(partial / runs.FIGURES, models, samples, labels, noise, history)
    test = measure(models.autoencoder, dataset.test, noise, noisy=dataset.test_noisy)
    say(f"\n{test['n']} test images\n{table(test)}")
    metrics = {
        "test": test,
        "validation": measure(
            models.autoencoder, dataset.validation, noise, noisy=dataset.validation_noisy
        ),
        "definitions": DEFINITIONS,
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "parameters": models.autoencoder.count_params(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs.write_json(partial / runs.METRICS, metrics)


def _start_from(models: Models, run: Run) -> None:
    """Take over the weights of a finished run of the same network."""
    earlier = run.models()
    for name in ("encoder", "decoder"):
        mine, weights = getattr(models, name), getattr(earlier, name).get_weights()
        wanted, found = ([tuple(w.shape) for w in group] for group in (mine.weights, weights))
        if wanted != found:
            raise RunError(
                f"{run.path}: its {name} is another network",
                expected="the same preset, filters, kernel, latent size and image shape",
                hint="Pass what its config.json says, or start from another run.",
            )
        mine.set_weights(weights)


def _train(
    models: Models,
    folder: Path,
    settings: FitSettings,
    dataset: Dataset,
    noise: Noise | None,
    verbose: int,
    say: Say,
) -> list[Row]:
    """Train the autoencoder, from the newest checkpoint if there is one; the whole history."""
    autoencoder = models.autoencoder
    steps = -(-len(dataset.train) // settings.batch_size)
    freeze_after = settings.freeze_after

    def compile_at(epoch: int) -> None:
        frozen = freeze_after is not None and epoch > freeze_after
        freeze_normalisation(models, frozen)
        compile_for(autoencoder, settings, steps, done=freeze_after or 0 if frozen else 0)

    history = restore(folder, autoencoder, compile_at)
    if history:
        say(f"resuming after epoch {len(history)} of {settings.epochs}")
    else:
        compile_at(1)
    for end in sorted({min(freeze_after or settings.epochs, settings.epochs), settings.epochs}):
        if exhausted(history, settings.patience):
            break
        if len(history) < end:
            _continue(models, folder, history, settings, dataset, noise, verbose, say, end=end)
        if len(history) == end:  # Keras does this too, but not for what was resumed whole
            autoencoder.optimizer.finalize_variable_values(autoencoder.trainable_variables)
            if end < settings.epochs:
                say(f"batch normalisation is frozen after epoch {end}")
                compile_at(end + 1)
    freeze_normalisation(models, False)
    if settings.patience is not None:
        use_best(folder, autoencoder)
        say(f"weights of epoch {len(history) - since_best(history)}, the best by validation")
    return history


def _continue(
    models: Models,
    folder: Path,
    history: list[Row],
    settings: FitSettings,
    dataset: Dataset,
    noise: Noise | None,
    verbose: int,
    say: Say,
    *,
    end: int,
) -> None:
    """The epochs up to `end` that are left; `history` grows with each."""
    checkpoints = Checkpoints(folder, history, epochs=end, patience=settings.patience)
    clean, noisy = add_noise(dataset.validation, noise, key=0, noisy=dataset.validation_noisy)
    batches = NoisyBatches(
        dataset.train,
        noise=noise,
        noisy=dataset.train_noisy,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    try:
        models.autoencoder.fit(
            batches,
            validation_data=(noisy, clean),
            validation_batch_size=128,
            initial_epoch=len(history),
            epochs=end,
            callbacks=[batches.follow(), *averaged(settings), checkpoints],
            shuffle=False,
            verbose=verbose,
        )
    except KeyboardInterrupt:
        checkpoints.flush()
        say(f"\nstopped after epoch {len(history)} of {settings.epochs}; --resume goes on from it")
        raise


def _draw(
    folder: Path,
    models: Models,
    samples: Samples,
    labels: Any,
    noise: Noise | None,
    history: list[Row],
) -> None:
    """Every figure that fits the task and the data."""
    folder.mkdir(exist_ok=True)
    outputs = denoise(models.autoencoder, samples.noisy)
    figures.reconstruction(folder, clean=samples.clean, output=outputs)
    figures.learning_curve(folder, history)
    figures.latent_scatter(folder, models.encoder.predict(samples.noisy, verbose=0), labels)
    figures.model_diagram(folder, models)
    if not np.array_equal(samples.clean, samples.noisy):
        figures.denoising(folder, clean=samples.clean, noisy=samples.noisy, output=outputs)
    if noise is not None:
        levels = figures.levels_of(samples.clean[0], noise)
        answers = denoise(models.autoencoder, levels.noisy)
        figures.noise_levels(folder, levels, clean=samples.clean[0], output=answers)


def _write_history(path: Path, history: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
