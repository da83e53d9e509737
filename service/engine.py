"""The engine: the models of a bundle as one function on arrays of any length.

A call is split into chunks whose activations stay in a core's cache, and each chunk runs on a
session of one thread, so that the cores work on different images instead of sharing one
convolution. Only calls of a few large images that follow each other immediately, with nothing else
running, use all cores (`service.runtime.cores`).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from common.arrays import Array, Floats
from common.cores import usable_cores
from common.errors import BundleDamagedError, InputError, OptionError, RangeError
from service.bundle import FLOAT32, INT8, MODELS, Bundle, Manifest, PrecisionName
from service.runtime import fork, validation
from service.runtime.cores import AllCores
from service.runtime.pool import Call, Pool, chunk_count, chunk_slice
from service.runtime.session import Session

# Images in a chunk where the manifest has no number for the model (export/rewrite/cost.py: rule).
CHUNK = 16

# Bytes of a chunk's result from which the model writes directly to its destination. For results
# larger than a core's cache that saves 1 % of the time; for smaller ones the binding costs more
# than the copy (LOG.md).
IO_BINDING_MIN_BYTES = 1 << 20

# Golden answers were computed on another machine, perhaps with other vector units: float32 sums in
# another order differ in the last digits, a damaged model differs in the first. In int8 such a last
# digit can round an activation to its neighbour: one runtime with and without its optimisations
# differed by 3e-5, ONNX Runtime from OpenVINO by 0.057 in the worst pixel.
GOLDEN_TOLERANCE = {FLOAT32: 1e-4, INT8: 0.08}

ImageDtype = Literal["float32", "uint8"]
OutputName = Literal["latents", "denoised", "scores", "images"]
IMAGES = ("denoised", "images")  # outputs that are images
_E = TypeVar("_E", bound="Engine")


class _Step(NamedTuple):
    """One model of a call: the tensors it reads, in its order, and the one it computes."""

    model: str
    inputs: tuple[str, ...]
    output: OutputName


# What computes an output alone, and what computes several, or scores, in one pass.
_SINGLE = {
    "latents": _Step("encoder", ("images",), "latents"),
    "denoised": _Step("autoencoder", ("images",), "denoised"),
    "images": _Step("decoder", ("latents",), "images"),
}
_PASS = (
    _SINGLE["latents"],
    _Step("decoder", ("latents",), "denoised"),
    _Step("novelty", ("images", "latents", "denoised"), "scores"),
)


class _Plan(NamedTuple):
    """How certain outputs are computed."""

    source: str  # "images" or "latents"
    steps: tuple[_Step, ...]
    row_shapes: dict[OutputName, tuple[int, ...]]  # of the requested outputs
    chunk: int  # rows, at most
    multithreaded: bool  # whether a model can use several threads for one image


class Engine:
    """Encode, decode, denoise and score with the models of one bundle. Create with `Engine.load`.

    Safe to call from many threads. Apart from its output, a call allocates one chunk's activations
    per thread, whatever N is: about 1 MB for 28×28 images, 60 MB for 64×64×3.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        precision: PrecisionName = FLOAT32,
    ) -> None:
        self.manifest: Manifest = bundle.manifest.at(precision)
        self.precision = precision
        self.threads = threads or usable_cores()
        self._sessions = {
            name: Session(bundle.model(name, precision), threads=self.threads) for name in MODELS
        }
        if novelty := bundle.novelty(precision):
            self._sessions["novelty"] = Session(novelty)
        self._plans: dict[frozenset[OutputName], _Plan] = {}
        self._pool = Pool(self.threads)
        self._all_cores = AllCores()
        weakref.finalize(self, self._pool.close)

    @classmethod
    def load(
        cls: type[_E],
        path: str | Path,
        *,
        threads: int | None = None,
        precision: PrecisionName = FLOAT32,
    ) -> _E:
        """Open a bundle, verify its hashes, replay its golden answers.

        Args:
            path: the bundle's folder.
            threads: worker threads; all usable cores by default.
            precision: "float32", or "int8" where the bundle has it: faster, slightly less exact,
                and with latents of its own fingerprint.

        Raises:
            BundleError: the bundle is missing, damaged, of a newer schema or without the precision.
        """
        bundle = Bundle.open(path)
        engine = cls(bundle, threads=threads, precision=precision)
        engine._replay(bundle)
        return engine

    @property
    def fingerprint(self) -> str:
        """The identity of the latents that this engine computes: 64 hex digits."""
        return self.manifest.fingerprint

    def encode(self, images: Array, *, out: Array | None = None) -> Array:
        """Images → latents, float32 (N, latent_size), unbounded. Arguments as in `run`."""
        return self.run(("latents",), images=images, out=_named("latents", out))["latents"]

    def decode(
        self, latents: Array, *, dtype: ImageDtype = "float32", out: Array | None = None
    ) -> Array:
        """Latents → images (N, H, W, C) of `dtype`. Arguments as in `run`."""
        call = self.run(("images",), latents=latents, dtype=dtype, out=_named("images", out))
        return call["images"]

    def denoise(
        self, images: Array, *, dtype: ImageDtype = "float32", out: Array | None = None
    ) -> Array:
        """Noisy images → clean ones, (N, H, W, C) of `dtype`. Arguments as in `run`.

        `out` may be `images` itself, which are then denoised in place.
        """
        call = self.run(("denoised",), images=images, dtype=dtype, out=_named("denoised", out))
        return call["denoised"]

    def score(self, images: Array) -> Array:
        """Novelty score of each image, float32 (N,) in [0, 1]: 1 = unlike the training data.

        The score is the share of the run's validation images, corrupted as in training, that are
        less unusual: 0.5 is typical, 0.99 is more unusual than 99 in 100. Images beyond all of them
        keep their order between the last step and 1. The manifest's `novelty` has the method, a
        threshold and detection rates.

        Raises:
            OptionError: the bundle has no novelty model. ShapeError, DtypeError, RangeError.
        """
        return self.run(("scores",), images=images)["scores"]

    def run(
        self,
        outputs: Sequence[OutputName],
        *,
        images: Array | None = None,
        latents: Array | None = None,
        dtype: ImageDtype = "float32",
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Compute the named outputs of one input, in one pass over it.

        "denoised" alone runs the autoencoder. Several outputs, and scores, run the encoder and then
        the decoder on each chunk; "denoised" is then what the decoder gives. It equals the
        autoencoder's result where the bundle's `parity` says so, and else differs by less than the
        export's tolerance.

        Args:
            outputs: of `images`: any of "latents", "denoised", "scores"; of `latents`: "images".
            images: uint8 (N, H, W, C) in 0–255, or float32 (N, H, W, C) in [0, 1]; any N, also 0.
            latents: float32 (N, latent_size), finite; only for the output "images".
            dtype: of "denoised" and "images": "float32" in [0, 1], or "uint8" in 0–255, rounded.
            out: arrays to write outputs to, by name, as numpy's `out`: of the output's shape and
                dtype, not overlapping the input (but "denoised" may be `images` itself). Memory
                that the process already has is faster than new pages (benchmarks/LOG.md).

        Returns:
            name → float32 (N, latent_size) "latents", (N, H, W, C) of `dtype` "denoised" or
            "images", float32 (N,) "scores"; the arrays of `out` where they were passed. After an
            error these may be partly written.

        Raises:
            OptionError: unknown output, or scores without a novelty model.
            ShapeError, DtypeError, RangeError.
        """
        future = self.submit(outputs, images=images, latents=latents, dtype=dtype, out=out)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # it holds the exception, whose traceback holds this frame

    def submit(
        self,
        outputs: Sequence[OutputName],
        *,
        images: Array | None = None,
        latents: Array | None = None,
        dtype: ImageDtype = "float32",
        out: Mapping[str, Array] | None = None,
    ) -> Future[dict[str, Array]]:
        """Start what `run` computes, and return at once with a future of its result.

        A call of one chunk is computed before this returns; longer ones go to the pool. Cancelling
        the future drops the chunks that have not begun. `out` is in use until the future is done.

        Raises:
            OptionError, ShapeError, DtypeError: at once. RangeError: from the future.
        """
        plan = self._plan(outputs)
        received, other = (images, latents) if plan.source == "images" else (latents, images)
        if other is not None:
            raise OptionError(f"the wrong input for {', '.join(outputs)}", expected=plan.source)
        rows = validation.checked_rows(plan.source, received, self.manifest)
        results = _allocate(plan, len(rows), dtype=dtype, out=out)
        check = validation.unit_images if plan.source == "images" else validation.finite_latents
        chunks = chunk_count(len(rows), plan.chunk, threads=self.threads)
        bound = {name: result for name, result in results.items() if _can_bind(result, chunks)}

        def run_chunk(index: int) -> None:
            chunk = chunk_slice(index, rows=len(rows), chunks=chunks)
            batch = check(rows[chunk])
            targets = {
                name: result[chunk]
                for name, result in bound.items()
                if not np.may_share_memory(result[chunk], batch)
            }
            tensors = {plan.source: batch}
            alone = plan.multithreaded and chunks == 1 and not self._pool.busy
            with self._all_cores.claim() if alone else nullcontext(False) as all_cores:
                for model, inputs, output in plan.steps:
                    tensors[output] = self._sessions[model](
                        *[tensors[name] for name in inputs],
                        multithreaded=all_cores,
                        out=targets.get(output),
                    )
            for name, result in results.items():
                if name not in targets:
                    exact = result.dtype != np.uint8
                    result[chunk] = tensors[name] if exact else np.rint(tensors[name] * 255)

        if chunks > 1:
            return self._pool.submit(Call(run_chunk, chunks=chunks, result=results))
        future: Future[dict[str, Array]] = Future()
        try:
            if chunks:
                fork.hold_off(run_chunk, 0)
            future.set_result(results)
        except RangeError as exc:
            future.set_exception(exc)
        return future

    def _plan(self, outputs: Sequence[OutputName]) -> _Plan:
        """The models that compute `outputs`, worked out once for each set of names."""
        names = frozenset(outputs)
        if names in self._plans:
            return self._plans[names]
        if not names or not (names <= {"latents", "denoised", "scores"} or names == {"images"}):
            raise OptionError(
                f"outputs {', '.join(sorted(map(str, names))) or '()'}",
                expected="any of latents, denoised, scores of images; or images of latents",
            )
        if "scores" in names and "novelty" not in self._sessions:
            raise OptionError(
                f"a score from the bundle {self.manifest.name}, which has no novelty model",
                expected="a bundle with a novelty entry in its manifest",
                hint="Leave the score out, or export the run again; train an older run first.",
            )
        steps, model = _PASS[: 3 if "scores" in names else 2], "autoencoder"
        if len(names) == 1 and "scores" not in names:
            steps = (_SINGLE[next(iter(names))],)
            model = steps[0].model
        shapes = {step.output: self._sessions[step.model].row_shape for step in steps}
        plan = self._plans[names] = _Plan(
            steps[0].inputs[0],
            steps,
            row_shapes={name: shape for name, shape in shapes.items() if name in names},
            chunk=self.manifest.chunks.get(model, CHUNK),
            multithreaded=any(self._sessions[step.model].multithreaded for step in steps),
        )
        return plan

    def _replay(self, bundle: Bundle) -> None:
        """Compute the golden answers again; a bundle that gives other results is not served."""
        golden = bundle.golden(self.precision)
        tolerance = GOLDEN_TOLERANCE[self.precision]
        try:
            results = {
                "latents": self.encode(golden["images"]),
                "decoded": self.decode(golden["latents"]),
                "denoised": self.denoise(golden["images"]),
            }
        except InputError as exc:
            raise BundleDamagedError(
                f"{bundle.path}: its golden inputs do not fit it ({exc.received})",
                expected=exc.expected,
                hint="Export the run again, or restore the bundle.",
            ) from exc
        for name, result in results.items():
            difference = _relative_difference(result, golden[name])
            if not difference <= tolerance:
                raise BundleDamagedError(
                    f"{bundle.path}: golden {name} differ by {difference:.2e}",
                    expected=f"at most {tolerance:.0e} of their largest value",
                    hint="The models do not compute what they did at export: restore the bundle.",
                )


def _allocate(
    plan: _Plan, rows: int, *, dtype: ImageDtype, out: Mapping[str, Array] | None
) -> dict[str, Array]:
    """The arrays to fill, by name: those of `out`, checked, else new ones."""
    validation.check_image_dtype(dtype)
    results: dict[str, Array] = {}
    for name, row_shape in plan.row_shapes.items():
        shape, result_dtype = (rows, *row_shape), dtype if name in IMAGES else "float32"
        if out is not None and name in out:
            validation.check_out(out[name], shape, np.dtype(result_dtype))
            results[name] = out[name]
        else:
            results[name] = np.empty(shape, result_dtype)
    if out is not None and (unknown := out.keys() - results.keys()):
        raise OptionError(
            f"out for {', '.join(sorted(unknown))}", expected=f"out for {', '.join(results)}"
        )
    return results


def _named(name: str, out: Array | None) -> dict[str, Array] | None:
    """`out` of a single output, as `run` takes it."""
    return None if out is None else {name: out}


def _can_bind(result: Array, chunks: int) -> bool:
    """Whether the model can write to `result` directly, and that is faster than a copy."""
    if result.dtype != np.float32 or not result.flags.c_contiguous:
        return False
    return result.nbytes >= chunks * IO_BINDING_MIN_BYTES


def _relative_difference(result: Array, golden: Floats) -> float:
    """The largest difference, divided by the largest golden value if above 1; inf, NaN: unequal."""
    if result.shape != golden.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(golden).max(initial=0.0)))
    return float(np.abs(result - golden).max(initial=0.0)) / scale
