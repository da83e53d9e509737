"""The engine: a bundle as three functions on arrays of any length.

Two things make it faster than one big `InferenceSession.run`: a call is cut into chunks whose
activations stay in a core's cache, and each chunk runs on a one-thread session, so cores work on
different images instead of sharing one convolution. Only calls of a few large images that follow
each other at once, alone in the engine, run on all cores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from common.errors import BundleDamagedError, InputError, OptionError, RangeError
from service.bundle import FLOAT32, INT8, MODELS, Bundle, Manifest, PrecisionName
from service.runtime import validation as inputs
from service.runtime.cores import AllCores
from service.runtime.pool import Call, Pool, cut, piece, usable_cores
from service.runtime.session import Network

# Images in one chunk where the manifest names no number (export/rewrite/cost.py has the rule).
CHUNK = 16

# Bytes of a chunk's answer from which the model writes it to its place by itself. Beyond a core's
# cache that saves 1 % of the time; with smaller ones binding costs more than a copy (LOG.md).
IO_BINDING_MIN_BYTES = 1 << 20

# Golden answers were computed on another machine, perhaps with other vector units: float32 sums in
# another order differ in the last digits, a damaged model differs in the first. In int8 such a last
# digit can round an activation to its neighbour: one runtime with and without its optimisations
# differed by 3e-5, ONNX Runtime from OpenVINO by 0.057 in the worst pixel.
GOLDEN_TOLERANCE = {FLOAT32: 1e-4, INT8: 0.08}

ImageDtype = Literal["float32", "uint8"]
Scored = Literal["latents", "denoised", "scores"]
_T = TypeVar("_T")
_E = TypeVar("_E", bound="Engine")


class Engine:
    """Encode, decode and denoise with the models of one bundle.

    Safe to call from many threads. Beyond the answer a call needs what one chunk needs on each
    thread, whatever its length: about a megabyte for 28×28 images, 60 for 64×64×3. Make one with
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
        self._networks = {
            name: Network(bundle.model(name, precision), threads=self.threads) for name in MODELS
        }
        novelty = bundle.novelty(precision)
        self._novelty = Network(novelty) if novelty else None
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

    def encode(self, images: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Images to latents.

        Args:
            images: uint8 (N, H, W, C) in 0–255, or float32 (N, H, W, C) in [0, 1]; any N, also 0.
            out: an array of the answer's shape and dtype to write it to, as in numpy; it shares no
                memory with the input. Memory that the process already has is faster than fresh
                memory, which the operating system has to clear (benchmarks/LOG.md).

        Returns:
            float32 (N, latent_size), unbounded; `out` where it is given. After an error `out`
            may hold a part of the answer.

        Raises:
            ShapeError, DtypeError, RangeError.
        """
        return self.submit("encoder", images, out=out).result()

    def decode(
        self,
        latents: np.ndarray,
        *,
        dtype: ImageDtype = "float32",
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Latents to images.

        Args:
            latents: float32 (N, latent_size), finite.
            dtype: "float32" for images in [0, 1], "uint8" for 0–255, rounded.
            out: as in `encode`.

        Returns:
            (N, H, W, C) of the dtype asked for.
        """
        return self.submit("decoder", latents, dtype=dtype, out=out).result()

    def denoise(
        self,
        images: np.ndarray,
        *,
        dtype: ImageDtype = "float32",
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Noisy images to clean ones: arguments as in `encode`, answer as in `decode`.

        `out` may be `images` itself, which are then denoised in place.
        """
        return self.submit("autoencoder", images, dtype=dtype, out=out).result()

    def score(self, images: np.ndarray) -> np.ndarray:
        """How unusual each image is, beside those that the model was made with.

        A score says which share of the run's validation images, spoiled as in training, were less
        unusual: 0.5 is as ordinary as the middle one of them, 0.99 more unusual than 99 in 100.
        What lies beyond all of them keeps its order on the last step to 1. The manifest's `novelty`
        says how it is made, and names a threshold.

        Args:
            images: as in `encode`.

        Returns:
            float32 (N,) in [0, 1].

        Raises:
            OptionError: the bundle has no scores. ShapeError, DtypeError, RangeError.
        """
        return self.submit_scored(images, ("scores",)).result()["scores"]

    def encode_scored(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latents as in `encode` and scores as in `score`, for the cost of `denoise`."""
        found = self.submit_scored(images, ("latents", "scores")).result()
        return found["latents"], found["scores"]

    def denoise_scored(
        self, images: np.ndarray, *, dtype: ImageDtype = "float32"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images as in `denoise` and scores as in `score`, in one pass."""
        found = self.submit_scored(images, ("denoised", "scores"), dtype=dtype).result()
        return found["denoised"], found["scores"]

    def submit(
        self,
        model: str,
        rows: np.ndarray,
        *,
        dtype: ImageDtype = "float32",
        out: np.ndarray | None = None,
    ) -> Future[np.ndarray]:
        """Start one of the models ("encoder", "decoder", "autoencoder") on `rows`.

        What is one chunk is computed before this returns; more goes to the pool. Cancelling
        the future drops what has not begun. `out` belongs to the call until the future is done.

        Raises:
            ShapeError, DtypeError: at once. RangeError: from the future.
        """
        network = self._networks[model]
        inputs.check_rows(model, rows, self.manifest)
        inputs.check_answer(dtype)
        answer_dtype = np.dtype(dtype if model != "encoder" else "float32")
        shape = (len(rows), *network.row_shape)
        if out is not None:
            inputs.check_out(out, shape, answer_dtype)
        answer = np.empty(shape, answer_dtype) if out is None else out
        check = inputs.finite_latents if model == "decoder" else inputs.unit_images

        chunks = cut(len(rows), self.manifest.chunks.get(model, CHUNK), threads=self.threads)
        straight = answer_dtype == np.float32 and answer.flags.c_contiguous
        straight = straight and answer.nbytes >= chunks * IO_BINDING_MIN_BYTES

        def run(index: int) -> None:
            chunk = piece(index, rows=len(rows), chunks=chunks)
            given, target = check(rows[chunk]), answer[chunk]
            out = target if straight and not np.may_share_memory(given, target) else None
            with self._all_cores.claim(alone=self._alone(network, chunks)) as wide:
                result = network(given, wide=wide, out=out)
            if out is None:
                target[...] = result if answer_dtype != np.uint8 else np.rint(result * 255)

        return self._start(run, chunks, answer)

    def submit_scored(
        self, images: np.ndarray, wanted: Sequence[Scored], *, dtype: ImageDtype = "float32"
    ) -> Future[dict[str, np.ndarray]]:
        """Start any of "latents", "denoised" and "scores" on `images`, each by its name.

        Encoder and decoder run one after the other on each chunk: a score looks at what both make.
        The images are those that `denoise` gives wherever the bundle's autoencoder is its decoder
        after its encoder to the last bit, which its `parity` tells; else they differ by less than
        the export allows. `dtype` is that of the images.

        Raises:
            OptionError: the bundle has no scores. Else as `submit`.
        """
        novelty = self._novelty
        if novelty is None:
            raise OptionError(
                f"a score from the bundle {self.manifest.name}, which has none",
                expected="a bundle with a novelty entry in its manifest",
                hint="Leave the score out, or export the run again; an older run, train first.",
            )
        inputs.check_rows("encoder", images, self.manifest)
        inputs.check_answer(dtype)
        encoder, decoder = self._networks["encoder"], self._networks["decoder"]
        rows = {"latents": encoder.row_shape, "denoised": decoder.row_shape, "scores": ()}
        answer: dict[str, np.ndarray] = {
            name: np.empty(
                (len(images), *rows[name]), np.dtype(dtype if name == "denoised" else "float32")
            )
            for name in wanted
        }
        size = self.manifest.chunks.get("autoencoder", CHUNK)
        chunks = cut(len(images), size, threads=self.threads)

        def run(index: int) -> None:
            chunk = piece(index, rows=len(images), chunks=chunks)
            given = inputs.unit_images(images[chunk])
            with self._all_cores.claim(alone=self._alone(decoder, chunks)) as wide:
                latents = encoder(given, wide=wide)
                denoised = decoder(latents, wide=wide)
            if "latents" in answer:
                answer["latents"][chunk] = latents
            if "denoised" in answer:
                exact = dtype != "uint8"
                answer["denoised"][chunk] = denoised if exact else np.rint(denoised * 255)
            if "scores" in answer:
                answer["scores"][chunk] = novelty(given, latents, denoised)

        return self._start(run, chunks, answer)

    def _start(self, run: Callable[[int], None], chunks: int, answer: _T) -> Future[_T]:
        """One chunk at once, more in the pool; the future gives `answer`, filled."""
        if chunks > 1:
            return self._pool.submit(Call(run, chunks=chunks, answer=answer))
        done: Future[_T] = Future()
        try:
            if chunks:
                run(0)
            done.set_result(answer)
        except RangeError as exc:
            done.set_exception(exc)
        return done

    def _alone(self, network: Network, chunks: int) -> bool:
        """Whether a call of so many chunks could use every core: it is short, nothing else runs."""
        return network.wide and chunks == 1 and not self._pool.busy

    def _replay(self, bundle: Bundle) -> None:
        """Compute the golden answers again; a bundle that answers otherwise is not served."""
        golden = bundle.golden(self.precision)
        tolerance = GOLDEN_TOLERANCE[self.precision]
        try:
            found = {
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
        for name, answer in found.items():
            stored = golden[name]
            scale = max(1.0, float(np.abs(stored).max(initial=0.0)))
            same_shape = stored.shape == answer.shape
            worst = (
                float(np.abs(answer - stored).max(initial=0.0)) / scale if same_shape else np.inf
            )
            if not worst <= tolerance:
                raise BundleDamagedError(
                    f"{bundle.path}: golden {name} come out with a difference of {worst:.2e}",
                    expected=f"at most {tolerance:.0e} of their largest value",
                    hint="The models do not compute what they did at export: restore the bundle.",
                )
