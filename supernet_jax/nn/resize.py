"""Resizing images and padding channels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from supernet_jax.nn import macs

Array = jax.Array


def average_pool(x: Array, size: int) -> Array:
    """Mean over `size` x `size` windows at stride `size`; an incomplete last one is its own mean.

    Args:
        x: `[B, H, W, C]`; the result is `[B, ceil(H/size), ceil(W/size), C]`.
        size: of window and stride.
    """
    window = (1, size, size, 1)
    pad = [(0, 0), (0, -x.shape[1] % size), (0, -x.shape[2] % size), (0, 0)]
    total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, pad)
    covered = [np.minimum(size, n - size * np.arange(-(-n // size))) for n in x.shape[1:3]]
    counts = np.multiply.outer(*covered)[None, :, :, None]
    return total / jnp.asarray(counts, x.dtype)


def zero_pool(x: Array, size: int) -> Array:
    """Mean over `size` x `size` windows at stride `size`, for which odd images get a row of zeros
    above and a column to the left of them. The zeros count.

    Args:
        x: `[B, H, W, C]`; of size 2 the result is `[B, ceil(H/2), ceil(W/2), C]`.
        size: of window and stride.
    """
    window = (1, size, size, 1)
    pad = [(0, 0), (x.shape[1] % 2, 0), (x.shape[2] % 2, 0), (0, 0)]
    total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, pad)
    return total / jnp.asarray(size * size, x.dtype)


def resize_bicubic(x: Array, size: int) -> Array:
    """Square bicubic resize with a = -0.75, half-pixel centres, edge clamp and no antialiasing.

    PyTorch's `interpolate(mode="bicubic")`; `jax.image.resize` has a = -0.5 and antialiases.

    Args:
        x: `[B, H, W, C]`.
        size: of the result's both sides; the input's own size returns `x` itself.
    """
    for axis in (1, 2):
        if x.shape[axis] != size:
            matrix = jnp.asarray(bicubic_matrix(x.shape[axis], size), x.dtype)
            with macs.aside():
                rows = jnp.tensordot(matrix, x, (1, axis), precision=lax.Precision.HIGHEST)
            x = jnp.moveaxis(rows, 0, axis)
    return x


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Interpolation weights `[target, source]` of the cubic convolution kernel (Keys 1981)."""
    a = -0.75
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    base = np.floor(centre).astype(int)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        d = np.abs(centre - (base + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        column = np.clip(base + tap, 0, source - 1)
        np.add.at(matrix, (np.arange(target), column), np.where(d <= 1, near, far))
    return matrix


def pad_channels(x: Array, channels: int) -> Array:
    """An activation with zero channels (last axis) added up to `channels`, if it has fewer."""
    missing = channels - x.shape[-1]
    return x if missing <= 0 else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
