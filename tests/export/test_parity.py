"""Parity: every comparison is made, and one that does not hold stops the export."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import parity
from export.chunks import chunks
from export.errors import ParityError
from export.exact import Compute, Exact
from export.parity import LIMIT, Row, compare, enforce, report, summary, table
from service.bundle import Bundle
from service.engine import Engine

GOOD = Row("encoder", "held-out noisy", 7, 2e-7, LIMIT)


def reference(
    network: Any,
    *,
    changed: str = "",
    by: float = 0.0,
    batches: set[tuple[str, int]] | None = None,
) -> Exact:
    """The tiny network of the tests in place of Keras; `batches` collects what was computed."""

    def function(name: str, method: Compute) -> Compute:
        def compute(rows: np.ndarray) -> np.ndarray:
            if batches is not None:
                batches.add((name, len(rows)))
            result = method(rows)
            return result + np.float32(by) if name == changed else result

        return compute

    return Exact(
        function("encoder", network.encode),
        function("decoder", network.decode),
        function("autoencoder", network.denoise),
    )


@pytest.fixture
def held_out() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    clean = rng.random((100, 8, 8, 1), dtype=np.float32)
    return {"clean": clean, "noisy": np.clip(clean + np.float32(0.1), 0, 1)}


def test_every_model_on_every_case_at_every_batch(
    engine: Engine, network: Any, held_out: dict[str, Any]
) -> None:
    batches: set[tuple[str, int]] = set()
    rows = compare(engine, reference(network, batches=batches), **held_out)
    models = {"encoder", "decoder", "autoencoder", "decoder(encoder)"}
    held = {"held-out noisy": (1, 7, 64, 100), "held-out uint8": (1, 7, 64, 100)}
    whole = dict.fromkeys(("all zero", "all one", "uniform random"), (1, 7, 64, 1000))
    expected = {(m, case, b) for m in models for case, bs in (held | whole).items() for b in bs}
    assert {(row.model, row.case, row.batch) for row in rows} == expected
    assert len(rows) == len(expected) == 80
    sizes = {(m, b) for m in models - {"decoder(encoder)"} for b in (1, 7, 64, 100, 1000)}
    assert batches == sizes  # a row's batch is the one that was computed
    assert all(row.holds and row.limit == LIMIT == 1e-5 for row in rows)
    assert max(row.difference for row in rows) > 0  # they were computed
    enforce(rows)


@pytest.mark.parametrize("changed", ["encoder", "decoder", "autoencoder"])
def test_a_difference_in_any_model_is_detected_and_named(
    engine: Engine, network: Any, held_out: dict[str, Any], changed: str
) -> None:
    rows = compare(engine, reference(network, changed=changed, by=1e-3), **held_out)
    assert {row.model for row in rows if not row.holds} == {changed}
    with pytest.raises(ParityError, match=f"{changed} on .*, batch .*differs from Keras by"):
        enforce(rows)


def test_an_autoencoder_that_is_not_the_decoder_after_the_encoder(
    bundle_copy: Path, seal_bundle: Callable[..., None], network: Any, held_out: dict[str, Any]
) -> None:
    """Each file computes what its Keras model does, yet decoder(encoder) is not autoencoder."""
    other = type(network).random(network.image_shape, seed=5)
    (bundle_copy / "autoencoder.onnx").write_bytes(other.onnx("autoencoder"))
    seal_bundle(bundle_copy)
    mixed = reference(network)._replace(autoencoder=reference(other).autoencoder)
    rows = compare(Engine(Bundle.open(bundle_copy), threads=1), mixed, **held_out)
    assert {row.model for row in rows if not row.holds} == {"decoder(encoder)"}


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_dtype_that_differs_never_holds(dtype: type) -> None:
    zeros = np.zeros((2, 3), np.float32)
    row = parity._row("encoder", "all zero", 2, zeros.astype(dtype), zeros)
    assert not row.holds
    with pytest.raises(ParityError, match=r"float(64|16) \(2, 3\); Keras gives float32"):
        enforce([GOOD, row])


def test_a_shape_that_differs_never_holds_even_if_it_broadcasts() -> None:
    row = parity._row("decoder", "c", 2, np.zeros((1, 3), np.float32), np.zeros((2, 3), np.float32))
    assert not row.holds
    with pytest.raises(ParityError, match=r"\(1, 3\); Keras gives float32 \(2, 3\)"):
        enforce([row])


@pytest.mark.parametrize("side", ["result", "expected", "both"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("relative", [False, True])
def test_nan_and_infinity_never_hold(side: str, value: float, relative: bool) -> None:
    result, expected = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    if side in ("result", "both"):
        result[1, 1] = value
    if side in ("expected", "both"):
        expected[1, 1] = value
    with np.errstate(invalid="ignore"):
        row = parity._row("encoder", "c", 2, result, expected, relative=relative)
    assert not row.holds
    with pytest.raises(ParityError, match="NaN or infinity"):
        enforce([GOOD, row])


def test_a_bare_nan_difference_never_holds() -> None:
    with pytest.raises(ParityError):
        enforce([GOOD, replace(GOOD, difference=float("nan"))])


@pytest.mark.parametrize(
    ("difference", "scale", "relative", "holds"),
    [
        (0.9e-5, 1, False, True),
        (1.1e-5, 1, False, False),
        (0.9e-3, 100, True, True),
        (1.1e-3, 100, True, False),
        (0.9e-3, 100, False, False),
        (1.1e-7, 0.01, True, False),
        (0.0, 0.0, True, True),
        (1e-3, 0.0, True, False),
    ],
)
def test_latents_are_measured_against_their_largest_value(
    difference: float, scale: float, relative: bool, holds: bool
) -> None:
    expected = np.array([[0, -scale, scale / 2]], np.float32)
    result = expected + np.array([[difference, 0, 0]], np.float32)
    assert parity._row("encoder", "c", 1, result, expected, relative=relative).holds is holds


def test_the_worst_of_several_failures_is_named_and_all_are_counted() -> None:
    rows = [
        GOOD,
        Row("decoder", "all one", 64, 2e-5, LIMIT),
        Row("autoencoder", "uniform random", 1000, 3e-2, LIMIT),
        Row("encoder", "all zero", 1, 1e-3, LIMIT),
    ]
    with pytest.raises(ParityError) as caught:
        enforce(rows)
    assert caught.value.received == (
        "autoencoder on uniform random, batch 1000: differs from Keras by 3.00e-02 "
        "(3 of 4 comparisons fail)"
    )
    assert caught.value.expected == "at most 1e-05"
    assert "No bundle was written" in caught.value.hint


def test_a_difference_just_at_the_limit_holds() -> None:
    enforce([replace(GOOD, difference=LIMIT)])


def test_report_and_summary() -> None:
    rows = [GOOD, replace(GOOD, batch=64, difference=5e-7), replace(GOOD, model="decoder")]
    largest = {"encoder": 5e-7, "decoder": 2e-7}
    assert summary(rows) == {"comparisons": 3, "largest_difference": largest}
    read = json.loads(json.dumps(report(rows)))
    assert read["limit"] == LIMIT
    assert read["largest_difference"] == largest
    assert [row["batch"] for row in read["rows"]] == [7, 64, 7]


def test_the_table_shows_the_worst_batch_of_each() -> None:
    rows = [
        GOOD,
        replace(GOOD, batch=1000, difference=9e-7),
        Row("decoder", "all one", 1, 1.0, LIMIT),
        Row("decoder", "all one", 7, float("inf"), LIMIT, "float64; Keras gives float32"),
    ]
    head, first, second = table(rows).splitlines()
    assert head.split() == ["model", "images", "worst", "batch", "difference", "limit"]
    assert first.split() == ["encoder", "held-out", "noisy", "1,000", "9.00e-07", "1e-05", "ok"]
    assert second.endswith("float64; Keras gives float32")
    assert "TOO LARGE" in table([replace(GOOD, difference=1.0)])


def test_a_difference_in_a_later_chunk_is_detected(
    engine: Engine, network: Any, held_out: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare(engine, reference(network), **held_out)
    monkeypatch.setattr(parity, "chunks", partial(chunks, limit=30 * 8 * 8 * 4))
    batches: set[tuple[str, int]] = set()
    rows = compare(engine, reference(network, batches=batches), **held_out)
    assert max(size for _, size in batches) == 30
    assert [(r.model, r.case, r.batch) for r in rows] == [(r.model, r.case, r.batch) for r in whole]
    images = [r.difference for r in rows if r.model != "encoder"]  # latents: relative to a chunk's
    assert images == pytest.approx([r.difference for r in whole if r.model != "encoder"], abs=1e-7)

    changed = reference(network)
    wrong = changed._replace(
        autoencoder=lambda x: changed.autoencoder(x) + np.float32(1e-3) * (len(x) == 10)
    )
    rows = compare(engine, wrong, **held_out)  # 100 = 30 + 30 + 30 + 10
    assert {(r.model, r.batch) for r in rows if not r.holds} == {
        ("autoencoder", 100),
        ("autoencoder", 1000),
    }
