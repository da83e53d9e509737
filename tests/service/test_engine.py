"""The engine on a tiny real bundle: any N, any kind of array, right rows, clear refusals."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from common.arrays import Array
from common.errors import DtypeError, OptionError, RangeError, ShapeError
from service.engine import CHUNK, IO_BINDING_MIN_BYTES, Engine
from service.runtime import pool
from service.runtime.cores import STEADY
from service.runtime.session import Session
from tests.support.paths import DATA, ROOT

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 1000]
MODELS = ["encoder", "decoder", "autoencoder"]


def rows_for(engine: Engine, model: str, size: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if model == "decoder":
        return rng.normal(0, 1, (size, engine.manifest.latent_size)).astype(np.float32)
    return rng.random((size, *engine.manifest.image_shape), dtype=np.float32)


def bytes_for(engine: Engine, size: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, *engine.manifest.image_shape), dtype=np.uint8)


METHODS: dict[str, Callable[..., Array]] = {
    "encoder": Engine.encode,
    "decoder": Engine.decode,
    "autoencoder": Engine.denoise,
}


def run(engine: Engine, model: str, rows: Array) -> Array:
    return METHODS[model](engine, rows)


def in_one_call(path: Path, model: str, rows: Array) -> Array:
    session = ort.InferenceSession(path / f"{model}.onnx", providers=["CPUExecutionProvider"])
    answer: Array = session.run(None, {session.get_inputs()[0].name: rows})[0]
    return answer


@pytest.mark.parametrize("colours", ["grey", "colour"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_rows_as_in_one_call(
    request: pytest.FixtureRequest, colours: str, model: str, size: int
) -> None:
    prefix = "" if colours == "grey" else "colour_"
    engine: Engine = request.getfixturevalue(f"{prefix}engine")
    network = request.getfixturevalue(f"{prefix}network")
    path: Path = request.getfixturevalue(f"{prefix}bundle_path")
    rows = rows_for(engine, model, size)
    answer = run(engine, model, rows)
    expected = in_one_call(path, model, rows)
    assert answer.dtype == expected.dtype == np.float32
    assert answer.shape == expected.shape
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)
    oracle = {"encoder": "encode", "decoder": "decode", "autoencoder": "denoise"}[model]
    np.testing.assert_allclose(answer, getattr(network, oracle)(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, CHUNK + 1, 100])
def test_uint8_is_float32_over_255_exactly(engine: Engine, size: int) -> None:
    some = bytes_for(engine, size)
    unit = some.astype(np.float32) / 255
    np.testing.assert_array_equal(engine.encode(some), engine.encode(unit))
    np.testing.assert_array_equal(engine.denoise(some), engine.denoise(unit))


@pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
def test_uint8_answers_are_rounded_not_cut(engine: Engine, size: int) -> None:
    latents = rows_for(engine, "decoder", size)
    images = rows_for(engine, "autoencoder", size)
    for exact, rounded in [
        (engine.decode(latents), engine.decode(latents, dtype="uint8")),
        (engine.denoise(images), engine.denoise(images, dtype="uint8")),
    ]:
        assert rounded.dtype == np.uint8
        np.testing.assert_array_equal(rounded, np.rint(exact * 255).astype(np.uint8))


def test_uint8_reaches_both_ends(engine: Engine) -> None:
    far = np.full((2, engine.manifest.latent_size), 1e4, np.float32)
    found = np.unique(engine.decode(far, dtype="uint8"))
    assert set(found) == {0, 255}


def layouts(rows: Array, tmp_path: Path) -> dict[str, Array]:
    """The same values in memory layouts that callers really have."""
    doubled = np.repeat(rows, 2, axis=0)
    read_only = rows.copy()
    read_only.flags.writeable = False
    np.save(tmp_path / "rows.npy", rows)
    raw = np.empty(rows.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(rows.dtype).reshape(rows.shape)
    unaligned[...] = rows
    return {
        "every second row": doubled[::2],
        "Fortran order": np.asfortranarray(rows),
        "reversed twice": np.ascontiguousarray(rows[::-1])[::-1],
        "read-only": read_only,
        "memory-mapped": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "unaligned": unaligned,
        "from bytes": np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape),
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [3, 2 * CHUNK + 5])
def test_any_memory_layout_and_callers_arrays_stay_as_they_were(
    engine: Engine, tmp_path: Path, model: str, size: int
) -> None:
    rows = rows_for(engine, model, size)
    kept = rows.copy()
    expected = run(engine, model, rows)
    np.testing.assert_array_equal(rows, kept)
    for name, same in layouts(rows, tmp_path).items():
        np.testing.assert_array_equal(run(engine, model, same), expected, err_msg=name)
        np.testing.assert_array_equal(same, kept, err_msg=name)


def test_uint8_in_any_memory_layout(engine: Engine, tmp_path: Path) -> None:
    rows = bytes_for(engine, CHUNK + 3)
    expected = engine.denoise(rows, dtype="uint8")
    for name, same in layouts(rows, tmp_path).items():
        np.testing.assert_array_equal(engine.denoise(same, dtype="uint8"), expected, err_msg=name)


def test_a_broadcast_array_is_read_row_by_row(engine: Engine) -> None:
    one = rows_for(engine, "encoder", 1)
    many = np.broadcast_to(one, (50, *one.shape[1:]))
    np.testing.assert_allclose(
        engine.encode(many), np.repeat(engine.encode(one), 50, axis=0), rtol=0, atol=1e-6
    )


def test_answers_belong_to_the_caller(engine: Engine) -> None:
    images = rows_for(engine, "denoise", 40)
    first = engine.denoise(images)
    kept = first.copy()
    assert first.flags.writeable
    engine.denoise(1 - images)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [0, 1, CHUNK + 1, 300])
def test_out_holds_the_answer(engine: Engine, model: str, size: int) -> None:
    rows = rows_for(engine, model, size)
    expected = run(engine, model, rows)
    wide = np.full((2 * size, *expected.shape[1:]), np.nan, np.float32)
    out = wide[::2]  # not contiguous: every other row
    answer = METHODS[model](engine, rows, out=out)
    assert answer is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(wide[1::2]).all(), "the rows between belong to somebody else"


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_images_can_be_denoised_in_place(engine: Engine, dtype: Any) -> None:
    floats = dtype == "float32"
    images = rows_for(engine, "autoencoder", 300) if floats else bytes_for(engine, 300)
    expected = engine.denoise(images, dtype=dtype)
    engine.denoise(images, dtype=dtype, out=images)
    np.testing.assert_array_equal(images, expected)


def test_an_out_that_does_not_fit_is_refused_before_anything_is_written(engine: Engine) -> None:
    images = rows_for(engine, "autoencoder", 40)
    long, doubles = np.zeros((41, *images.shape[1:]), np.float32), np.zeros(images.shape)
    with pytest.raises(ShapeError, match="41"):
        engine.denoise(images, out=long)
    with pytest.raises(DtypeError, match="float64"):
        engine.denoise(images, out=doubles)
    with pytest.raises(DtypeError, match="uint8"):
        engine.denoise(images, dtype="uint8", out=np.zeros_like(images))
    with pytest.raises(DtypeError, match="list"):
        engine.denoise(images, out=[])  # type: ignore[arg-type]
    frozen = np.zeros_like(images)
    frozen.flags.writeable = False
    with pytest.raises(DtypeError, match="read-only"):
        engine.denoise(images, out=frozen)
    assert not long.any()
    assert not doubles.any()
    assert not frozen.any()


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("size", [0, 1, 100])
def test_one_pass_gives_several_outputs(
    scored_engine: Engine, monkeypatch: pytest.MonkeyPatch, dtype: Any, size: int
) -> None:
    images = rows_for(scored_engine, "encoder", size)
    names: Any = ("latents", "denoised", "scores")
    expected = {
        "latents": scored_engine.encode(images),
        "denoised": scored_engine.denoise(images, dtype=dtype),
        "scores": scored_engine.score(images),
    }
    results = scored_engine.run(names, images=images, dtype=dtype)
    assert results.keys() == expected.keys()
    monkeypatch.setattr("service.engine.IO_BINDING_MIN_BYTES", 0)
    out = {name: np.empty_like(result) for name, result in expected.items()}
    if dtype == "float32":
        out["denoised"] = images  # denoised in place, after the scores were computed
    written = scored_engine.run(names, images=images, dtype=dtype, out=out)
    for name, array in expected.items():
        assert written[name] is out[name]
        assert results[name].dtype == out[name].dtype == array.dtype
        limit = 1.01 if array.dtype == np.uint8 else 1e-5
        for found in (results[name], out[name]):
            np.testing.assert_allclose(found.astype(float), array, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("outputs", "arguments", "text"),
    [
        ([], {"images": None}, "outputs"),
        (["reward"], {"images": None}, "reward"),
        (["images", "latents"], {"latents": None}, "images of latents"),
        (["scores"], {"images": None}, "novelty"),
        (["latents"], {"latents": None}, "expected images"),
        (["images"], {"images": None}, "expected latents"),
        (["latents"], {"images": None, "latents": None}, "expected images"),
        (["latents"], {"images": None, "out": {"denoised": np.zeros(1)}}, "out for denoised"),
    ],
)
def test_outputs_that_cannot_be_computed(
    engine: Engine, outputs: Any, arguments: dict[str, Any], text: str
) -> None:
    for name, model in (("images", "encoder"), ("latents", "decoder")):
        if name in arguments:
            arguments = {**arguments, name: rows_for(engine, model, 1)}
    with pytest.raises(OptionError, match=text):
        engine.run(outputs, **arguments)


def test_a_missing_input_is_refused(engine: Engine) -> None:
    with pytest.raises(DtypeError, match="images of dtype NoneType"):
        engine.run(["latents"])
    with pytest.raises(DtypeError, match="latents of dtype NoneType"):
        engine.run(["images"])


def test_byte_order_is_refused_or_respected(engine: Engine) -> None:
    """Never the bytes of one order read as the other: that would be a silent wrong answer."""
    for model in MODELS:
        rows = rows_for(engine, model, CHUNK + 1)
        expected = run(engine, model, rows)
        try:
            found = run(engine, model, rows.astype(">f4"))
        except DtypeError:
            continue
        np.testing.assert_array_equal(found, expected)


def test_many_threads_each_get_their_own_rows(engine: Engine, bundle_path: Path) -> None:
    begin = threading.Barrier(8, timeout=20)

    def client(seed: int) -> None:
        begin.wait()
        for turn in range(10):
            size = (1, CHUNK, CHUNK + 1, 90)[(seed + turn) % 4]
            for model in MODELS:
                rows = rows_for(engine, model, size, seed=100 * seed + turn)
                expected = sessions[model].run(None, {inputs[model]: rows})[0]
                np.testing.assert_allclose(run(engine, model, rows), expected, rtol=0, atol=1e-6)

    sessions = {
        model: ort.InferenceSession(
            bundle_path / f"{model}.onnx", providers=["CPUExecutionProvider"]
        )
        for model in MODELS
    }
    inputs = {model: session.get_inputs()[0].name for model, session in sessions.items()}
    with ThreadPoolExecutor(8) as clients:
        for future in [clients.submit(client, seed) for seed in range(8)]:
            future.result(60)


WRONG_IMAGES: list[tuple[str, Any, type[Exception], str]] = [
    ("float64", np.zeros((2, 8, 8, 1)), DtypeError, "float64"),
    ("float16", np.zeros((2, 8, 8, 1), np.float16), DtypeError, "float16"),
    ("int32", np.zeros((2, 8, 8, 1), np.int32), DtypeError, "int32"),
    ("int8", np.zeros((2, 8, 8, 1), np.int8), DtypeError, "int8"),
    ("bool", np.zeros((2, 8, 8, 1), bool), DtypeError, "bool"),
    ("complex", np.zeros((2, 8, 8, 1), np.complex64), DtypeError, "complex64"),
    ("object", np.full((2, 8, 8, 1), None), DtypeError, "object"),
    ("text", np.full((2, 8, 8, 1), "0"), DtypeError, "<U1"),
    ("list", [[[[0.5]] * 8] * 8], DtypeError, "list"),
    ("None", None, DtypeError, "NoneType"),
    ("no channel axis", np.zeros((2, 8, 8), np.float32), ShapeError, r"\(2, 8, 8\)"),
    ("no batch axis", np.zeros((8, 8, 1), np.float32), ShapeError, r"\(8, 8, 1\)"),
    ("colour", np.zeros((2, 8, 8, 3), np.float32), ShapeError, r"\(2, 8, 8, 3\)"),
    ("channels first", np.zeros((2, 1, 8, 8), np.uint8), ShapeError, r"\(N, 8, 8, 1\)"),
    ("larger", np.zeros((2, 28, 28, 1), np.uint8), ShapeError, r"\(2, 28, 28, 1\)"),
    ("five axes", np.zeros((1, 2, 8, 8, 1), np.uint8), ShapeError, r"\(1, 2, 8, 8, 1\)"),
    ("scalar", np.zeros((), np.float32), ShapeError, r"\(\)"),
    ("one axis", np.zeros(64, np.float32), ShapeError, r"\(64,\)"),
    ("empty but of the wrong shape", np.zeros((0, 9, 9, 1), np.uint8), ShapeError, r"\(0, 9"),
]


@pytest.mark.parametrize(
    ("images", "kind", "text"),
    [case[1:] for case in WRONG_IMAGES],
    ids=[case[0] for case in WRONG_IMAGES],
)
def test_wrong_images_are_refused(
    engine: Engine, images: Any, kind: type[Exception], text: str
) -> None:
    for method in (engine.encode, engine.denoise):
        with pytest.raises(kind, match=text):
            method(images)


@pytest.mark.parametrize(
    ("latents", "kind"),
    [
        (np.zeros((2, 4)), DtypeError),
        (np.zeros((2, 4), np.uint8), DtypeError),
        ([[0.0, 0.0, 0.0, 0.0]], DtypeError),
        (np.zeros((2, 16), np.float32), ShapeError),
        (np.zeros(4, np.float32), ShapeError),
        (np.zeros((2, 4, 1), np.float32), ShapeError),
        (np.zeros((0, 5), np.float32), ShapeError),
    ],
)
def test_wrong_latents_are_refused(engine: Engine, latents: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        engine.decode(latents)


BAD = [np.nan, np.inf, -np.inf, -0.1, 1.1, -1e-7, np.nextafter(np.float32(1), np.float32(2)), 255.0]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("size", "at"), [(1, 0), (CHUNK, CHUNK - 1), (40 * CHUNK + 3, 40 * CHUNK + 2), (1000, 500)]
)
def test_one_bad_pixel_anywhere_is_refused(
    engine: Engine, value: float, size: int, at: int
) -> None:
    images = rows_for(engine, "encoder", size)
    images[at, 3, 4, 0] = value
    for method in (engine.encode, engine.denoise):
        with pytest.raises(RangeError, match=r"\[0, 1\]"):
            method(images)
    images[at, 3, 4, 0] = 0.5
    assert len(engine.encode(images)) == size  # the engine still works


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("size", "at"), [(1, 0), (20 * CHUNK + 3, 20 * CHUNK + 2)])
def test_one_bad_latent_anywhere_is_refused(
    engine: Engine, value: float, size: int, at: int
) -> None:
    latents = rows_for(engine, "decoder", size)
    latents[at, -1] = value
    with pytest.raises(RangeError, match="finite"):
        engine.decode(latents)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 1e-45])
def test_the_ends_of_the_range_belong_to_it(engine: Engine, value: float) -> None:
    images = np.full((1, 8, 8, 1), value, np.float32)
    assert np.isfinite(engine.denoise(images)).all()


def test_every_row_bad_and_every_worker_alive(engine: Engine) -> None:
    bad = np.full((2000, 8, 8, 1), np.nan, np.float32)
    for _ in range(20):
        with pytest.raises(RangeError):
            engine.encode(bad)
    good = rows_for(engine, "encoder", 500)
    assert engine.encode(good).shape == (500, 4)
    assert all(worker.is_alive() for worker in engine._pool._workers)


def test_submit_refuses_shapes_at_once_and_values_in_the_future(engine: Engine) -> None:
    with pytest.raises(ShapeError):
        engine.submit(["latents"], images=np.zeros((1, 2, 3), np.float32))
    future = engine.submit(["latents"], images=np.full((1, 8, 8, 1), 2, np.float32))
    assert isinstance(future.exception(20), RangeError)


def test_a_short_call_is_not_stuck_behind_a_long_one(bundle_path: Path) -> None:
    engine = Engine.load(bundle_path, threads=1)
    long = engine.submit(["denoised"], images=np.zeros((200_000, 8, 8, 1), np.uint8))
    short = engine.submit(["denoised"], images=np.zeros((3 * CHUNK, 8, 8, 1), np.uint8))
    short.result(20)
    assert not long.done()
    assert long.cancel()


def test_an_engine_that_nobody_holds_ends_its_threads(bundle_path: Path) -> None:
    engine = Engine.load(bundle_path, threads=3)
    workers = engine._pool._workers
    assert len(workers) == engine.threads == 3
    engine.encode(rows_for(engine, "encoder", 100))
    del engine
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()


# Peak memory in a process of its own: from 10,000 to 100,000 rows nothing may grow but the rows
# and their answer (6.4 MB and 25.6 MB). Without chunks the activations alone would add 75 MB.
MEASURE = """
import resource, sys
import numpy as np
from service.engine import Engine

