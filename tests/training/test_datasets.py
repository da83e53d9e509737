"""Every source with real files, and every refusal."""

from __future__ import annotations

import gzip
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import MNIST, needs_mnist
from training.data.datasets import NAMES, Dataset, load_dataset
from training.errors import DatasetError


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def image_files(folder: Path, count: int = 30, mode: str = "L", suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shape = (16, 12) if mode == "L" else (16, 12, 3)
    for k in range(count):
        Image.fromarray(random_images(*shape, seed=k), mode).save(folder / f"{k:03}{suffix}")
    return folder


def all_images(dataset: Dataset) -> np.ndarray:
    return np.concatenate([dataset.train.images, dataset.validation.images, dataset.test.images])


def as_rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


# --- digits


def test_digits_are_placed_as_mnist_places_them() -> None:
    dataset = load_dataset("digits")
    images = all_images(dataset)
    assert images.shape == (1797, 28, 28, 1)
    assert images.dtype == np.uint8
    ink = images[..., 0] > 0
    heights = ink.any(axis=2).sum(axis=1)
    widths = ink.any(axis=1).sum(axis=1)
    assert np.maximum(heights, widths).max() == 20  # in a box of 20×20
    assert np.median(np.maximum(heights, widths)) == 20
    mass = images[..., 0].astype(float)
    rows = (mass.sum(axis=2) @ (np.arange(28) + 0.5)) / mass.sum(axis=(1, 2))
    columns = (mass.sum(axis=1) @ (np.arange(28) + 0.5)) / mass.sum(axis=(1, 2))
    assert abs(rows - 14).max() <= 0.51  # centred by mass, to the pixel
    assert abs(columns - 14).max() <= 0.51
    assert dataset.train.labels is not None
    assert set(dataset.train.labels.tolist()) == set(range(10))


def test_splits_are_separate_and_always_the_same() -> None:
    one, two = load_dataset("digits"), load_dataset("digits")
    assert one.facts() == two.facts()
    assert one.facts()["counts"] == {"train": 1413, "validation": 128, "test": 256}
    parts = (one.train, one.validation, one.test)
    train, validation, test = (as_rows(part.images[:]) for part in parts)
    assert not train & validation
    assert not train & test
    assert not validation & test


# --- named downloads


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.tensorflow
def test_a_failed_download_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setenv("HOME", str(tmp_path))

    def fail() -> None:
        raise Exception("URL fetch failure on https://example.org: None")

    monkeypatch.setattr(getattr(keras.datasets, name.replace("-", "_")), "load_data", fail)
    with pytest.raises(DatasetError, match=rf"URL fetch failure.*--dataset path/to/{name}\.npz"):
        load_dataset(name)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.tensorflow
def test_a_download_keeps_its_own_test_split(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setenv("HOME", str(tmp_path))

    x, y = random_images(60, 28, 28), np.arange(60, dtype=np.uint8)
    module = getattr(keras.datasets, name.replace("-", "_"))
    monkeypatch.setattr(module, "load_data", lambda: ((x[:48], y[:48]), (x[48:], y[48:])))
    dataset = load_dataset(name)
    assert dataset.image_shape == (28, 28, 1)
    np.testing.assert_array_equal(dataset.test.images[..., 0], x[48:])
    assert dataset.validation.labels is not None
    np.testing.assert_array_equal(dataset.validation.images[..., 0], x[dataset.validation.labels])
    assert dataset.source == "builtin"


@pytest.mark.tensorflow
def test_earlier_downloads_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".keras" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", 48), ("t10k", 12)):
        for kind, header, values in (
            ("labels-idx1", 8, np.arange(count)),
            ("images-idx3", 16, random_images(count, 28, 28)),
        ):
            body = bytes(header) + values.astype(np.uint8).tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(body))
    assert len(load_dataset("fashion-mnist").test.images) == 12


@needs_mnist
def test_the_genuine_mnist() -> None:
    dataset = load_dataset(str(MNIST))
    facts = dataset.facts()
    assert facts["counts"] == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert facts["name"] == "mnist.npz"
    with np.load(MNIST) as arrays:
        np.testing.assert_array_equal(dataset.test.images[..., 0], arrays["x_test"])


# --- files


def test_npz_with_images_and_labels(tmp_path: Path) -> None:
    x, y = random_images(40, 8, 12, 3), np.arange(40)
    dataset = load_dataset(save(tmp_path / "things.npz", images=x, labels=y))
    assert (dataset.name, dataset.source, dataset.image_shape) == ("things.npz", "file", (8, 12, 3))
    assert as_rows(all_images(dataset)) == as_rows(x)
    assert dataset.test.labels is not None
    np.testing.assert_array_equal(dataset.test.images, x[dataset.test.labels])
    assert dataset.train.labels is not None
    np.testing.assert_array_equal(dataset.train.images, x[dataset.train.labels])
    assert str(tmp_path) not in str(dataset.facts())
    assert len(dataset.facts()["file_sha256"]) == 64


def test_npz_with_keras_names_keeps_its_test_split(tmp_path: Path) -> None:
    x = random_images(50, 8, 8)
    path = save(tmp_path / "k.npz", x_train=x[:40], x_test=x[40:])
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.test.images[..., 0], x[40:])
    assert as_rows(dataset.train.images[:]) | as_rows(dataset.validation.images[:]) == as_rows(
        x[:40]
    )
    assert dataset.test.labels is None


