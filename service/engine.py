"""The engine: a bundle as functions on arrays of any length.

Two things make it faster than one big `InferenceSession.run`: a call is split into chunks whose
activations stay in a core's cache, and each chunk runs on a one-thread session, so cores work on
different images instead of sharing one convolution. Only calls of a few large images that follow
each other at once, alone in the engine, run on all cores.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from common.arrays import Array
from common.errors import BundleDamagedError, InputError, OptionError, RangeError
from service.bundle import FLOAT32, INT8, MODELS, Bundle, Manifest, PrecisionName
from service.runtime import validation
from service.runtime.cores import AllCores
from service.runtime.pool import Call, Pool, chunk_count, chunk_slice, usable_cores
from service.runtime.session import Session

# Images in one chunk where the manifest names no number (export/rewrite/cost.py has the rule).
CHUNK = 16

# Bytes of a chunk's output from which the model writes it in place (IO binding). Beyond a core's
# cache that saves 1 % of the time; below, binding costs more than a copy (benchmarks/LOG.md).
IO_BINDING_MIN_BYTES = 1 << 20

# Golden outputs were computed on another machine, perhaps with other vector units: float32 sums in
# another order differ in the last digits, a damaged model differs in the first. In int8 such a last
# digit can round an activation to its neighbour: one runtime with and without its optimisations
# differed by 3e-5, ONNX Runtime from OpenVINO by 0.057 in the worst pixel.
GOLDEN_TOLERANCE = {FLOAT32: 1e-4, INT8: 0.08}

ImageDtype = Literal["float32", "uint8"]
OutputName = Literal["latents", "denoised", "scores", "images"]
_E = TypeVar("_E", bound="Engine")


class _Step(NamedTuple):
    """One model of a call: the tensors that it reads, and the one that it makes."""

    output: str
    session: Session
    inputs: tuple[str, ...]


class Engine:
    """Encode, decode, denoise and score with the models of one bundle.

    Safe to call from many threads. Apart from its output, a call allocates one chunk's activations
    per thread, whatever N is: about a megabyte for 28×28 images, 60 for 64×64×3. Make one with
    `Engine.load`.
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
        novelty = bundle.novelty(precision)
        self._novelty = Session(novelty) if novelty else None
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
        """Open a bundle, verify its hashes, replay its golden outputs.

        Args:
            path: the bundle's folder.
            threads: worker threads; all usable cores by default.
            precision: "float32", or "int8" where the bundle has it: faster, a little less exact,
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
        """The identity of the latents that this engine makes: 64 hex digits."""
        return self.manifest.fingerprint

    def encode(self, images: Array, *, out: Array | None = None) -> Array:
        """Images to latents.

        Args:
            images: uint8 (N, H, W, C) in 0..255, or float32 (N, H, W, C) in [0, 1]; any N, also 0.
            out: an array of the result's shape and dtype to write it to, as in numpy; it shares no
                memory with the input. Memory that the process already has is faster than fresh
                memory, which the operating system has to clear (benchmarks/LOG.md).

        Returns:
            float32 (N, latent_size), unbounded; `out` where it is passed. After an error `out`
            may hold a part of the result.

        Raises:
            ShapeError, DtypeError, RangeError.
        """
        return self._one("latents", "images", images, out=out)

    def decode(
        self, latents: Array, *, dtype: ImageDtype = "float32", out: Array | None = None
    ) -> Array:
        """Latents to images.

        Args:
            latents: float32 (N, latent_size), finite.
            dtype: "float32" for images in [0, 1], "uint8" for 0..255, rounded.
            out: as in `encode`.

        Returns:
            (N, H, W, C) of that dtype.
        """
        return self._one("images", "latents", latents, dtype=dtype, out=out)

    def denoise(
        self, images: Array, *, dtype: ImageDtype = "float32", out: Array | None = None
    ) -> Array:
        """Noisy images to clean ones: arguments as in `encode`, result as in `decode`.

        `out` may be `images` itself, which are then denoised in place.
        """
        return self._one("denoised", "images", images, dtype=dtype, out=out)

    def score(self, images: Array) -> Array:
        """Novelty score per image: 0 = typical of the training data, 1 = unlike it.

        A score is the share of the run's validation images, with noise as in training, whose
        novelty is lower: 0.5 is the median image, 0.99 beyond 99 in 100 of them. What lies beyond
        all of them keeps its order on the last step to 1. The manifest's `novelty` names the
        method and a threshold.

        Args:
            images: as in `encode`.

        Returns:
            float32 (N,) in [0, 1].

        Raises:
            OptionError: the bundle has no novelty model. ShapeError, DtypeError, RangeError.
        """
        return self._one("scores", "images", images)

    def run(
        self,
        outputs: Sequence[OutputName],
        *,
        images: Array | None = None,
        latents: Array | None = None,
        dtype: ImageDtype = "float32",
        out: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Several outputs of one pass, each by its name; `submit` has the arguments."""
        return self.submit(outputs, images=images, latents=latents, dtype=dtype, out=out).result()

    def submit(
        self,
        outputs: Sequence[OutputName],
        *,
        images: Array | None = None,
        latents: Array | None = None,
        dtype: ImageDtype = "float32",
        out: Mapping[str, Array] | None = None,
    ) -> Future[dict[str, Array]]:
        """Start a pass over the rows of `images` or of `latents`; exactly one of the two.

        A call of one chunk is computed before this returns; a longer one goes to the pool.
        Cancelling the future drops the chunks that have not begun.

        Args:
            outputs: from images any of "latents" (float32 (N, latent_size)), "denoised"
                ((N, H, W, C)) and "scores" (float32 (N,)); from latents "images" ((N, H, W, C)).
                "denoised" alone runs the autoencoder; with others, encoder and decoder run once
                for all of them, which gives the same images to within what export allows.
            images: as in `encode`. latents: as in `decode`.
            dtype: of "denoised" or "images".
            out: arrays to write outputs to, by name; they belong to the call until the future is
                done.

        Raises:
            OptionError: an output that these rows or this bundle do not have. ShapeError,
            DtypeError: at once. RangeError: from the future.
        """
        if (images is None) == (latents is None):
            raise TypeError("pass either images or latents")
        if latents is not None:
            return self._submit(outputs, "latents", latents, dtype=dtype, out=out or {})
        assert images is not None
        return self._submit(outputs, "images", images, dtype=dtype, out=out or {})

    def _submit(
        self,
        outputs: Sequence[OutputName],
        source: str,
        rows: Array,
        *,
        dtype: ImageDtype,
        out: Mapping[str, Array],
    ) -> Future[dict[str, Array]]:
        steps, size = self._plan(source, outputs)
        validation.check_rows(source, rows, self.manifest)
        validation.check_dtype(dtype)
        results = {
            step.output: self._allocate(step, len(rows), dtype, out.get(step.output))
            for step in steps
            if step.output in outputs
        }
        check = validation.finite_latents if source == "latents" else validation.unit_images
        chunks = chunk_count(len(rows), size, threads=self.threads)
        bound = {
            name
            for name, result in results.items()
            if result.dtype == np.float32
            and result.flags.c_contiguous
            and result.nbytes >= chunks * IO_BINDING_MIN_BYTES
        }

        def run(index: int) -> None:
            chunk = chunk_slice(index, rows=len(rows), chunks=chunks)
            batch = check(rows[chunk])
            tensors = {source: batch}
            with self._all_cores.claim(alone=self._alone(steps, chunks)) as multithreaded:
                for output, session, inputs in steps:
                    target = results[output][chunk] if output in results else None
                    in_place = (
                        target is not None
                        and output in bound
                        and not np.may_share_memory(batch, target)
                    )
                    tensor = session(
                        *[tensors[name] for name in inputs],
                        multithreaded=multithreaded,
                        out=target if in_place else None,
                    )
                    tensors[output] = tensor
                    if target is not None and not in_place:
                        target[...] = tensor if target.dtype != np.uint8 else np.rint(tensor * 255)

        if chunks > 1:
            return self._pool.submit(Call(run, chunks=chunks, answer=results))
        done: Future[dict[str, Array]] = Future()
        try:
            if chunks:
                run(0)
            done.set_result(results)
        except RangeError as exc:
            done.set_exception(exc)
        return done

    def _one(
        self,
        output: OutputName,
        source: str,
        rows: Array,
        *,
        dtype: ImageDtype = "float32",
        out: Array | None = None,
    ) -> Array:
        target = {} if out is None else {output: out}
        return self._submit((output,), source, rows, dtype=dtype, out=target).result()[output]

    def _plan(self, source: str, outputs: Sequence[str]) -> tuple[list[_Step], int]:
        """The models to run in turn, and the largest number of rows in a chunk."""
        known = {"latents": ("images",), "images": ("latents", "denoised", "scores")}[source]
        if not outputs or set(outputs) - set(known):
            raise OptionError(
                f"outputs {', '.join(outputs) or 'none'} from {source}",
                expected=f"any of {', '.join(known)}",
            )
        encoder, decoder, autoencoder = (self._sessions[name] for name in MODELS)
        if source == "latents":
            steps, model = [_Step("images", decoder, ("latents",))], "decoder"
        elif set(outputs) == {"denoised"}:
            steps, model = [_Step("denoised", autoencoder, ("images",))], "autoencoder"
        elif set(outputs) == {"latents"}:
            steps, model = [_Step("latents", encoder, ("images",))], "encoder"
        else:
            steps, model = [_Step("latents", encoder, ("images",))], "autoencoder"
            steps.append(_Step("denoised", decoder, ("latents",)))
            if "scores" in outputs:
                if self._novelty is None:
                    raise OptionError(
                        f"a score from the bundle {self.manifest.name}, which has no novelty model",
                        expected="a bundle with a novelty entry in its manifest",
                        hint="Leave the score out, or export the run again.",
                    )
                steps.append(_Step("scores", self._novelty, ("images", "latents", "denoised")))
        return steps, self.manifest.chunks.get(model, CHUNK)

    def _allocate(self, step: _Step, rows: int, dtype: ImageDtype, out: Array | None) -> Array:
        """The array for one output: `out`, checked, or a new one."""
        shape = (rows, *step.session.row_shape)
        kind = np.dtype(dtype if step.output in ("denoised", "images") else "float32")
        if out is None:
            return np.empty(shape, kind)
        validation.check_out(out, shape, kind)
        return out

    def _alone(self, steps: Sequence[_Step], chunks: int) -> bool:
        """Whether a call could use every core: it is one chunk and nothing else runs."""
        if chunks != 1 or self._pool.busy:
            return False
        return any(step.session.multithreaded for step in steps)

    def _replay(self, bundle: Bundle) -> None:
        """Compute the golden outputs again; a bundle that gives others is not served."""
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
            stored = golden[name]
            scale = max(1.0, float(np.abs(stored).max(initial=0.0)))
            worst = np.inf
            if stored.shape == result.shape:
                worst = float(np.abs(result - stored).max(initial=0.0)) / scale
            if not worst <= tolerance:
                raise BundleDamagedError(
                    f"{bundle.path}: golden {name} differ by {worst:.2e}",
                    expected=f"at most {tolerance:.0e} of their largest value",
                    hint="The models do not compute what they did at export: restore the bundle.",
                )
