"""One run from settings to a finished folder: load, train, measure, draw, publish.

All of it happens in a hidden folder beside the target, which is renamed last. A kill at any
moment leaves that folder behind, and `resume` continues from its newest checkpoint; the optimizer,
the learning-rate schedule, the order of the images and their noise are those of an undisturbed
run. The test split is used once, after the last epoch.
"""

from __future__ import annotations

import csv
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common import publishing
from training import runs
from training.backend import versions
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
from training.errors import RunError, SettingsError
from training.evaluation import figures
from training.evaluation.heldout import ValidationBatches, add_noise, draw_samples
from training.evaluation.measure import denoise, measure, table
from training.evaluation.metrics import DEFINITIONS
from training.model import Models, averaged, build, compile_for, freeze_normalisation
from training.noise.spec import Noise, described, drawn_noise
from training.reference import draw_reference, write_reference
from training.runs import Run, Samples
from training.settings import FitSettings
from training.watch import Watch

LOG = logging.getLogger("denoiser.training")
MAX_EXPORTED = 2**31  # bytes
PROBE = 64  # images whose outputs are compared


def fit(
    settings: FitSettings,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    verbose: int = 2,
) -> Run:
    """Train, measure and publish a run under the folder `out`.

    Args:
        settings: see `FitSettings.resolve`.
        out: the run's folder.
        resume: continue an unfinished run; start a new one where there is none.
        overwrite: replace a finished run, at the very end. Without `resume` also discard an
            unfinished one.
        verbose: Keras's: 0 silent, 1 a bar, 2 a line for each epoch.

    Raises:
        TargetExistsError, TargetBusyError: see common/publishing.py.
        TrainingError: the dataset, the settings or an unfinished run cannot be used.
    """
    out = Path(out).absolute()
    stage = publishing.stage_of(out)
    publishing.recover(out)
    rules: dict[str, Any] = {"marks": runs.MARKS, "contents": runs.CONTENTS, "overwrite": overwrite}
    publishing.check_target(out, **rules)
    dataset = load_dataset(settings.dataset, resize=settings.resize)
    dataset.require_divisible(settings.stride)
    publishing.make_stage(stage)
    with publishing.locked(stage):
        config = {
            "settings": settings.saved(),
            "data": dataset.facts(),
            "noise": described(settings.noise),
            "versions": versions("tensorflow", "keras", "numpy"),
        }
        _prepare(stage, settings, config, resume=resume, overwrite=overwrite)
        if not (stage / runs.METRICS).is_file():  # else killed just before its last rename
            try:
                _work(stage, settings, dataset, verbose)
            except tf.errors.ResourceExhaustedError as exc:
                raise MemoryError(str(exc)) from exc
        shutil.rmtree(stage / runs.CHECKPOINTS, ignore_errors=True)
        publishing.check_target(out, **rules)  # someone else may have made it meanwhile
        publishing.publish(stage, out)
    return Run.load(out)