def test_npy_and_resize(tmp_path: Path) -> None:
    flat = np.repeat(np.arange(10, 40, dtype=np.uint8), 64).reshape(30, 8, 8)
    np.save(tmp_path / "flat.npy", flat)
    dataset = load_dataset(str(tmp_path / "flat.npy"), resize=(16, 4))
    assert dataset.image_shape == (16, 4, 1)
    assert sorted(set(all_images(dataset).ravel().tolist())) == list(range(10, 40))


def test_facts_change_with_the_images(tmp_path: Path) -> None:
    x = random_images(40, 8, 8)
    before = load_dataset(save(tmp_path / "x.npz", images=x)).facts()
    x[0, 0, 0] ^= 1
    after = load_dataset(save(tmp_path / "x.npz", images=x)).facts()
    assert before["sha256"] != after["sha256"]
    assert before["file_sha256"] != after["file_sha256"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255]),
        (np.array([0.0, 0.2, 1.0]), [0, 51, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0, 7, 255], np.int64), [0, 7, 255]),
    ],
)
def test_other_types_become_uint8(tmp_path: Path, given: np.ndarray, expected: list[int]) -> None:
    x = np.broadcast_to(given[:, None, None], (3, 4, 4)).repeat(10, axis=0)
    dataset = load_dataset(save(tmp_path / "x.npz", images=x))
    assert dataset.train.images[:].dtype == np.uint8
    assert sorted(set(all_images(dataset).ravel().tolist())) == sorted(set(expected))


def nan_images() -> np.ndarray:
    x = np.full((30, 8, 8), 0.5, np.float32)
    x[3, 2, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([[1, "a"], None], dtype=object)}, "holds Python objects"),
        ({"images": nan_images()}, "holds float32 from nan"),
        ({"images": np.full((30, 8, 8), 1.5)}, r"holds float64 from 1\.5 to 1\.5"),
        ({"images": np.arange(-1, 1919).reshape(30, 8, 8) % 99 - 1}, "holds int64 from -1 to 97"),
        ({"images": np.linspace(-0.1, 1, 1920).reshape(30, 8, 8)}, r"holds float64 from -0\.1"),
        ({"images": np.full((30, 8, 8), 256)}, "to 256"),
        ({"images": np.ones((30, 8, 8), np.uint8)}, "holds uint8 from 1 to 1"),
        ({"images": np.full((30, 8, 8), "a")}, "has the type <U1"),
        ({"images": random_images(30, 64)}, r"has the shape \(30, 64\)"),
        ({"images": random_images(30, 3, 8, 8)}, "channels last"),
        ({"images": random_images(30, 8, 8, 4)}, r"has the shape \(30, 8, 8, 4\)"),
        ({"images": random_images(0, 8, 8)}, "is empty"),
        ({"images": random_images(10, 8, 8)}, "10 images; expected at least 24"),
        ({"images": random_images(30, 8, 8), "labels": np.arange(29)}, "'labels' has the shape"),
        ({"images": random_images(30, 8, 8), "labels": np.ones(30)}, "type float64"),
        ({"photos": random_images(30, 8, 8)}, "holds the arrays photos"),
        (
            {"x_train": random_images(30, 8, 8), "x_test": random_images(9, 8, 4)},
            "training images",
        ),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(save(tmp_path / "bad.npz", **arrays))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = Path(save(tmp_path / "x.npz", images=random_images(30, 8, 8)))
    whole = path.read_bytes()
    for damaged in (b"", b"not numpy", whole[: len(whole) // 2], whole[:200] + whole[300:]):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"'x\.npz' is damaged"):
            load_dataset(str(path))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (77,)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npy"
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="holds Python objects"):
        load_dataset(str(path))


def test_an_unknown_source_lists_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=", ".join(NAMES)):
        load_dataset("imagenet")
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(DatasetError, match=r"x\.csv' \(the file exists\)"):
        load_dataset(str(tmp_path / "x.csv"))


