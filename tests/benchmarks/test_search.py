"""The search benchmark: recall by hand, whitening where it must help, the order of the indexes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search
from benchmarks.settings import Settings
from examples import index
from service.bundle import Bundle
from service.engine import Engine
from tests.support.paths import BUNDLE, ROOT
from training.data.digits import load_digits_28
from training.noise.spec import parse_noise

RESULT = ROOT / "benchmarks" / "results" / "search.json"


def test_recall_counts_a_query_s_own_row() -> None:
    index = np.arange(40, dtype=np.float32)[:, None]
    queries = index.copy()
    queries[:10] += 2.25  # four rows lie nearer than a query's own
    shares = search.recall(index=index, queries=queries)
    assert shares == (0.75, 1.0, 1.0)


def test_whitening_weighs_the_directions_by_their_noise() -> None:
    rng = np.random.default_rng(0)
    # Noise hides the first number; the others distinguish the rows.
    loud = np.diag([10.0, 0.1, 0.1])

    def noisy(rows: np.ndarray) -> np.ndarray:
        return rows * 2 + 5 + rng.normal(size=rows.shape) @ loud

    pair, index = rng.normal(size=(2_000, 3)), rng.normal(size=(300, 3))
    queries = noisy(index)
    plain = search.recall(index=index * 2 + 5, queries=queries)
    white = search.whitened(index, queries, index_pair=pair, query_pair=noisy(pair))
    better = search.recall(index=white[0], queries=white[1])
    assert plain[0] < 0.3 and better[0] > 0.6


def test_the_mean_of_noisy_copies_is_the_better_index() -> None:
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
    images, _ = load_digits_28()
    results = dict(
        search.measure(
            Engine.load(BUNDLE, threads=2),
            parse_noise("gaussian:0.5,0.5"),
            clean=images[:400],
            train=images[400:1_000],
            seed=0,
        )
    )
    assert len(results) == 6
    top5 = {name: shares[1] for name, shares in results.items()}
    assert top5["means over 8 noisy copies (examples/index.py)"] > top5["clean images"] + 0.05
    assert top5["pixels, correlation"] > 0.95
    assert all(0 < one <= five <= ten <= 1 for one, five, ten in results.values())


def test_without_a_dataset_it_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search.run(Settings(bundle=BUNDLE, out=tmp_path, quick=True))
    assert "--dataset" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_it_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not BUNDLE.is_dir():
        pytest.skip("no bundles/mnist in this checkout")
    settings = Settings(bundle=BUNDLE, dataset="digits", out=tmp_path, quick=True)
    search.run(settings)
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    assert (result["images"], result["dataset"]) == (settings.sizes.images, "digits")
    for name, shares in result["recall"].items():
        row = next(line for line in lines if line.startswith(f"| {name} "))
        assert f"{100 * shares['5']:.1f} %" in row


def test_the_committed_figures_are_the_shipped_model_s_and_those_that_are_quoted() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result["fingerprint"] == Bundle.open(BUNDLE).manifest.fingerprint
    assert result["images"] == 10_000
    quoted = re.findall(r"(\d+) %", str(index.__doc__))
    rows = ("clean images", "means over 8 noisy copies (examples/index.py)")
    assert quoted == [f"{100 * result['recall'][row]['5']:.0f}" for row in rows]
