"""`compare`: runs on the same noisy images, with differences that are paired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.trained import Trained, evaluate, trained  # noqa: F401
from training.backend import load_tensorflow

load_tensorflow()

from training.errors import SettingsError  # noqa: E402
from training.evaluation.assess import Assessment, assess, require_several  # noqa: E402
from training.evaluation.summary import summarise  # noqa: E402
from training.evaluation.text import comparison  # noqa: E402


@pytest.fixture(scope="module")
def assessment(trained: Trained) -> Assessment:  # noqa: F811
    return assess([trained.one, trained.other], dataset=trained.data, levels=[1, 2])


@pytest.fixture(scope="module")
def result(assessment: Assessment) -> dict[str, Any]:
    return summarise(assessment)


def test_differences_are_paired(assessment: Assessment, result: dict[str, Any]) -> None:
    one, other = (score.output.psnr.astype(float) for score in assessment.scores)
    first, second = result["runs"]
    assert first["difference"] is None
    found = second["difference"]["psnr"]
    assert found["mean"] == pytest.approx((other - one).mean())
    half = 1.96 * (other - one).std() / np.sqrt(len(one))
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.15)
    assert second["difference"]["mse"]["mean"] * found["mean"] < 0


def test_each_run_is_measured_as_if_alone(
    result: dict[str, Any],
    trained: Trained,  # noqa: F811
) -> None:
    alone = evaluate(trained.other, dataset=trained.data, levels=[2])
    beside = result["runs"][1]
    assert beside["output"] == pytest.approx(alone["output"])
    assert beside["levels"][1]["psnr"]["mean"] == pytest.approx(
        alone["levels"][0]["output"]["psnr"]["mean"]
    )
    assert beside["latents"]["noisy"] == alone["latents"]["noisy"]
    difference = beside["latents"]["noisy_difference"]["neighbours"]["mean"]
    accuracies = [run["latents"]["noisy"]["neighbours"]["mean"] for run in result["runs"]]
    assert difference == pytest.approx(accuracies[1] - accuracies[0])
    assert result["runs"][0]["latents"]["noisy_difference"] is None


def test_a_copy_is_no_different(trained: Trained, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(trained.one, tmp_path / "one")
    found = summarise(assess([trained.one, copy], levels=[]))
    assert [run["name"] for run in found["runs"]] == ["one", "one (2)"]
    for value in found["runs"][1]["difference"].values():
        assert value == {"mean": 0, "low": 0, "high": 0}
    assert found["no_latents"] and found["runs"][1]["latents"] is None


def test_it_is_json_and_can_be_read_by_people(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = comparison(result)
    found = result["runs"][1]["difference"]["psnr"]
    assert "difference to one, image by image:" in text
    assert f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]" in text


@pytest.mark.parametrize("paths", [["a"], ["a", "a"], ["a", "b", "./a"]])
def test_several_runs_are_needed(paths: list[str]) -> None:
    with pytest.raises(SettingsError, match="two or more different runs"):
        require_several(paths)
