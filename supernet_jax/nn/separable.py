"""Depthwise convolution between two normalisations with swish, as one operation on CPU.

    x -> norm, swish -> depthwise -> norm, swish

By itself each of these reads and writes arrays of the image's size, and waits for memory. The
compiled kernel of `native` computes what the first norm gives where the convolution reads it, in
parts that a cache holds, and again for the gradient. Elsewhere these are `batch_norm` and
`depthwise`. Both ways differ in rounding alone.

Images are `[B, H, W, C]`, the output `[B, ceil(H/stride), ceil(W/stride), C]`, float32; kernels
`[k, k, 1, C]`; all other arrays `[C]`.
"""

from typing import NamedTuple

import jax
import numpy as np

from supernet_jax.nn import batch_norm
from supernet_jax.runtime import native

Array = jax.Array
Moments = tuple[Array, Array]  # mean and biased variance
_EPSILON = np.float32(batch_norm.EPSILON)


class Affine(NamedTuple):
    """What follows the normalisation by moments: scale and bias."""

    scale: Array
    bias: Array


def takes(x: Array, k: int) -> bool:
    """Whether the compiled kernel can and should run: not on an empty batch, and on a batch in one
    part, because the norms of several need sums over the devices in between.
    """
    if not (x.size and k in native.KERNELS and native.takes_norm(x) and native.only_cpu()):
        return False
    return native.devices.parts_of(x) == 1


def forward(
    x: Array, before: Affine, kernel: Array, after: Affine, stride: int
) -> tuple[tuple[Array, Moments, Moments], tuple]:
    """Normalises by the statistics of the batch, and returns them, those of both norms; and what
    `backward` needs.
    """
    y, inner, *moments = native.separable_batch(
        x, *before, kernel, *after, stride=stride, epsilon=_EPSILON
    )
    first, second = (moments[0], moments[1]), (moments[2], moments[3])
    return (y, first, second), (x, inner, first, before, kernel, second, after)


def backward(residuals: tuple, gradient: tuple, stride: int) -> tuple:
    """The gradients of `x`, `before`, `kernel` and `after`, of those of the output and of the mean
    and variance of each norm.
    """
    x, inner, first, before, kernel, second, after = residuals
    g, of_first, of_second = gradient
    dx, *rest = native.separable_gradient(
        g,
        x,
        inner,
        *(*first, *before, kernel, *second, *after, *of_first, *of_second),
        stride=stride,
        epsilon=_EPSILON,
    )
    return dx, Affine(*rest[:2]), rest[2], Affine(*rest[3:])
