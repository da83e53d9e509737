"""Real noise by pairs: read, matched, split, trained on, measured, resumed, refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.trained import evaluate
from training.backend import load_tensorflow

load_tensorflow()

from training import fit as fitting  # noqa: E402
from training.batches import NoisyBatches  # noqa: E402
from training.data.datasets import Dataset, load_dataset  # noqa: E402
from training.data.pairs import holds_pairs  # noqa: E402
from training.errors import DatasetError, RunError, SettingsError  # noqa: E402
from training.fit import fit  # noqa: E402
from training.runs import Run  # noqa: E402
from training.settings import FitSettings  # noqa: E402

TINY = {"filters": (4,), "latent_size": 3, "batch_size": 8, "epochs": 2}


def clean_images(count: int = 30) -> np.ndarray:
    """Grey images of 8×12 in 0..199, smooth enough for a tiny network."""
    phase = np.random.default_rng(0).uniform(0, 6, (count, 1, 1))
    rows, columns = np.mgrid[:8, :12]
    waves = np.sin(rows * 0.4 + phase) * np.cos(columns * 0.3 + phase)
    grey: np.ndarray = np.rint((waves + 1) * 99).astype(np.uint8)
    return grey


def made_noisy(clean: np.ndarray) -> np.ndarray:
    """A noisy partner that is a function of the clean image: 50 brighter, and dirty."""
    noisy: np.ndarray = clean + np.uint8(50) + (clean % 5)
    return noisy


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def picture_pairs(folder: Path, clean: np.ndarray, suffix: str = ".png") -> Path:
    """Pairs in nested folders `0` to `2`, noisy ones with `suffix`."""
    for k, image in enumerate(clean):
        for side, array in (("clean", image), ("noisy", made_noisy(image))):
            path = folder / side / str(k % 3) / f"{k:03}{suffix if side == 'noisy' else '.png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


def splits(dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pairs = {}
    for name in ("train", "validation", "test"):
        part = getattr(dataset, name)
        assert part.noisy is not None
        pairs[name] = part.images, part.noisy
    return pairs


def require_partners(dataset: Dataset, clean: np.ndarray) -> None:
    """Every split's noisy images are those of its clean ones, and nothing was lost."""
    rows = []
    for name, (mine, noisy) in splits(dataset).items():
        assert len(mine) == len(noisy) > 0, name
        np.testing.assert_array_equal(noisy, made_noisy(mine[:]))
        rows += [image.tobytes() for image in mine]
    assert sorted(rows) == sorted(image.tobytes() for image in clean)


# --- reading


def test_a_folder_of_pairs_keeps_partners_together(tmp_path: Path) -> None:
    clean = clean_images()
    folder = picture_pairs(tmp_path / "set", clean, suffix=".bmp")
    (folder / "notes.txt").write_text("not a picture")
    dataset = load_dataset(str(folder))
    assert (dataset.source, dataset.image_shape) == ("folder", (8, 12, 1))
    require_partners(dataset, clean)
    assert dataset.train.labels is not None
    numbers = {image.tobytes(): k % 3 for k, image in enumerate(clean)}
    found = [numbers[image.tobytes()] for image in dataset.train.images]
    assert found == dataset.train.labels.tolist()


def test_an_npz_of_pairs_keeps_partners_together(tmp_path: Path) -> None:
    clean = clean_images()
    labels = np.arange(len(clean))
    path = save(tmp_path / "set.npz", clean=clean, noisy=made_noisy(clean), labels=labels)
    dataset = load_dataset(path)
    require_partners(dataset, clean)
    assert dataset.test.labels is not None
    np.testing.assert_array_equal(dataset.test.images[..., 0], clean[dataset.test.labels])


def test_pairs_split_as_the_clean_images_alone_do(tmp_path: Path) -> None:
    clean = clean_images()
    pairs = load_dataset(save(tmp_path / "a.npz", clean=clean, noisy=made_noisy(clean)))
    alone = load_dataset(save(tmp_path / "b.npz", images=clean))
    np.testing.assert_array_equal(pairs.test.images, alone.test.images)
    assert alone.test.noisy is None
    hashes = alone.facts()["sha256"]
    assert {name: pairs.facts()["sha256"][name] for name in hashes} == hashes