@pytest.mark.parametrize(("shape", "fits"), [((30, 12), False), ((28, 28), True), ((8, 30), False)])
def test_sides_must_be_divisible(tmp_path: Path, shape: tuple[int, int], fits: bool) -> None:
    dataset = load_dataset(save(tmp_path / "x.npz", images=random_images(30, *shape)))
    dataset.require_divisible(2)
    if fits:
        dataset.require_divisible(4)
    else:
        with pytest.raises(DatasetError, match=r"that 4 divides\. Pass --resize \d+x\d+,"):
            dataset.require_divisible(4)


# --- folders


def test_a_folder_of_grey_image_files(tmp_path: Path) -> None:
    dataset = load_dataset(str(image_files(tmp_path / "grey")))
    assert (dataset.name, dataset.source) == ("grey", "folder")
    assert dataset.image_shape == (16, 12, 1)
    assert dataset.train.labels is None
    expected = as_rows(np.stack([random_images(16, 12, seed=k) for k in range(30)]))
    assert as_rows(all_images(dataset)) == expected


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".TIF"])
def test_lossless_formats_in_colour(tmp_path: Path, suffix: str) -> None:
    dataset = load_dataset(str(image_files(tmp_path / "rgb", mode="RGB", suffix=suffix)))
    expected = as_rows(np.stack([random_images(16, 12, 3, seed=k) for k in range(30)]))
    assert as_rows(all_images(dataset)) == expected


def test_jpeg(tmp_path: Path) -> None:
    folder = tmp_path / "jpeg"
    folder.mkdir()
    for k in range(30):
        Image.new("L", (8, 8), 40 + k).save(folder / f"{k}.jpg", quality=95)
    assert abs(all_images(load_dataset(str(folder))).mean() - 54.5) < 2


