"""The shape of one row of a request, and the forms of an array that are accepted for it."""

from __future__ import annotations

from dataclasses import dataclass

from common.arrays import Array
from common.errors import ShapeError


@dataclass(frozen=True)
class RowSpec:
    """Images of shape (H, W, C), or latents of shape (latent_size,)."""

    kind: str  # "images" or "latents"
    shape: tuple[int, ...]

    def conform(self, array: Array) -> Array:
        """`array` as (N, *shape), without a copy.

        A single row without the batch axis is a batch of one; one-channel images may omit the
        channel axis.

        Raises:
            ShapeError: another shape.
        """
        for shape in self._accepted():
            if array.shape == shape:
                return array.reshape(1, *self.shape)
            if array.shape[1:] == shape and array.ndim == len(shape) + 1:
                return array.reshape(len(array), *self.shape)
        raise ShapeError(
            f"{self.kind} of shape {array.shape}",
            expected=" or ".join(
                f"({', '.join(['N', *map(str, shape)])})" for shape in self._accepted()
            ),
            hint="Resize the images to the model's size."
            if self.kind == "images"
            else "Send latents of this model's /encode.",
        )

    def _accepted(self) -> list[tuple[int, ...]]:
        one_channel = self.kind == "images" and self.shape[-1] == 1
        return [self.shape, self.shape[:-1]] if one_channel else [self.shape]