def test_train_and_test_folders_of_pairs_keep_their_split(tmp_path: Path) -> None:
    clean = clean_images(31)
    picture_pairs(tmp_path / "train", clean[:24])
    picture_pairs(tmp_path / "test", clean[24:])
    dataset = load_dataset(str(tmp_path))
    require_partners(dataset, clean)
    assert len(dataset.test.images) == 7
    for path in (tmp_path / "test" / "noisy").rglob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match="images without a partner in 'test'"):
        load_dataset(str(tmp_path))
    (tmp_path / "test" / "noisy").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="pairs in only some of train, test of"):
        load_dataset(str(tmp_path))


def test_both_sides_are_resized_and_have_the_same_channels(tmp_path: Path) -> None:
    folder = picture_pairs(tmp_path, clean_images())
    first = folder / "noisy" / "0" / "000.png"
    Image.open(first).convert("RGB").save(first)
    dataset = load_dataset(str(folder), resize=(4, 4))
    for clean, noisy in splits(dataset).values():
        assert clean.shape[1:] == noisy.shape[1:] == (4, 4, 3)
    Image.new("RGB", (5, 5)).save(first)
    with pytest.raises(DatasetError, match=r"8x12 \(clean/0/000\.png\) and 5x5 \(noisy/0/000\.png"):
        load_dataset(str(folder))


def test_a_hash_of_the_noisy_images_is_among_the_facts(tmp_path: Path) -> None:
    clean, noisy = clean_images(), made_noisy(clean_images())
    before = load_dataset(save(tmp_path / "x.npz", clean=clean, noisy=noisy)).facts()["sha256"]
    noisy ^= 1
    after = load_dataset(save(tmp_path / "x.npz", clean=clean, noisy=noisy)).facts()["sha256"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"train_noisy", "validation_noisy", "test_noisy"}


def test_what_holds_pairs(tmp_path: Path) -> None:
    folder = picture_pairs(tmp_path / "set", clean_images(1))
    assert holds_pairs(folder)
    assert not holds_pairs(folder / "clean")
    assert not holds_pairs(tmp_path / "missing.npz")
    clean = clean_images()
    assert holds_pairs(Path(save(tmp_path / "pairs.npz", clean=clean, noisy=clean)))
    assert not holds_pairs(Path(save(tmp_path / "clean.npz", clean=clean)))
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    assert not holds_pairs(tmp_path / "bad.npz")


# --- refusals


@pytest.mark.parametrize(("count", "named"), [(1, 1), (5, 5), (7, 5)])
def test_images_without_a_partner_are_named(tmp_path: Path, count: int, named: int) -> None:
    folder = picture_pairs(tmp_path / "set", clean_images())
    (folder / "clean" / "0" / "000.png").unlink()
    for k in range(1, count):
        (folder / "noisy" / str(k % 3) / f"{k:03}.png").unlink()
    with pytest.raises(DatasetError, match="without a partner in 'set'") as caught:
        load_dataset(str(folder))
    assert caught.value.received.count(".png") == named
    assert caught.value.received.endswith(" and 2 more") == (count == 7)
    assert str(tmp_path) not in str(caught.value)
    if count < 7:
        assert "noisy/0/000.png" in caught.value.received


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = picture_pairs(tmp_path, clean_images())
    (folder / "clean" / "0" / "000.bmp").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"clean/0/000\.bmp and clean/0/000\.png"):
        load_dataset(str(folder))


def test_empty_sides_are_refused(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "noisy").mkdir()
    with pytest.raises(DatasetError, match="no images in"):
        load_dataset(str(tmp_path))


def test_arrays_of_other_shapes_are_refused(tmp_path: Path) -> None:
    clean = clean_images()
    path = save(tmp_path / "x.npz", clean=clean, noisy=clean[:, :, :8])
    with pytest.raises(DatasetError, match=r"'clean' \(30, 8, 12, 1\) and 'noisy' \(30, 8, 8, 1\)"):
        load_dataset(path)
    with pytest.raises(DatasetError, match="'noisy' holds float64 from"):
        load_dataset(save(tmp_path / "x.npz", clean=clean, noisy=clean - 0.5))


def test_pairs_go_with_no_noise_and_the_task_denoise_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz", clean=clean_images(), noisy=clean_images())
    assert FitSettings.resolve(dataset=path).noise == "pairs"
    with pytest.raises(SettingsError, match=r"noise 'blur:1' with a dataset of pairs.*--noise out"):
        FitSettings.resolve(dataset=path, noise="blur:1")
    with pytest.raises(SettingsError, match="task 'reconstruct' with a dataset of pairs"):
        FitSettings.resolve(dataset=path, task="reconstruct")
    with pytest.raises(SettingsError, match="noise 'pairs'"):
        FitSettings.resolve(dataset="digits", noise="pairs")


