"""`evaluate`: a run's figures again, with what can be said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.trained import NOISE, Trained, evaluate, trained  # noqa: F401
from training.backend import load_tensorflow

load_tensorflow()

from training.errors import SettingsError  # noqa: E402
from training.evaluation import text as texts  # noqa: E402
from training.evaluation.assess import Assessment, assess  # noqa: E402
from training.evaluation.measure import table  # noqa: E402
from training.evaluation.summary import evaluation, summarise  # noqa: E402
from training.runs import Run  # noqa: E402


@pytest.fixture(scope="module")
def assessment(trained: Trained) -> Assessment:  # noqa: F811
    return assess([trained.one], dataset=trained.data, levels=[2, 0.5, 1, 0.5])


@pytest.fixture(scope="module")
def result(assessment: Assessment) -> dict[str, Any]:
    return evaluation(summarise(assessment))


def test_it_repeats_the_run_s_own_figures_and_adds_intervals(
    result: dict[str, Any],
    trained: Trained,  # noqa: F811
) -> None:
    kept = Run.load(trained.one).metrics["test"]
    assert (result["n"], result["noise"]) == (kept["n"], NOISE)
    assert result["source"] == "the test split of waves.npz"
    for side in ("input", "output"):
        assert result[side] == pytest.approx(kept[side], rel=1e-4)
        for name, (low, high) in result[f"{side}_intervals"].items():
            assert low < result[side][name] < high
    gain = result["gain"]["psnr"]
    assert gain["mean"] == pytest.approx(result["output"]["psnr"] - result["input"]["psnr"])
    assert gain["low"] < gain["mean"] < gain["high"]
    assert result["own_test_images"]


def test_levels_are_a_curve_through_the_run_s_own_noise(
    result: dict[str, Any],
) -> None:
    assert [level["level"] for level in result["levels"]] == [0.5, 1, 2]
    noises = [level["noise"] for level in result["levels"]]
    assert noises == ["gaussian:0.2,0.125", NOISE, "gaussian:0.2,0.5"]
    noisy = [level["input"]["psnr"]["mean"] for level in result["levels"]]
    assert noisy == sorted(noisy, reverse=True)
    own = result["levels"][1]["output"]["psnr"]
    assert own["mean"] == pytest.approx(result["output"]["psnr"], rel=1e-6)
    assert [own["low"], own["high"]] == pytest.approx(result["output_intervals"]["psnr"])


def test_cases_are_the_extremes(assessment: Assessment, result: dict[str, Any]) -> None:
    psnr = assessment.scores[0].output.psnr
    worst, best = ([case["psnr"] for case in result[side]] for side in ("worst", "best"))
    assert worst == pytest.approx(np.sort(psnr)[:8])
    assert best == pytest.approx(np.sort(psnr)[::-1][:8])
    held = assessment.held
    assert held.labels is not None
    for case in result["worst"]:
        assert case["label"] == held.labels[case["index"]]
        place = assessment.shown.index(case["index"])
        clean, noisy = held.pairs([case["index"]])
        np.testing.assert_array_equal(assessment.clean[place], clean[0])
        np.testing.assert_array_equal(assessment.noisy[place], noisy[0])
        error = np.mean((assessment.scores[0].denoised[place] - clean[0]) ** 2)
        assert -10 * np.log10(error) == pytest.approx(case["psnr"], abs=0.01)


def test_the_latents_are_judged_where_there_are_labels(
    result: dict[str, Any],
    trained: Trained,  # noqa: F811
) -> None:
    latents = result["latents"]
    assert (latents["fitted"], latents["classes"], latents["neighbours"]) == (165, 3, 5)
    assert latents["clean"]["neighbours"]["mean"] > latents["majority"]
    bare = evaluate(trained.one, levels=[])
    assert bare["latents"] is None and bare["levels"] == []
    assert "samples.npz" in bare["source"] and "--dataset" in bare["no_latents"]
    assert bare["output"]["mse"] == pytest.approx(result["output"]["mse"], rel=0.05)


def test_it_is_json_and_can_be_read_by_people(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = texts.evaluation(result)
    psnr, (low, high) = result["output"]["psnr"], result["output_intervals"]["psnr"]
    assert f"{psnr:.2f} [{low:.2f}, {high:.2f}]" in text
    assert "0.5 × the noise" in text and "by 5 neighbours" in text
    assert "own test images" not in text
    assert table({"input": None, "output": result["output"]}).count("\n") == 1


def test_other_noise_and_other_images_are_said_to_be_others(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 8), dtype=np.uint8)
    np.savez(tmp_path / "others.npz", images=images)
    found = evaluate(
        trained.one, dataset=str(tmp_path / "others.npz"), noise="mask:0.2..0.6", levels=[1]
    )
    assert found["noise"] == "mask:0.2..0.6"
    assert found["levels"][0]["noise"] == "mask:0.6"  # one strength, the strongest that it draws
    assert not found["own_test_images"]
    assert "may have trained on some" in texts.evaluation(found)
    assert found["no_latents"] == "others.npz has no labels"


def test_classical_denoisers_are_held_beside_the_run(trained: Trained) -> None:  # noqa: F811
    pytest.importorskip("skimage", reason="the extra `evaluate` is not installed")
    found = evaluate(trained.one, dataset=trained.data, levels=[], classical=["median"])
    (median,) = found["classical"]["methods"]
    ahead = median["run_differences"]["one"]["psnr"]
    ours = found["classical"]["runs"]["one"]["psnr"]["mean"]
    assert ahead["mean"] == pytest.approx(ours - median["psnr"]["mean"], abs=1e-4)
    assert found["classical"]["n"] == 30 and found["classical"]["validation"] == 15
    assert "Median" in texts.evaluation(found)
    json.dumps(found, allow_nan=False)


def test_a_level_that_is_no_level_is_refused(trained: Trained) -> None:  # noqa: F811
    with pytest.raises(SettingsError, match=r"noise level -1"):
        evaluate(trained.one, levels=[-1])
