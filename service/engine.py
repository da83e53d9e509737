"""The engine: a bundle as three functions on arrays of any length.

Two things make it faster than one big `InferenceSession.run`: a call is cut into chunks whose
activations stay in a core's cache, and each chunk runs on a one-thread session, so cores work on
different images instead of sharing one convolution. The only import of onnxruntime in `service/`.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import onnxruntime as ort

from service.bundle import FLOAT32, INT8, MODELS, Bundle, Manifest, PrecisionName
from service.errors import BundleDamagedError, DtypeError, InputError, RangeError, ShapeError
from service.pool import Call, Pool, usable_cores

# Images in one chunk where the manifest names no number (export/cost.py has the rule).
CHUNK = 16

# A call of fewer images is not worth waking a second thread for (benchmarks/LOG.md).
SHARED_FROM = 4

# Golden answers were computed on another machine, perhaps with other vector units: float32 sums in
# another order differ in the last digits, a damaged model differs in the first. In int8 such a last
# digit can round an activation to its neighbour: one runtime with and without its optimisations
# differed by 3e-5, ONNX Runtime from OpenVINO by 0.057 in the worst pixel.
GOLDEN_TOLERANCE = {FLOAT32: 1e-4, INT8: 0.08}

# Native byte order only: ONNX Runtime would read the bytes of others as they lie.
_IMAGE_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.float32))
_LATENT_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.float32),)

ImageDtype = Literal["float32", "uint8"]
_E = TypeVar("_E", bound="Engine")


class Engine:
    """Encode, decode and denoise with the models of one bundle.

    Safe to call from many threads. Beyond the answer a call needs a few hundred kilobytes,
    whatever its length. Make one with `Engine.load`.
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
        self._networks = {name: _Network(bundle.model(name, precision)) for name in MODELS}
        self._pool = Pool(self.threads)
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

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images to latents.

        Args:
            images: uint8 (N, H, W, C) in 0–255, or float32 (N, H, W, C) in [0, 1]; any N, also 0.

        Returns:
            float32 (N, latent_size), unbounded.

        Raises:
            ShapeError, DtypeError, RangeError.
        """
        return self.submit("encoder", images).result()

    def decode(self, latents: np.ndarray, *, dtype: ImageDtype = "float32") -> np.ndarray:
        """Latents to images.

        Args:
            latents: float32 (N, latent_size), finite.
            dtype: "float32" for images in [0, 1], "uint8" for 0–255, rounded.

        Returns:
            (N, H, W, C) of the dtype asked for.
        """
        return self.submit("decoder", latents, dtype=dtype).result()

    def denoise(self, images: np.ndarray, *, dtype: ImageDtype = "float32") -> np.ndarray:
        """Noisy images to clean ones: arguments as in `encode`, answer as in `decode`."""
        return self.submit("autoencoder", images, dtype=dtype).result()

    def submit(
        self, model: str, rows: np.ndarray, *, dtype: ImageDtype = "float32"
    ) -> Future[np.ndarray]:
        """Start one of the models ("encoder", "decoder", "autoencoder") on `rows`.

        What is one chunk is computed before this returns; more goes to the pool. Cancelling
        the future drops what has not begun.

        Raises:
            ShapeError, DtypeError: at once. RangeError: from the future.
        """
        network = self._networks[model]
        self._check(model, rows)
        if dtype not in ("float32", "uint8"):
            raise DtypeError(
                f"an answer of dtype {dtype}", expected="float32 or uint8", todo="Ask for one."
            )
        answer_dtype = np.dtype(dtype if model != "encoder" else "float32")
        answer = np.empty((len(rows), *network.row_shape), answer_dtype)
        check = _finite_latents if model == "decoder" else _unit_images

        chunks, size = self._cut(len(rows), self.manifest.chunks.get(model, CHUNK))

        def run(index: int) -> None:
            chunk = slice(index * size, (index + 1) * size)
            result = network(check(rows[chunk]))
            answer[chunk] = result if answer_dtype != np.uint8 else np.rint(result * 255)

        if chunks > 1:
            return self._pool.submit(Call(run, chunks=chunks, answer=answer))
        done: Future[np.ndarray] = Future()
        try:
            if chunks:
                run(0)
            done.set_result(answer)
        except RangeError as exc:
            done.set_exception(exc)
        return done

    def _cut(self, rows: int, size: int) -> tuple[int, int]:
        """How many chunks a call becomes, and the rows in each.

        A call of few chunks is cut evenly into a multiple of the threads, so that none waits for
        the last one's chunk; in a call of many that is a small part of the whole.
        """
        chunks = -(-rows // size)
        if self.threads > 1 and rows >= SHARED_FROM and chunks < 4 * self.threads:
            even = min(rows // 2, -(-chunks // self.threads) * self.threads)
            chunks = max(chunks, even)  # never more than `size` rows in one
            size = -(-rows // chunks)
            chunks = -(-rows // size)
        return chunks, size

    def _check(self, model: str, rows: np.ndarray) -> None:
        """Refuse rows of the wrong dtype or shape."""
        row: tuple[int, ...] = self.manifest.image_shape
        kind, dtypes = "images", _IMAGE_DTYPES
        if model == "decoder":
            kind, row, dtypes = "latents", (self.manifest.latent_size,), _LATENT_DTYPES
        if not isinstance(rows, np.ndarray) or rows.dtype not in dtypes:
            found = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
            raise DtypeError(
                f"{kind} of dtype {found}",
                expected=f"a numpy array of {' or '.join(map(str, dtypes))}",
                todo="Convert them first, for example with .astype(numpy.float32).",
            )
        if rows.shape[1:] != row or rows.ndim != len(row) + 1:
            wanted = ", ".join(["N", *map(str, row)])
            raise ShapeError(
                f"{kind} of shape {rows.shape}",
                expected=f"({wanted})",
                todo="Add the batch and channel axes, or resize the images."
                if kind == "images"
                else "Send latents that this model's encoder made.",
            )

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
                f"{bundle.path}: its golden inputs do not fit it ({exc.came})",
                expected=exc.expected,
                todo="Export the run again, or restore the bundle.",
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
                    todo="The models do not compute what they did at export: restore the bundle.",
                )


class _Network:
    """One ONNX model as a function of one chunk, on a session of one thread."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings would reach the server's log at every start
        try:
            self._session = ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime's own exception types are not public
            raise BundleDamagedError(
                f"{path} does not load in ONNX Runtime {ort.__version__} ({exc})",
                expected="a model that this runtime reads",
                todo="Export the run again, or install the onnxruntime that the manifest names.",
            ) from exc
        self._input = self._session.get_inputs()[0].name
        output = self._session.get_outputs()[0]
        self._outputs = [output.name]
        self.row_shape: tuple[int, ...] = tuple(output.shape[1:])

    def __call__(self, chunk: np.ndarray) -> np.ndarray:
        """float32 (n, …) in, float32 (n, *row_shape) out."""
        answer: Any = self._session.run(self._outputs, {self._input: chunk})[0]
        return answer


def _unit_images(chunk: np.ndarray) -> np.ndarray:
    """uint8 or float32 images as contiguous float32 in [0, 1], checked."""
    if chunk.dtype == np.uint8:
        return np.divide(chunk, np.float32(255), dtype=np.float32)
    # One comparison each way is also False for NaN.
    if not (chunk.min() >= 0 and chunk.max() <= 1):
        raise RangeError(
            f"float32 images with values from {chunk.min():g} to {chunk.max():g}",
            expected="numbers in [0, 1]",
            todo="Divide by 255 or send uint8, clip after adding noise, and replace NaN.",
        )
    return np.ascontiguousarray(chunk)


def _finite_latents(chunk: np.ndarray) -> np.ndarray:
    """float32 latents as a contiguous array, checked for NaN and infinity."""
    if not np.isfinite(chunk).all():
        raise RangeError(
            "latents with NaN or infinity",
            expected="finite numbers",
            todo="Check what computed them.",
        )
    return np.ascontiguousarray(chunk)