# --- a whole run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    clean = clean_images(96)
    path = tmp_path_factory.mktemp("data") / "pairs.npz"
    return save(path, clean=clean, noisy=made_noisy(clean))


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(FitSettings.resolve(dataset=data, **TINY), out, verbose=0)


def test_a_run_on_pairs_has_their_noise_everywhere(run: Run) -> None:
    assert run.config["settings"]["noise"] == "pairs"
    assert run.config["noise"] == [{"kind": "pairs", "parameters": {}}]
    clean, noisy = (np.rint(images * 255).astype(np.uint8) for images in run.samples())
    np.testing.assert_array_equal(noisy, made_noisy(clean))
    drawn = {path.stem for path in (run.path / "figures").iterdir()} - {"model"}
    assert drawn == {"reconstruction", "denoising", "learning_curve", "latent_scatter"}
    for part in ("test", "validation"):
        assert run.metrics[part]["input"]["mse"] == pytest.approx((52 / 255) ** 2, rel=0.05)


def test_it_is_evaluated_on_its_own_noise_or_on_what_is_asked(run: Run, data: str) -> None:
    kept, again = evaluate(run.path), evaluate(run.path, dataset=data)
    for found in (kept, again):
        assert found["noise"] == "pairs"
        assert found["input"] == pytest.approx(run.metrics["test"]["input"], rel=1e-4)
        assert found["output"] == pytest.approx(run.metrics["test"]["output"], rel=1e-4)
    for dataset in (None, data):
        mild = evaluate(run.path, dataset=dataset, noise="gaussian:0,0.01")
        assert mild["noise"] == "gaussian:0,0.01"
        assert mild["input"]["mse"] < 0.001
    clean = clean_images()
    alone = save(run.path.parent / "alone.npz", images=clean)
    with pytest.raises(DatasetError, match=r"alone\.npz without noisy images.*--noise gaussian"):
        evaluate(run.path, dataset=alone)
    assert evaluate(run.path, dataset=alone, noise="gaussian")["n"] == 4


def test_any_run_is_evaluated_on_pairs_as_they_are(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_draw", lambda *args: None)
    images = save(tmp_path / "images.npz", images=clean_images(96))
    drawn = fit(
        FitSettings.resolve(dataset=images, noise="mask:0.1..0.4+blur:1", **TINY | {"epochs": 1}),
        tmp_path / "run", verbose=0,
    )  # fmt: skip
    assert [part["kind"] for part in drawn.config["noise"]] == ["mask", "blur"]
    found = evaluate(drawn.path, dataset=data)
    assert found["noise"] == "pairs"
    assert found["input"]["mse"] == pytest.approx((52 / 255) ** 2, rel=0.05)
    assert evaluate(drawn.path)["noise"] == "mask:0.1..0.4+blur:1.0"


def test_it_is_resumed_on_the_same_pairs_alone(
    run: Run,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fitting, "_draw", lambda *args: None)
    begin = NoisyBatches.begin

    def interrupted(self: NoisyBatches, now: int) -> None:
        if now == 1:
            raise KeyboardInterrupt
        begin(self, now)

    clean = clean_images(96)
    mine = save(tmp_path / "pairs.npz", clean=clean, noisy=made_noisy(clean))
    settings = FitSettings.resolve(dataset=mine, **TINY)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NoisyBatches, "begin", interrupted)
        fit(settings, tmp_path / "run", verbose=0)
    save(tmp_path / "pairs.npz", clean=clean, noisy=made_noisy(clean) + np.uint8(1))
    with pytest.raises(RunError, match="the images themselves"):
        fit(settings, tmp_path / "run", resume=True, verbose=0)
    save(tmp_path / "pairs.npz", clean=clean, noisy=made_noisy(clean))
    caplog.set_level(logging.INFO, "denoiser.training")
    resumed = fit(settings, tmp_path / "run", resume=True, verbose=0)
    assert "resuming after epoch 1 of 2" in caplog.messages
    mine_mse, whole_mse = (one.metrics["test"]["output"]["mse"] for one in (resumed, run))
    assert mine_mse == pytest.approx(whole_mse, rel=1e-3)
