"""The benchmarks: FLOPs, interleaving, agreement of the peers, one quick run; no real clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import agreement, learning, memory, report
from benchmarks.__main__ import main
from benchmarks.harness import Spread, Timing, interleave, latencies
from benchmarks.load import drive
from benchmarks.models import Models, digits_run, prepare_models, tinted_digits, write_plain
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.settings import Settings
from export.rewrite import cost
from service.bundle import MODELS
from tests.support.paths import ROOT
from training.data.digits import load_digits_28
from training.settings import FitSettings

PNG = b"\x89PNG\r\n\x1a\n"


# --- harness


class FakeClock:
    """Time that passes only in a fake candidate or a pause."""

    def __init__(self) -> None:
        self.now: float = 100
        self.calls: list[str] = []

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.calls.append("pause")

    def candidate(self, name: str, *seconds: float) -> Any:
        """A candidate that takes these seconds in turn."""
        durations = iter(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += next(durations)

        return call


def test_candidates_run_in_turn_and_pauses_are_not_counted() -> None:
    clock = FakeClock()
    timings = interleave(
        {"a": clock.candidate("a", 9, 1, 2, 4), "b": clock.candidate("b", 9, 3, 2, 16)},
        rounds=3,
        warmup=1,
        settle=50,
        clock=clock.read,
        sleep=clock.sleep,
    )
    assert clock.calls == ["a", "b"] + ["pause", "a", "pause", "b"] * 3
    assert list(timings["a"].seconds) == [1, 2, 4]
    assert list(timings["b"].seconds) == [3, 2, 16]


def test_ratios_are_taken_round_by_round() -> None:
    # The machine is ten times slower in the last rounds; b takes twice as long as a in each.
    fast, slow = Timing((1, 10, 10)), Timing((2, 20, 20))
    assert fast.speed_over(slow) == Spread(2, 2, 2)
    assert slow.speed_over(fast) == Spread(0.5, 0.5, 0.5)
    assert Timing((1, 1, 4)).speed_over(Timing((3, 1, 8))) == Spread(2, 1, 3)
    assert Timing((1, 2, 4)).rate(8) == Spread(4, 2, 8)
    with pytest.raises(ValueError, match="argument 2"):
        fast.speed_over(Timing((1, 2)))


def test_latencies_count_the_later_calls_of_each_block() -> None:
    clock = FakeClock()
    timings = latencies(
        {"a": clock.candidate("a", 99, *range(1, 6), 99, *range(6, 11))},
        rounds=2,
        block=5,
        clock=clock.read,
        sleep=clock.sleep,
    )
    assert [timing.seconds for timing in timings["a"]] == [(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)]


def test_tables_are_markdown() -> None:
    text = report.table(["runtime", "rate"], [["a", "1"], ["longer one", "1,000"]])
    assert text.splitlines() == [
        "| runtime    |  rate |",
        "| ---------- | ----: |",
        "| a          |     1 |",
        "| longer one | 1,000 |",
    ]
    assert report.rate(Spread(1234.4, 1000, 2000)) == "1,234 (1,000–2,000)"
    assert [report.duration(s) for s in (5e-5, 0.0123, 3)] == ["50 µs", "12.30 ms", "3.00 s"]


# --- load


class Handler(BaseHTTPRequestHandler):
    """Refuses every third request; its responses arrive in several pieces."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200 if len(self.bodies) % 3 else 503)
        self.send_header("Content-Length", "200000")
        self.end_headers()
        self.wfile.write(bytes(200_000))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_load_generator_counts_every_response() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x"
        result = drive(url, b"body", {"A": "b"}, connections=4, requests=30)
        server.shutdown()
    assert (result.requests, result.refused) == (20, 10)
    assert len(result.latencies) == 30 and result.rate == 20 / result.seconds
    assert all(0 < seconds < result.seconds for seconds in result.latencies)
    assert Handler.bodies == [b"body"] * 30


# --- counting


def _graph(
    nodes: list[onnx.NodeProto], row: tuple[int, ...], **weights: tuple[int, ...]
) -> onnx.ModelProto:
    """Nodes from "x", float32 ("N", *row), to "y", with weights of ones."""
    constants = [
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *row])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_strided_convolution() -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[0, 0, 1, 1], kernel_shape=[3, 3]
    )
    (layer,) = cost.layers(_graph([node], (3, 8, 6), w=(5, 3, 3, 3)))
    assert layer.macs == 4 * 3 * 5 * 3 * 9  # positions out × filters × channels × taps
    assert layer.gemm == (12, 27, 5)
    assert (layer.inputs, layer.outputs) == (3 * 8 * 6, 5 * 4 * 3)


