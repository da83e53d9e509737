"""A real run becomes a bundle, or nothing, through `export_run` and `python -m export`."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from common.publishing import TargetExistsError
from export import __main__ as command
from export import bundling, card, convert
from export.bundling import export_run
from export.errors import NetworkError, ParityError
from service.bundle import MODELS, Bundle, write_manifest
from service.engine import Engine
from tests.support.paths import ROOT
from training.errors import RunError
from training.runs import Run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny run; only to be read."""
    out = tmp_path_factory.mktemp("exported") / "tiny"
    export_run(tiny_run, out)
    return out


@pytest.fixture
def perturbed(monkeypatch: pytest.MonkeyPatch) -> str:
    """One weight of the decoder, a thousandth too large, on its way into the file."""
    real = convert.graphs

    def perturb(model: Any, name: str, *, metadata: dict[str, str]) -> convert.Graphs:
        graphs = real(model, name, metadata=metadata)
        if name == "decoder":
            weights = graphs.served.graph.initializer
            tensor = next(t for t in weights if t.name.endswith(".bias"))
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] += 1e-3
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return graphs

    monkeypatch.setattr(convert, "graphs", perturb)
    return "decoder"


def test_the_bundle_is_whole_and_computes_what_keras_computes(
    tiny_run: Path, exported: Path
) -> None:
    run, bundle = Run.load(tiny_run), Bundle.open(exported)
    assert names(exported) == sorted(
        [f"{m}.onnx" for m in MODELS] + ["golden.npz", "parity.json", "manifest.json", "README.md"]
    )
    manifest = bundle.manifest
    assert (manifest.name, manifest.image_shape, manifest.latent_size) == ("tiny", (8, 8, 1), 6)
    assert set(manifest.files) == {*names(exported)} - {"manifest.json", "README.md"}
    assert manifest.training == run.config
    assert manifest.quality == run.metrics
    assert manifest.parity["comparisons"] >= 60
    assert max(manifest.parity["largest_difference"].values()) <= 1e-5
    assert set(manifest.tools) >= {"tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime"}
    engine = Engine.load(exported, threads=2)
    noisy = run.samples().noisy
    expected = run.models().autoencoder([noisy], training=False).numpy()
    np.testing.assert_allclose(engine.denoise(noisy), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(bundle.golden()["images"], noisy[:16])


def test_the_manifest_is_written_once(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[list[str]] = []

    def note(folder: Path, **facts: Any) -> Any:
        written.append(names(folder))
        return write_manifest(folder, **facts)

    monkeypatch.setattr(bundling, "write_manifest", note)
    export_run(tiny_run, tmp_path / "out")
    assert written == [sorted({*names(tmp_path / "out")} - {"manifest.json", "README.md"})]


def test_the_card_has_the_manifests_facts(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    text = (exported / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny\n")
    for fact in (
        manifest.fingerprint,
        "8×8×1 images, latents of 6 numbers",
        "gaussian:0.5,0.5",
        f"{manifest.parity['comparisons']} comparisons",
        f"{manifest.quality['test']['output']['mse']:.4f}",
        "not included: too little to gain",
        "Novelty score**: not included",
        "Source of the data: not recorded",
    ):
        assert fact in text, fact
    (exported / "README.md").write_text(text + "edited\n", encoding="utf-8")
    assert Bundle.open(exported).manifest == manifest
    (exported / "README.md").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", ["mnist", "classic"])
def test_the_shipped_cards_are_those_of_their_manifests(name: str) -> None:
    folder = ROOT / "bundles" / name
    text = card.text(Bundle.open(folder).manifest)
    assert (folder / card.CARD).read_text(encoding="utf-8") == text
    assert "CC BY-SA" in text and "AUROC for black images" in text


def test_a_folder_with_a_known_name_gets_no_credit(exported: Path) -> None:
    manifest = Bundle.open(exported).manifest
    data = {**manifest.training["data"], "name": "mnist"}
    renamed = replace(manifest, training={**manifest.training, "data": data})
    assert "Source of the data: not recorded" in card.text(renamed)
    builtin = replace(
        manifest, training={**renamed.training, "data": {**data, "source": "builtin"}}
    )
    assert "CC BY-SA" in card.text(builtin)


def test_a_bundle_names_no_path_of_the_machine(tiny_run: Path, exported: Path) -> None:
    for name, data in contents(exported).items():
        for trace in (str(tiny_run.parent), str(exported.parent), str(ROOT)):
            assert trace.encode() not in data, name


def test_the_same_run_twice_has_the_same_fingerprint(
    tiny_run: Path, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="export")
    again = export_run(tiny_run, tmp_path / "again")
    first = Bundle.open(exported).manifest
    assert again.fingerprint == first.fingerprint
    for model in MODELS:
        assert again.files[f"{model}.onnx"] == first.files[f"{model}.onnx"]
    assert caplog.messages[-1] == f"{tmp_path / 'again'}: fingerprint {first.fingerprint}"
    assert any("held-out noisy" in line for line in caplog.messages)  # the table
    assert names(tmp_path) == ["again"]


def test_one_perturbed_weight_stops_the_export(
    tiny_run: Path, tmp_path: Path, perturbed: str
) -> None:
    with pytest.raises(ParityError) as caught:
        export_run(tiny_run, tmp_path / "out")
    assert caught.value.received.startswith((perturbed, f"{perturbed}(encoder)"))
    assert "batch" in caught.value.received
    assert names(tmp_path) == []


def test_the_command_reports_a_failed_parity_in_one_line(
    tiny_run: Path, tmp_path: Path, perturbed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tiny_run), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"export: {perturbed}")
    assert len(printed.err.splitlines()) == 1
    assert "TOO LARGE" in printed.out  # the table shows where
    assert names(tmp_path) == []


def test_an_existing_target_is_refused_and_left_alone(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"no manifest\.json"):
        export_run(tiny_run, tmp_path / "out", overwrite=True)
    assert command.main([str(tiny_run), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("export: ")
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}
    assert names(tmp_path) == ["out"]


def test_overwriting_replaces_the_whole_bundle(
    tiny_run: Path, exported: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    (out / "old-only.onnx").write_text("x")
    export_run(tiny_run, out, overwrite=True)
    assert names(out) == names(exported)
    Engine.load(out, threads=1)
    assert names(tmp_path) == ["out"]


def test_a_failing_overwrite_keeps_the_old_bundle(
    tiny_run: Path, exported: Path, tmp_path: Path, perturbed: str
) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    before = contents(out)
    assert command.main([str(tiny_run), "--out", str(out), "--overwrite"]) == 1
    assert contents(out) == before
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("damage", ["missing", "metrics.json", "encoder.keras", "samples.npz"])
def test_a_missing_or_damaged_run(
    tiny_run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    if damage != "missing":
        shutil.copytree(tiny_run, run)
        (run / damage).write_bytes(b"damaged")
    with pytest.raises(RunError):
        export_run(run, tmp_path / "out")
    assert command.main([str(run), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("export: ")
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["runs/x"])
    assert caught.value.code == 2
    assert "--out" in capsys.readouterr().err


def start(run: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "export", str(run), "--out", str(out), *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


# The file whose appearance ends the child; each export writes all of these, in this order.
MOMENTS = ["", "autoencoder.onnx", "parity.json", "manifest.json"]


def test_kill_9_at_any_moment_leaves_no_bundle_or_a_whole_one(
    tiny_run: Path, exported: Path, tmp_path: Path
) -> None:
    """Real exports side by side, each killed as soon as its hidden folder holds one more file."""
    children = {}
    for k, moment in enumerate(MOMENTS):
        out = tmp_path / f"out{k}"
        if k % 2:  # every second one overwrites a whole bundle
            shutil.copytree(exported, out)
        children[start(tiny_run, out, "--overwrite")] = (out, moment)
    killed, waiting, end = 0, dict(children), time.monotonic() + 120
    while waiting:
        assert time.monotonic() < end
        for child, (out, moment) in list(waiting.items()):
            stage = out.with_name(f".{out.name}.partial")
            if (stage / moment).exists() and child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
            if child.poll() is not None:
                killed += child.returncode == -signal.SIGKILL
                del waiting[child]
        time.sleep(0.0005)
    errors = {child.returncode: child.communicate()[1] for child in children}
    assert set(errors) <= {-signal.SIGKILL, 0}, errors
    assert killed >= len(MOMENTS) - 1  # the last moment is short: that export may have finished
    fingerprint = Bundle.open(exported).manifest.fingerprint
    left = 0
    for k, (out, _) in enumerate(children.values()):
        left += out.with_name(f".{out.name}.partial").exists()
        if k % 2 or out.exists():
            assert Engine.load(out, threads=1).manifest.fingerprint == fingerprint
    assert left >= len(MOMENTS) - 1  # there was something half-written to hide
    for out, _ in list(children.values())[2:4]:
        export_run(tiny_run, out, overwrite=True)  # clears away what the killed one left
        assert not out.with_name(f".{out.name}.partial").exists()
        Engine.load(out, threads=1)


# --- networks that cannot be exported


def changed_run(run: Path, folder: Path, change: Callable[[list[Any]], None]) -> Path:
    """A copy of a run whose decoder's weights, and so the autoencoder's, are changed."""
    shutil.copytree(run, folder)
    models = Run.load(folder).models()
    for name in ("decoder", "autoencoder"):
        weights = getattr(models, name).get_weights()
        change(weights)
        getattr(models, name).set_weights(weights)
        getattr(models, name).save(folder / f"{name}.keras")
    return folder


def white(weights: list[Any]) -> None:
    """The last layer: no sums, a bias that saturates the sigmoid."""
    weights[-2][...], weights[-1][...] = 0, 50


def nan(weights: list[Any]) -> None:
    weights[-1][0] = np.nan


def infinite(weights: list[Any]) -> None:
    weights[-2][...] = np.inf


@pytest.mark.parametrize(
    ("change", "problem"),
    [(white, "output differs by 0e"), (nan, "weights that are NaN"), (infinite, "weights that")],
)
def test_a_collapsed_or_diverged_network_is_refused(
    tiny_run: Path,
    tmp_path: Path,
    change: Callable[[list[Any]], None],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = changed_run(tiny_run, tmp_path / "run", change)
    with pytest.raises(NetworkError, match=problem):
        export_run(run, tmp_path / "out")
    assert command.main([str(run), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert problem in printed.err and len(printed.err.splitlines()) == 1
    assert "nodes" not in printed.out  # refused before any conversion
    assert names(tmp_path) == ["run"]


def test_a_network_that_onnx_cannot_express_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    """A kernel of 1 at stride 2: tf2onnx writes a ConvTranspose with negative pads."""
    from training.model import ModelSettings, classic

    shutil.copytree(tiny_run, tmp_path / "run")
    settings = ModelSettings(image_shape=(8, 8, 1), filters=(8,), latent_size=6, kernel_size=1)
    models, rng = classic(settings), np.random.default_rng(0)
    for weights in models.autoencoder.weights:
        weights.assign(rng.normal(0, 0.5, weights.shape))
    for name, model in models._asdict().items():
        model.save(tmp_path / "run" / f"{name}.keras")
    with pytest.raises(NetworkError, match=r"autoencoder, which cannot be converted \(.*negative"):
        export_run(tmp_path / "run", tmp_path / "out")
    assert names(tmp_path) == ["run"]


# --- what --overwrite may replace


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("out", ["run", ".", "bundle", "link", "file", "dangling"])
def test_nothing_but_a_bundle_is_replaced(
    tiny_run: Path, exported: Path, tmp_path: Path, out: str, overwrite: bool
) -> None:
    """The run itself, its parent, a bundle that holds it, links, files: before any work."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    if out == "bundle":
        shutil.copytree(exported, tmp_path / "bundle")
        run = run.rename(tmp_path / "bundle" / "run")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TargetExistsError):
        export_run(run, tmp_path / out, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before
