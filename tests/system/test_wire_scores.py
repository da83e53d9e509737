"""Scores over the wire: the client and tritonclient against a real process that has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from denoiser_client import DenoiserClient, RefusedError
from tests.support.processes import Server, require_serving, serving
from tests.support.tiny import TinyNetwork, some_images


@pytest.fixture(scope="module")
def scoring(scored_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_serving()
    settings = {"DENOISER_BUNDLE": str(scored_bundle_path)}
    with serving(tmp_path_factory.mktemp("scoring"), settings=settings) as running:
        yield running


@pytest.mark.parametrize("rows", [0, 1, 600])
def test_the_client_scores_arrays_of_any_length(
    scoring: Server, network: TinyNetwork, rows: int
) -> None:
    images = some_images(rows)
    wanted = network.score(images)
    with DenoiserClient(scoring.url, batch=1000) as client:
        latents, scores = client.run(["latents", "scores"], images).values()
        clean, again = client.run(["denoised", "scores"], images).values()
        np.testing.assert_array_equal(scores, client.score(images))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(latents, network.encode(images), rtol=0, atol=1e-5)
    np.testing.assert_allclose(clean, network.denoise(images), rtol=0, atol=1e-5)


def test_the_client_says_that_a_model_has_no_scores(server: Server) -> None:
    with DenoiserClient(server.url) as client:
        if client.model().get("novelty"):
            pytest.skip("the shipped bundle has scores")
        with pytest.raises(RefusedError, match="novelty entry"):
            client.score(np.zeros((1, 28, 28, 1), np.uint8))


def test_tritonclient_asks_for_scores_by_name(scoring: Server, network: TinyNetwork) -> None:
    images = some_images(7)
    client = triton.InferenceServerClient(scoring.url.removeprefix("http://"))
    try:
        given = triton.InferInput("images", [*images.shape], "FP32")
        given.set_data_from_numpy(images)
        wanted = [triton.InferRequestedOutput(name) for name in ("scores", "latents")]
        answer = client.infer("encoder", [given], outputs=wanted)
        unasked = client.infer("encoder", [given])
    finally:
        client.close()
    np.testing.assert_allclose(answer.as_numpy("scores"), network.score(images), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        answer.as_numpy("latents"), network.encode(images), rtol=0, atol=1e-5
    )
    assert unasked.as_numpy("scores") is None