def _prepare(
    stage: Path, settings: FitSettings, config: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    """Leave the stage ready to be resumed, or empty but for its config."""
    if resume and (stage / runs.CONFIG).is_file():
        saved = runs.read_json(stage, runs.CONFIG)
        differing = settings.differences(saved["settings"])
        if saved["data"]["sha256"] != config["data"]["sha256"]:
            differing.append("the images themselves")
        if differing:
            raise RunError(
                f"an unfinished run {stage} with other settings: {', '.join(differing)}",
                expected="the same settings",
                hint="Repeat them, or start again with --overwrite and without --resume.",
            )
        return
    checkpoints = written(stage / runs.CHECKPOINTS)
    if checkpoints and not overwrite:
        raise RunError(
            f"an unfinished run {stage} ({checkpoints[0].stem})",
            expected="no unfinished run",
            hint="Pass --resume to continue it, or --overwrite to discard it.",
        )
    publishing.clear(stage)
    runs.write_json(stage / runs.CONFIG, config)


def _work(stage: Path, settings: FitSettings, dataset: Dataset, verbose: int) -> None:
    """Everything between the empty stage and the finished run."""
    noise = drawn_noise(settings.noise)
    keras.utils.set_random_seed(settings.seed)
    models = build(settings, dataset.image_shape)
    parameters: int = models.autoencoder.count_params()
    if 4 * parameters >= MAX_EXPORTED:
        raise SettingsError(
            f"a network of {parameters:,} parameters",
            expected=f"fewer than {MAX_EXPORTED // 4:,}, since an ONNX file holds 2 GiB",
            hint="Pass fewer --filters, or a smaller --kernel-size or --latent-size.",
        )
    if settings.start:
        _start_from(models, Run.load(settings.start))
    if verbose:
        for model in models:
            model.summary(print_fn=LOG.info)
    history = _train(models, stage / runs.CHECKPOINTS, settings, dataset, noise, verbose)

    for name, model in zip(runs.MODELS, models, strict=True):
        keras.Model(model.inputs, model.outputs, name=name).save(stage / f"{name}.keras")
    with (stage / runs.HISTORY).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    samples, labels = draw_samples(dataset, noise)
    np.savez_compressed(stage / runs.SAMPLES, clean=samples.clean, noisy=samples.noisy)
    write_reference(stage / runs.REFERENCE, draw_reference(dataset))
    _draw(stage / runs.FIGURES, models, samples, labels, noise, history)
    test = measure(models.autoencoder, dataset.test, noise)
    LOG.info("\n%d test images\n%s", test["n"], table(test))
    metrics = {
        "test": test,
        "validation": measure(models.autoencoder, dataset.validation, noise),
        "definitions": DEFINITIONS,
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "parameters": parameters,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs.write_json(stage / runs.METRICS, metrics)


def _start_from(models: Models, run: Run) -> None:
    """Copy the weights of a finished run of the same network."""
    earlier = run.models()
    for name in ("encoder", "decoder"):
        model, weights = getattr(models, name), getattr(earlier, name).get_weights()
        if [tuple(w.shape) for w in model.weights] != [w.shape for w in weights]:
            raise RunError(
                f"{run.path}: its {name} is another network",
                expected="the same preset, filters, kernel size, latent size and image shape",
                hint="Pass the settings in its config.json, or start from another run.",
            )
        model.set_weights(weights)


def _train(
    models: Models,
    folder: Path,
    settings: FitSettings,
    dataset: Dataset,
    noise: Noise | None,
    verbose: int,
) -> list[Row]:
    """Train the autoencoder, from the newest checkpoint if there is one; the whole history."""
    autoencoder, epochs = models.autoencoder, settings.epochs
    freeze_after = settings.freeze_after
    batches = NoisyBatches(
        dataset.train.images,
        noise=noise,
        noisy=dataset.train.noisy,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    probe = dataset.train.sample(PROBE, np.random.default_rng(settings.seed))
    clean, noisy = add_noise(probe.images, noise, key=0, noisy=probe.noisy)
    watch = Watch(noisy if np.ptp(clean, axis=0).any() else None, settings.learning_rate)

    def compile_at(epoch: int) -> None:
        frozen = freeze_after is not None and epoch > freeze_after
        freeze_normalisation(models, frozen)
        compile_for(autoencoder, settings, len(batches), done=freeze_after or 0 if frozen else 0)

    history = restore(folder, autoencoder, compile_at)
    if history:
        LOG.info("resuming after epoch %d of %d", len(history), epochs)
    else:
        compile_at(1)
    for end in sorted({min(freeze_after or epochs, epochs), epochs}):
        if exhausted(history, settings.patience):
            break
        if len(history) < end:
            checkpoints = Checkpoints(folder, history, epochs=end, patience=settings.patience)
            try:
                autoencoder.fit(
                    batches,
                    validation_data=ValidationBatches(dataset.validation, noise),
                    initial_epoch=len(history),
                    epochs=end,
                    callbacks=[batches.follow(), *averaged(settings), watch, checkpoints],
                    shuffle=False,
                    verbose=verbose,
                )
            except KeyboardInterrupt:
                checkpoints.flush()
                LOG.info("\nstopped after epoch %d of %d; resume it with --resume", len(history),
                         epochs)  # fmt: skip
                raise
        if len(history) == end:  # Keras does this too, except for epochs that were all restored
            autoencoder.optimizer.finalize_variable_values(autoencoder.trainable_variables)
            if end < epochs:
                LOG.info("batch normalisation is frozen after epoch %d", end)
                compile_at(end + 1)
    freeze_normalisation(models, False)
    if settings.patience is not None:
        use_best(folder, autoencoder)
        best = len(history) - since_best(history)
        LOG.info("weights of epoch %d, the best by validation", best)
    watch.require_varying(autoencoder, last=True)
    return history


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
        outputs = denoise(models.autoencoder, levels.noisy)
        figures.noise_levels(folder, levels, clean=samples.clean[0], output=outputs)
