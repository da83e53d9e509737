"""Make `tests/data` again: `python -m tests.support.make_data`.

The bundles and graphs come out as the same bytes each time; the runs are trained, so their weights
depend on the machine. Needs `onnx` and TensorFlow, so that the tests that use the data do not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common.arrays import Array
from service.bundle import NOVELTY
from tests.support.paths import DATA
from tests.support.tiny import (
    GREY,
    LATENT_SIZE,
    NAMES,
    NOVELTY_FACTS,
    TinyNetwork,
    seal,
    write_bundle,
)
from tests.support.trained import NOISE, waves

Shapes = Mapping[str, Sequence[int | str]]


class DrawnNetwork(TinyNetwork):
    """A tiny network whose ONNX files are built node by node."""

    def onnx(self, name: str) -> bytes:
        """The ONNX file of the encoder, decoder or autoencoder."""
        result = {"encoder": "latents", "decoder": "images", "autoencoder": "denoised"}[name]
        source = "latents" if name == "decoder" else "images"
        latents = {"encoder": "latents", "decoder": "latents"}.get(name, "code")
        encode = [
            helper.make_node("Reshape", ["images", "pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "down"], [latents]),
        ]
        decode = [
            helper.make_node("MatMul", [latents, "up"], ["sums"]),
            helper.make_node("Sigmoid", ["sums"], ["spread"]),
            helper.make_node("Reshape", ["spread", "shape"], [result]),
        ]
        nodes = {"encoder": encode, "decoder": decode, "autoencoder": encode + decode}[name]
        constants = {
            "pixels": np.array([-1, len(self.down)]),
            "down": self.down,
            "up": self.up,
            "shape": np.array([-1, *self.image_shape]),
        }
        used = {tensor for node in nodes for tensor in node.input}
        rows = {"images": self.image_shape, "denoised": self.image_shape, "latents": (LATENT_SIZE,)}
        return model(
            "tiny",
            nodes,
            inputs={source: ["N", *rows[source]]},
            outputs={result: ["N", *rows[result]]},
            constants={key: value for key, value in constants.items() if key in used},
        )


def model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Shapes,
    outputs: Shapes,
    constants: Mapping[str, Array] | None = None,
) -> bytes:
    """A checked ONNX file of float32 tensors."""
    graph = helper.make_graph(
        nodes,
        name,
        *(
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, row) for key, row in end.items()]
            for end in (inputs, outputs)
        ),
        [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


ROWS: Shapes = {"images": ["N", *GREY], "latents": ["N", LATENT_SIZE], "denoised": ["N", *GREY]}


def novelty() -> bytes:
    """`TinyNetwork.score`, for grey images."""
    nodes = [
        helper.make_node("Sub", ["images", "denoised"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "pixels"], ["distance"], keepdims=0),
        helper.make_node("ReduceMean", ["latents", "row"], ["level"], keepdims=0),
        helper.make_node("Add", ["distance", "level"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["scores"]),
    ]
    constants = {"pixels": np.array([1, 2, 3]), "row": np.array([1])}
    return model("novelty", nodes, inputs=ROWS, outputs={"scores": ["N"]}, constants=constants)


def largest() -> bytes:
    """A novelty score that is an image's largest value: simple, and its own for each image."""
    node = helper.make_node("ReduceMax", ["images", "axes"], ["scores"], keepdims=0)
    constants = {"axes": np.array([1, 2, 3])}
    return model("largest", [node], inputs=ROWS, outputs={"scores": ["N"]}, constants=constants)


def identity() -> bytes:
    """A model that does not say how wide its rows are."""
    node = helper.make_node("Identity", ["rows"], ["same"])
    return model("open", [node], inputs={"rows": ["N", "W"]}, outputs={"same": ["N", "W"]})


def write_bundles(folder: Path) -> None:
    """The bundles `grey`, `colour` and `scored` (grey with a novelty score)."""
    for image_shape, name in NAMES.items():
        network = TinyNetwork.committed(image_shape)
        write_bundle(folder / name, DrawnNetwork(image_shape, network.down, network.up))
    scored = Path(shutil.copytree(folder / NAMES[GREY], folder / "scored"))
    (scored / NOVELTY).write_bytes(novelty())
    seal(scored, novelty={"float32": NOVELTY_FACTS})


def write_models(folder: Path) -> None:
    """Single graphs that a test needs."""
    folder.mkdir(parents=True)
    (folder / "largest.onnx").write_bytes(largest())
    (folder / "open.onnx").write_bytes(identity())


def write_runs(folder: Path) -> None:
    """The runs `tiny` (8×8 noise), and `one` and `other` (`waves`), without their figures."""
    from training.backend import load_tensorflow

    load_tensorflow()
    from training.fit import fit
    from training.settings import FitSettings

    folder.mkdir(parents=True)
    noise, labelled = folder / "noise.npz", folder / "waves.npz"
    np.savez(noise, images=np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    images, labels = waves()
    np.savez_compressed(labelled, images=images, labels=labels)
    tiny = FitSettings.resolve(
        dataset=str(noise), filters=(3, 5), latent_size=6, batch_size=16, epochs=1
    )
    one = FitSettings.resolve(
        dataset=str(labelled),
        noise=NOISE,
        filters=(6,),
        latent_size=5,
        batch_size=16,
        epochs=3,
        learning_rate=0.01,
    )
    for name, settings in {
        "tiny": tiny,
        "one": one,
        "other": replace(one, epochs=12, seed=1),
    }.items():
        fit(settings, folder / name, verbose=0)
        shutil.rmtree(folder / name / "figures")
    noise.unlink()


def main(folder: Path = DATA) -> None:
    """Write everything anew."""
    for name, write in {
        "bundles": write_bundles,
        "models": write_models,
        "runs": write_runs,
    }.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        write(folder / name)


if __name__ == "__main__":
    main()