def test_nested_folders_are_labels_and_hidden_names_are_passed_over(tmp_path: Path) -> None:
    image_files(tmp_path / "set" / "cats", 15)
    image_files(tmp_path / "set" / "dogs" / "small", 15, mode="RGB")
    image_files(tmp_path / "set" / ".thumbnails", 5)
    (tmp_path / "set" / "notes.txt").write_text("not an image")
    dataset = load_dataset(str(tmp_path / "set"))
    assert dataset.image_shape == (16, 12, 3)
    assert len(all_images(dataset)) == 30
    assert dataset.train.labels is not None
    grey = (dataset.train.images[..., :1] == dataset.train.images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(dataset.train.labels, np.where(grey, 0, 1))


@pytest.mark.parametrize(
    "names",
    [("train", "test"), ("Train", "Test"), ("TRAINING", "Testing"), ("train", "val"),
     ("Train", "Valid"), ("train", "validation", "test"), ("training", "VAL", "TEST")],
)  # fmt: skip
def test_folders_of_splits_keep_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    counts = dict(zip(names, (40, 7, 9), strict=False))
    for name, count in counts.items():
        image_files(tmp_path / "set" / name / "cats", count)
        image_files(tmp_path / "set" / name / "dogs", count)
    dataset = load_dataset(str(tmp_path / "set"))
    own = {name[0].lower() + name[1:2].lower(): 2 * count for name, count in counts.items()}
    test = own.get("te", 80 // 7)
    left = 80 if "te" in own else 80 - test
    validation = own.get("va", left // 12)
    train = left if "va" in own else left - validation
    assert (
        len(dataset.train.images),
        len(dataset.validation.images),
        len(dataset.test.images),
    ) == (
        train,
        validation,
        test,
    )
    for labels in (dataset.train.labels, dataset.validation.labels, dataset.test.labels):
        assert labels is not None and set(labels.tolist()) == {0, 1}


def test_class_numbers_are_the_same_in_all_splits(tmp_path: Path) -> None:
    values = {"a": 10, "b": 128, "c": 245}
    for split, classes in (("train", "abc"), ("val", "b"), ("test", "bc")):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(12):
                Image.new("L", (8, 8), values[name]).save(tmp_path / split / name / f"{k}.png")
    dataset = load_dataset(str(tmp_path))
    for images, labels in (
        (dataset.train.images, dataset.train.labels),
        (dataset.validation.images, dataset.validation.labels),
        (dataset.test.images, dataset.test.labels),
    ):
        assert labels is not None
        expected = [sorted(values.values()).index(value) for value in images[:, 0, 0, 0]]
        assert labels.tolist() == expected


def test_a_split_without_classes_has_no_labels(tmp_path: Path) -> None:
    image_files(tmp_path / "train" / "cats", 30)
    image_files(tmp_path / "test", 5)
    dataset = load_dataset(str(tmp_path))
    assert dataset.train.labels is not None and dataset.test.labels is None


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "training", "test"):
        image_files(tmp_path / name, 24)
    with pytest.raises(DatasetError, match="the folders train and training in"):
        load_dataset(str(tmp_path))


def test_linked_folders_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_files(tmp_path / "elsewhere", 20)
    image_files(tmp_path / "set" / "z", 20)
    (tmp_path / "set" / "a").symlink_to(tmp_path / "set" / "z")  # the real one counts
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "z" / "loop").symlink_to(tmp_path / "set")
    with caplog.at_level(logging.INFO, "denoiser.training"):
        dataset = load_dataset(str(tmp_path / "set"))
    assert len(all_images(dataset)) == 40
    assert dataset.train.labels is not None and set(dataset.train.labels.tolist()) == {0, 1}
    assert caplog.messages == ["not read from set: linked folders read before (2)"]


def test_what_is_not_read_is_counted_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image_files(tmp_path / "set" / "train", 24, mode="RGB")
    image_files(tmp_path / "set" / "test", 4, mode="RGB", suffix=".gif")
    image_files(tmp_path / "set" / "extra", 4)
    (tmp_path / "set" / "train" / "notes.txt").write_text("not an image")
    (tmp_path / "set" / "train" / "README").write_text("nor this")
    pages = [Image.fromarray(random_images(16, 12, 3, seed=k)) for k in range(4)]
    for k in range(2):
        path = tmp_path / "set" / "test" / f"pages-{k}.tif"
        pages[0].save(path, save_all=True, append_images=pages[1:])
    with caplog.at_level(logging.INFO, "denoiser.training"):
        dataset = load_dataset(str(tmp_path / "set"))
    assert len(dataset.test.images) == 6
    assert caplog.messages == [
        "not read from set: .txt files (1), files and folders beside the splits (1), "
        "further frames or pages (6), other files (1)"
    ]
    caplog.clear()
    load_dataset(str(image_files(tmp_path / "plain")))
    assert not caplog.messages


def test_sizes_must_agree_unless_resized(tmp_path: Path) -> None:
    folder = image_files(tmp_path / "mixed")
    Image.new("L", (9, 9), 100).save(folder / "odd.png")
    with pytest.raises(DatasetError, match=r"16x12 \(000\.png\) and 9x9 \(odd\.png\).*--resize"):
        load_dataset(str(folder))
    assert load_dataset(str(folder), resize=(8, 20)).image_shape == (8, 20, 1)


@pytest.mark.parametrize("damage", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named_within_the_folder(tmp_path: Path, damage: bytes) -> None:
    folder = image_files(tmp_path / "bad")
    (folder / "deep").mkdir()
    (folder / "deep" / "x.png").write_bytes(damage)
    with pytest.raises(DatasetError, match=r"the image 'deep/x\.png' cannot be read") as caught:
        load_dataset(str(folder))
    assert str(tmp_path) not in str(caught.value)


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    folder = image_files(tmp_path / "cut")
    whole = (folder / "003.png").read_bytes()
    (folder / "003.png").write_bytes(whole[:-60])
    with pytest.raises(DatasetError, match=r"'003\.png' cannot be read"):
        load_dataset(str(folder))


def test_a_tag_of_the_wrong_type_is_a_refusal(tmp_path: Path) -> None:
    """A strip's offset as a fraction: a TypeError within Pillow."""
    folder = image_files(tmp_path / "bad", suffix=".tif")
    path = folder / "003.tif"
    body = path.read_bytes()
    at = body.index(b"\x11\x01\x04\x00")  # StripOffsets, LONG
    path.write_bytes(body[: at + 2] + b"\x05" + body[at + 3 :])
    with pytest.raises(DatasetError, match=r"'003\.tif' cannot be read"):
        load_dataset(str(folder))


def test_a_folder_without_image_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        load_dataset(str(tmp_path))


def test_sixteen_bits_transparency_and_palettes(tmp_path: Path) -> None:
    folder = tmp_path / "modes"
    folder.mkdir()
    sixteen = np.full((8, 8), 128 * 257, np.uint16)
    for k in range(24):
        Image.fromarray(sixteen).save(folder / f"{k:02}.png")
    dataset = load_dataset(str(folder))
    assert dataset.image_shape == (8, 8, 1)
    assert set(dataset.train.images[:].ravel().tolist()) == {128}

    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    clear.save(folder / "clear.png")
    Image.new("RGB", (8, 8), (200, 0, 0)).quantize(4).save(folder / "palette.png")
    pixels = {tuple(image[0, 0]) for image in all_images(load_dataset(str(folder)))}
    assert pixels == {(128, 128, 128), (255, 255, 255), (200, 0, 0)}
