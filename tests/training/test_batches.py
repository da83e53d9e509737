"""Batches: a pure function of (seed, epoch, index), also as Keras's own loop draws them."""

from __future__ import annotations

import numpy as np

from training.backend import load_tensorflow

load_tensorflow()

import keras  # noqa: E402

from common.arrays import to_floats  # noqa: E402
from training.batches import NoisyBatches, Pair  # noqa: E402
from training.data.arrays import Rows  # noqa: E402
from training.noise.spec import parse_noise  # noqa: E402

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 4, 4, 1), dtype=np.uint8)


def batches(seed: int = 3, epoch: int = 0, noisy: bool = True) -> NoisyBatches:
    noise = parse_noise("gaussian") if noisy else None
    data = NoisyBatches(Rows(IMAGES), noise=noise, batch_size=32, seed=seed)
    data.begin(epoch)
    return data


def same(one: Pair, two: Pair) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_epoch_holds_every_image_once() -> None:
    data = batches()
    clean = np.concatenate([data[k][1] for k in range(len(data))])
    assert [len(data[k][0]) for k in range(len(data))] == [32, 32, 6]
    assert clean.dtype == np.float32
    found = [image.tobytes() for image in clean]
    given = [image.tobytes() for image in to_floats(IMAGES)]
    assert found != given
    assert sorted(found) == sorted(given)


def test_the_same_seed_epoch_and_index_give_the_same_batch() -> None:
    data = batches()
    first = data[1]
    assert same(first, data[1])
    assert same(first, batches()[1])
    assert not same(first, data[0])
    assert not same(first, batches(seed=4)[1])
    data.begin(1)
    assert not same(first, data[1])
    assert same(data[1], batches(epoch=1)[1])


def test_noise_is_fresh_for_each_image_and_each_epoch() -> None:
    draws: dict[bytes, list[np.ndarray]] = {}
    for epoch in (0, 1):
        data = batches(epoch=epoch)
        for k in range(len(data)):
            noisy, clean = data[k]
            for corrupted, image in zip(noisy, clean, strict=True):
                draws.setdefault(image.tobytes(), []).append(corrupted)
    assert all(not np.array_equal(one, two) for one, two in draws.values())


def test_without_noise_input_and_target_are_the_same() -> None:
    given, target = batches(noisy=False)[0]
    np.testing.assert_array_equal(given, target)


def test_given_noisy_images_go_with_their_clean_ones() -> None:
    data = NoisyBatches(Rows(IMAGES), noise=None, noisy=Rows(255 - IMAGES), batch_size=32, seed=3)
    drawn = [data[k] for k in range(len(data))]
    for given, target in drawn:
        np.testing.assert_allclose(given, 1 - target, atol=1e-6)
    plain = batches(noisy=False)
    for k, (_, target) in enumerate(drawn):
        np.testing.assert_array_equal(target, plain[k][1])  # the same order


class Recorder(NoisyBatches):
    """Notes each batch that Keras draws."""

    drawn: list[tuple[int, int, float]]

    def __getitem__(self, index: int) -> Pair:
        pair = super().__getitem__(index)
        self.drawn.append((self.epoch, index, pair[0].sum()))
        return pair


def test_keras_draws_every_epoch_in_order_also_when_it_starts_late() -> None:
    def drawn(first_epoch: int) -> set[tuple[int, int, float]]:
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 1)])
        model.compile("sgd", "mse", steps_per_execution=8)
        data = Recorder(Rows(IMAGES), noise=parse_noise("gaussian"), batch_size=32, seed=0)
        data.drawn = []
        model.fit(
            data,
            initial_epoch=first_epoch,
            epochs=4,
            callbacks=[data.follow()],
            shuffle=False,
            verbose=0,
        )
        return set(data.drawn)

    whole, late = drawn(0), drawn(2)
    assert {(epoch, k) for epoch, k, _ in whole} == {(e, k) for e in range(4) for k in range(3)}
    assert len(whole) == 12  # nothing was drawn twice with another content
    # Keras looks at a few batches beforehand, for their shapes: they are those of epoch 0.
    assert {batch for batch in late if batch[0]} == {batch for batch in whole if batch[0] >= 2}