engine = Engine.load(sys.argv[1], threads=2)
unit = 1 if sys.platform == "darwin" else 1024

def peak(size):
    rows = np.random.default_rng(0).integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)
    answer = engine.denoise(rows)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, rows.nbytes + answer.nbytes

before, few = peak(10_000)
after, many = peak(100_000)
print(after - before, many)
"""


def test_memory_grows_with_the_answer_alone(bundle_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(bundle_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    grown, arrays = map(int, done.stdout.split())
    assert grown <= arrays + 8 * 2**20


# --- how a call is cut


def chunk_sizes(threads: int, rows: int, size: int) -> list[int]:
    """The rows of each chunk that a call becomes."""
    chunks = pool.chunk_count(rows, size, threads=threads)
    pieces = [pool.chunk_slice(index, rows=rows, chunks=chunks) for index in range(chunks)]
    assert [p.start for p in pieces] == [0, *(p.stop for p in pieces)][:chunks]
    assert not pieces or pieces[-1].stop == rows
    return [p.stop - p.start for p in pieces]


@pytest.mark.parametrize("threads", range(1, 9))
def test_chunks_cover_every_row_once_and_none_is_larger_than_allowed(threads: int) -> None:
    for size in range(1, 65):
        for rows in range(301):
            parts = chunk_sizes(threads, rows, size)
            case = (rows, size, parts)
            assert sum(parts) == rows, case
            assert all(1 <= part <= size for part in parts), case
            assert not parts or max(parts) - min(parts) <= 1, case


@pytest.mark.parametrize("threads", range(1, 9))
def test_no_thread_has_more_to_do_than_with_whole_chunks(threads: int) -> None:
    """The busiest of the threads, if each takes the next chunk in turn."""
    for size in range(1, 65):
        for rows in range(301):
            parts = chunk_sizes(threads, rows, size)
            busiest = sum(sorted(parts)[::-1][: -(-len(parts) // threads)])
            whole = -(-rows // size)
            plain = min(rows, -(-whole // threads) * size)
            assert busiest <= plain, (rows, size, parts)


@pytest.mark.parametrize(
    ("threads", "rows", "size", "expected"),
    [
        (2, 3, 16, [3]),  # not worth a second thread
        (2, 4, 16, [2, 2]),
        (2, 16, 16, [8, 8]),
        (2, 24, 16, [12, 12]),  # not 16 and 8
        (2, 33, 16, [8, 8, 8, 9]),  # not 16, 16 and 1
        (2, 100, 16, [12, 13] * 4),  # 7 would leave one thread idle
        (2, 1_000, 32, [31, 31, 31, 32] * 8),  # not 31 of 32 and a small one
        (8, 16, 64, [2] * 8),
        (8, 6, 64, [2] * 3),  # at least two rows in each
        (4, 64, 64, [16] * 4),
        (4, 65, 64, [16, 16, 16, 17]),
        (1, 24, 16, [12, 12]),  # one thread has nothing to share
        (1, 7, 64, [7]),
        (2, 0, 16, []),
        (2, 4, 1, [1] * 4),  # a large network: one image at a time
        (2, 5, 2, [1, 2, 2]),
    ],
)
def test_a_call_is_cut_evenly(threads: int, rows: int, size: int, expected: list[int]) -> None:
    assert chunk_sizes(threads, rows, size) == expected


@pytest.mark.parametrize("rows", [8, 24, 30, 48, 100, 1_000, 9_999])
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_threads_share_a_call_to_a_row_for_each_turn(threads: int, rows: int) -> None:
    parts = chunk_sizes(threads, rows, 64)
    turns = -(-len(parts) // threads)
    assert len(parts) % threads == 0
    assert turns * max(parts) - rows / threads < turns


def seen_chunks(engine: Engine, model: str, size: int) -> list[int]:
    """The numbers of rows that a call's chunks had."""
    real, seen = engine._sessions[model], list[int]()

    def spy(chunk: Array, *, multithreaded: bool, out: Array | None) -> Array:
        seen.append(len(chunk))
        return real(chunk, multithreaded=multithreaded, out=out)

    spy.row_shape, spy.multithreaded = real.row_shape, real.multithreaded  # type: ignore[attr-defined]
    engine._sessions[model] = spy  # type: ignore[assignment]
    try:
        answer = run(engine, model, rows_for(engine, model, size))
    finally:
        engine._sessions[model] = real
    np.testing.assert_allclose(
        answer, run(engine, model, rows_for(engine, model, size)), rtol=0, atol=1e-6
    )
    return sorted(seen, reverse=True)