def test_a_transposed_convolution() -> None:
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[0, 0, 1, 1], kernel_shape=[3, 3]
    )
    (layer,) = cost.layers(_graph([node], (4, 5, 7), w=(4, 6, 3, 3)))
    assert layer.macs == 5 * 7 * 4 * 6 * 9  # positions in × channels × filters × taps
    assert layer.outputs == 6 * 10 * 14


def test_grouped_convolutions_count_their_own_channels_only() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=4, kernel_shape=[1, 1])
    assert cost.macs(_graph([conv], (4, 3, 3), w=(8, 1, 1, 1))) == 9 * 8
    up = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=4, kernel_shape=[1, 1])
    assert cost.macs(_graph([up], (4, 3, 3), w=(4, 2, 1, 1))) == 9 * 8


def test_matrices() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Gemm", ["r", "b", "c"], ["y"], transB=1),
    ]
    model = _graph(nodes, (7,), a=(7, 5), b=(3, 5), c=(3,))
    assert [layer.macs for layer in cost.layers(model)] == [35, 15]
    assert cost.folded_macs(model) == 50  # the Relu separates them


def test_linear_layers_fold_where_that_is_cheaper() -> None:
    narrow = [
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("Add", ["m", "c"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["y"]),
    ]
    # 8 → 2 → 8 is 32 multiply-adds as two matrices and 64 as one; 2 → 8 → 2 is 32 and 4.
    assert cost.folded_macs(_graph(narrow, (8,), a=(8, 2), c=(2,), b=(2, 8))) == 32
    assert cost.folded_macs(_graph(narrow, (2,), a=(2, 8), c=(8,), b=(8, 2))) == 4


# --- the peers, on one tiny network


TINY = FitSettings.resolve(filters=(4, 6), latent_size=5, seed=3, epochs=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    digits_run(run, TINY, (8, 12, 3))
    with prepare_models(Settings(bundle=Path("none"), run=run)) as prepared:
        yield prepared


def test_the_classic_network_is_counted_as_by_hand(tmp_path: Path) -> None:
    from training.backend import load_tensorflow

    load_tensorflow()
    from training.model import build

    write_plain(tmp_path, build(FitSettings.resolve(), (28, 28, 1))._asdict())
    encoder = 14 * 14 * 32 * 9 + 7 * 7 * 64 * 32 * 9 + 3136 * 16
    start = 16 * 3136 + 7 * 7 * 64 * 64 * 9
    rest = 14 * 14 * 64 * 32 * 9 + 28 * 28 * 32 * 9
    assert cost.macs(tmp_path / "encoder.onnx") == encoder == 1_009_792
    assert cost.macs(tmp_path / "decoder.onnx") == start + rest
    assert cost.macs(tmp_path / "autoencoder.onnx") == encoder + start + rest == 6_704_768
    folded = encoder + 16 * (14 * 14 * 64) + rest
    assert cost.folded_macs(tmp_path / "autoencoder.onnx") == folded == 5_048_960


@pytest.mark.parametrize("model", MODELS)
def test_installed_peers_agree(models: Models, model: str) -> None:
    opened = {peer: peer.open(models, model) for peer in PEERS if not peer.absence(models)}
    differences = agreement.check(models, model, opened)
    assert {OURS, "Keras predict", "TensorFlow XLA", "ONNX Runtime"} <= set(differences)


def test_a_peer_that_computes_something_else_is_caught(models: Models) -> None:
    right = models.engine.denoise

    def wrong(_models: Models, _model: str) -> Any:
        return lambda rows, batch, out: right(rows) * np.float32(1.001)

    peer = Peer("wrong", "numpy", wrong)
    with pytest.raises(agreement.DisagreementError, match="wrong, autoencoder: differs"):
        agreement.check(models, "autoencoder", {peer: wrong(models, "autoencoder")})


def test_a_peer_that_leaves_its_output_unwritten_is_caught(models: Models) -> None:
    def lazy(_models: Models, _model: str) -> Any:
        return lambda rows, batch, out: out

    with pytest.raises(agreement.DisagreementError, match="lazy, encoder: differs"):
        agreement.check(models, "encoder", {Peer("lazy", "numpy", lazy): lazy(models, "encoder")})


def test_an_absent_peer_is_not_installed(models: Models) -> None:
    peer = Peer("x", "surely_not_a_package", lambda models, model: 0)  # type: ignore[arg-type,return-value]
    assert peer.absence(models) == "not installed"


def test_memory_is_measured_in_another_process(models: Models) -> None:
    measured = memory.in_subprocess(models.bundle, "encoder", images=300, calls=2, seed=0)
    assert len(measured["seconds"]) == 2
    assert measured["input_bytes"] == 300 * 8 * 12 * 3 * 4
    assert measured["output_bytes"] == 300 * 5 * 4
    assert measured["extra_bytes"] >= 0


def test_a_quick_comparison_on_colour_pictures(models: Models, tmp_path: Path) -> None:
    """As a user starts it: another process, the layers of a bundle on another shape."""
    arguments = ["engine", "scaling", "--quick", "--image-shape", "16x24x3"]
    arguments += ["--bundle", str(models.bundle), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "trained on the embedded digits, 1 epochs, seed 0" in done.stdout
    assert "| Engine (ours)" in done.stdout and "### One image" in done.stdout
    results = tmp_path / "16x24x3"
    assert [path.name for path in tmp_path.iterdir()] == ["16x24x3"]
    engine = json.loads((results / "engine.json").read_text())
    assert set(engine["results"]) == {"encode", "decode", "denoise"}
    denoise = engine["results"]["denoise"]
    assert {OURS, "Keras predict", "ONNX Runtime", "GEMM peak"} <= set(denoise["peers"])
    assert all(len(facts["seconds"]) == 2 for facts in denoise["peers"].values())
    assert {"cpu", "cores", "flags", "versions", "date"} <= set(engine["machine"])
    first, second = 8 * 12 * 4 * 3 * 9, 4 * 6 * 6 * 4 * 9  # TINY's layers on 16×24×3
    assert engine["multiply_adds"]["encode"]["plain"] == first + second + 4 * 6 * 6 * 5
    counts = engine["multiply_adds"]["denoise"]
    assert 0 < counts["needed"] <= counts["folded"] <= counts["plain"]
    assert set(engine["absent"]) == {p.name for p in PEERS if p.absence(models)}
    assert "too little to gain" in engine["absent"]["Engine int8 (ours)"]  # TINY is too small
    assert (results / "engine.png").read_bytes().startswith(PNG)

    scaling = json.loads((results / "scaling.json").read_text())
    assert [row["images"] for row in scaling["growth"]] == [1, 100, 1000]
    assert scaling["latency"][OURS]["median"] <= scaling["latency"][OURS]["p99"]
    assert (results / "scaling.png").read_bytes().startswith(PNG)


def test_results_of_the_bundles_own_shape_lie_at_the_top(tmp_path: Path) -> None:
    assert Settings(bundle=Path("none"), out=tmp_path).results == tmp_path


@pytest.mark.parametrize("shape", ["64x64", "64x0x3", "big"])
def test_a_bad_image_shape_is_refused(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["engine", "--image-shape", shape])
    assert "HEIGHTxWIDTHxCHANNELS" in capsys.readouterr().err


def test_time_to_quality_is_measured_in_seconds_and_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(bundle=Path("none"), out=tmp_path, quick=True)
    assert learning.run(settings) == {} and "--dataset" in capsys.readouterr().out
    result = learning.run(replace(settings, dataset="digits"))
    assert result == json.loads((tmp_path / "learning.json").read_text())
    assert [moment["epochs"] for moment in result["classic"]] == [1, 2]
    assert [moment["epochs"] for moment in result["standard"]] == [0.5, 1, 1.5, 2]
    assert not result["reached"], "two epochs on a thousand digits are too few"
    for moments in (result["classic"], result["standard"]):
        seconds = [moment["seconds"] for moment in moments]
        assert seconds[0] > 0 and seconds == sorted(seconds)
        assert moments[-1]["val_loss"] < moments[0]["val_loss"]
    ratio = result["standard"][-1]["seconds"] / result["classic"][-1]["seconds"]
    assert result["share_of_the_time"] == pytest.approx(ratio)


def test_digits_in_other_shapes_and_colours() -> None:
    plain = tinted_digits((28, 28, 1), seed=0)
    assert np.array_equal(plain, load_digits_28()[0])
    coloured = tinted_digits((64, 48, 3), seed=0)
    assert coloured.shape == (1797, 64, 48, 3) and coloured.dtype == np.uint8
    strengths = coloured.reshape(1797, -1, 3).max(axis=1)
    assert strengths.min() > 60 and len(np.unique(strengths, axis=0)) > 1000
    assert np.array_equal(coloured, tinted_digits((64, 48, 3), seed=0))


def test_a_bad_run_folder_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", "--quick", "--run", str(tmp_path / "none")]) == 1
    assert "no run folder" in capsys.readouterr().err