def test_the_manifests_chunks_are_used_and_missing_ones_are_16(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_bundle(tmp_path / "b", chunks={"encoder": 64, "decoder": 3})
    engine = Engine.load(path, threads=1)
    assert seen_chunks(engine, "encoder", 150) == [50, 50, 50]
    assert seen_chunks(engine, "decoder", 10) == [3, 3, 2, 2]
    assert seen_chunks(engine, "autoencoder", 40) == [14, 13, 13]
    assert CHUNK == 16


def test_chunks_of_one_image(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", chunks=dict.fromkeys(MODELS, 1))
    engine = Engine.load(path, threads=2)
    assert seen_chunks(engine, "autoencoder", 7) == [1] * 7


@pytest.mark.parametrize("model", MODELS)
def test_a_large_image_by_itself_is_shared_by_all_cores(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    narrow = Engine.load(bundle_path, threads=1)
    monkeypatch.setattr("service.runtime.session.MULTITHREAD_MIN_SECONDS", 0.0)
    monkeypatch.setattr("service.runtime.cores.STEADY", 0)
    engine = Engine.load(bundle_path, threads=2)
    real = engine._sessions[model]
    assert real.multithreaded
    flags: list[bool] = []

    def spy(chunk: Array, *, multithreaded: bool, out: Array | None) -> Array:
        flags.append(multithreaded)
        if multithreaded:  # whoever comes while this runs takes one core, and does not wait
            run(engine, model, rows_for(engine, model, 1))
        return real(chunk, multithreaded=multithreaded, out=out)

    spy.row_shape, spy.multithreaded = real.row_shape, True  # type: ignore[attr-defined]
    engine._sessions[model] = spy  # type: ignore[assignment]
    for rows in (rows_for(engine, model, size) for size in (1, 3)):
        answer = run(engine, model, rows)
        np.testing.assert_allclose(answer, run(narrow, model, rows), rtol=0, atol=1e-5)
        assert flags == [True, False]
        flags.clear()
    run(engine, model, rows_for(engine, model, 100))
    assert len(flags) > 1
    assert not any(flags), "chunks share the cores among themselves"
    flags.clear()
    with monkeypatch.context() as patch:
        patch.setattr(pool.Pool, "busy", True)
        run(engine, model, rows_for(engine, model, 1))
    assert flags == [False], "the cores are at work for another call"


@pytest.mark.parametrize(("max_gap", "all_cores"), [(60.0, True), (0.0, False)])
def test_images_have_one_core_until_many_follow_each_other_at_once(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, max_gap: float, all_cores: bool
) -> None:
    monkeypatch.setattr("service.runtime.session.MULTITHREAD_MIN_SECONDS", 0.0)
    monkeypatch.setattr("service.runtime.cores.MAX_GAP", max_gap)
    engine = Engine.load(bundle_path, threads=2)
    engine._all_cores._ended = -1e9  # loading replayed the golden answers, long ago
    real, flags = engine._sessions["encoder"], list[bool]()

    def spy(chunk: Array, *, multithreaded: bool, out: Array | None) -> Array:
        flags.append(multithreaded)
        return real(chunk, multithreaded=multithreaded, out=out)

    spy.row_shape, spy.multithreaded = real.row_shape, True  # type: ignore[attr-defined]
    engine._sessions["encoder"] = spy  # type: ignore[assignment]
    image = rows_for(engine, "encoder", 1)
    for _ in range(STEADY + 2):
        engine.encode(image)
    assert flags == [False] * STEADY + [all_cores] * 2
    flags.clear()
    engine._all_cores._ended = -1e9  # a pause
    engine.encode(image)
    assert flags == [False]


def test_a_small_image_and_a_single_core_have_one_session(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runtime.session.MULTITHREAD_MIN_SECONDS", 60.0)
    assert not any(
        each.multithreaded for each in Engine.load(bundle_path, threads=2)._sessions.values()
    )
    monkeypatch.setattr("service.runtime.session.MULTITHREAD_MIN_SECONDS", 0.0)
    assert not any(
        each.multithreaded for each in Engine.load(bundle_path, threads=1)._sessions.values()
    )


def test_a_model_that_cannot_be_tried_loads_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with it is for the golden answers to find."""
    monkeypatch.setattr("service.runtime.session.MULTITHREAD_MIN_SECONDS", 1e-9)
    open_ended = Session(DATA / "models" / "open.onnx", threads=2)
    assert not open_ended.multithreaded
    assert open_ended(np.ones((2, 3), np.float32)).shape == (2, 3)


def test_two_threads_get_equal_parts(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b", chunks={"encoder": 16})
    engine = Engine.load(path, threads=2)
    assert seen_chunks(engine, "encoder", 24) == [12, 12]
    assert seen_chunks(engine, "encoder", 3) == [3]
    assert seen_chunks(engine, "encoder", 0) == []


# --- answers that the model writes to their place by itself


@pytest.fixture
def straight(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that copies no float32 answer, however small."""
    monkeypatch.setattr("service.engine.IO_BINDING_MIN_BYTES", 0)
    return Engine.load(bundle_path, threads=2)


def bound(engine: Engine, model: str, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of a network is passed an array for its output, from now on."""
    real, seen = engine._sessions[model], list[bool]()

    def spy(chunk: Array, *, multithreaded: bool, out: Array | None) -> Array:
        seen.append(out is not None)
        return real(chunk, multithreaded=multithreaded, out=out)

    spy.row_shape, spy.multithreaded = real.row_shape, real.multithreaded  # type: ignore[attr-defined]
    monkeypatch.setitem(engine._sessions, model, spy)
    return seen


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [1, 3, 50])
def test_answers_written_in_place_are_the_copied_ones(
    engine: Engine, straight: Engine, monkeypatch: pytest.MonkeyPatch, model: str, size: int
) -> None:
    rows = rows_for(engine, model, size)
    expected = run(engine, model, rows)
    seen = bound(straight, model, monkeypatch)
    np.testing.assert_array_equal(run(straight, model, rows), expected)
    out = np.full_like(expected, np.nan)
    assert METHODS[model](straight, rows, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert all(seen) and seen


def test_what_cannot_be_written_in_place_is_copied(
    engine: Engine, straight: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other numbers than float32, every other row, and the input itself."""
    images = rows_for(engine, "autoencoder", 20)
    expected = engine.denoise(images)
    seen = bound(straight, "autoencoder", monkeypatch)
    rounded = np.rint(expected * 255).astype(np.uint8)
    np.testing.assert_array_equal(straight.denoise(images, dtype="uint8"), rounded)
    apart = np.full((40, *expected.shape[1:]), np.nan, np.float32)[::2]
    np.testing.assert_array_equal(straight.denoise(images, out=apart), expected)
    again = images.copy()
    np.testing.assert_array_equal(straight.denoise(again, out=again), expected)
    assert not any(seen) and seen


def test_only_large_answers_are_written_in_place(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mebibyte in each chunk, far more than these have."""
    assert IO_BINDING_MIN_BYTES == 1 << 20
    engine = Engine.load(bundle_path, threads=2)
    seen = bound(engine, "autoencoder", monkeypatch)
    images = rows_for(engine, "autoencoder", 64)
    engine.denoise(images)
    assert not any(seen)
    monkeypatch.setattr("service.engine.IO_BINDING_MIN_BYTES", images.nbytes // len(seen))
    seen.clear()
    engine.denoise(images)
    assert all(seen)
