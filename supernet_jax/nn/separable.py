"""Depthwise convolution between two normalisations with swish, as one operation on CPU.

    x -> pointwise, norm, swish -> depthwise -> norm, swish

By itself each of these reads and writes arrays of the image's size, and waits for memory. The
compiled kernel of `native` computes what the first norm gives where the convolution reads it, in
parts that a cache holds. Where no gradient is wanted, the pointwise convolution is computed there,
too, so that the many channels between the two convolutions are never written. Where one is, what
either convolution gives is kept, and the rest computed again for the gradient. Elsewhere these are
`pointwise`, `batch_norm` and `depthwise`. All of these ways differ in rounding alone.

Images are `[B, H, W, I]`, the matrix `[I, C]`, the output `[B, ceil(H/stride), ceil(W/stride), C]`,
float32; kernels `[k, k, 1, C]`; all other arrays `[C]`.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.nn import batch_norm, depthwise, pointwise
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def by_batch(
    x: Array, matrix: Array, before: Affine, kernel: Array, after: Affine, stride: int
) -> tuple[Array, Moments, Moments]:
    """Normalises by the statistics of the batch, and returns them: those of both norms."""
    y, *moments = native.separable_batch(
        x, matrix, *before, kernel, *after, stride=stride, epsilon=_EPSILON
    )
    return y, (moments[0], moments[1]), (moments[2], moments[3])


def _forward(
    x: Array, matrix: Array, before: Affine, kernel: Array, after: Affine, stride: int
) -> tuple[tuple[Array, Moments, Moments], Any]:
    def kept(x: Array, matrix: Array, *weights: Any) -> tuple[Array, Moments, Moments]:
        return _kept(pointwise.pointwise(x, matrix), *weights, stride)

    return jax.vjp(kept, x, matrix, before, kernel, after)


by_batch.defvjp(_forward, lambda stride, pull, gradient: pull(gradient))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _kept(
    x: Array, before: Affine, kernel: Array, after: Affine, stride: int
) -> tuple[Array, Moments, Moments]:
    """The same of the product, which is kept for the gradient."""
    return _kept_forward(x, before, kernel, after, stride)[0]


def _kept_forward(
    x: Array, before: Affine, kernel: Array, after: Affine, stride: int
) -> tuple[tuple[Array, Moments, Moments], tuple]:
    y, inner, *moments = native.separable_keeping_batch(
        x, *before, kernel, *after, stride=stride, epsilon=_EPSILON
    )
    first, second = (moments[0], moments[1]), (moments[2], moments[3])
    return (y, first, second), (x, inner, first, before, kernel, second, after)


def _kept_backward(stride: int, residuals: tuple, gradient: tuple) -> tuple:
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


_kept.defvjp(_kept_forward, _kept_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def given(
    x: Array,
    matrix: Array,
    first: Moments,
    second: Moments,
    before: Affine,
    kernel: Array,
    after: Affine,
    stride: int,
) -> Array:
    """Normalises by given statistics, those of both norms, whose variances may be unbiased."""
    operands = (x, matrix, *first, *before, kernel, *second, *after)
    return native.separable_given(*operands, stride=stride, epsilon=_EPSILON)


def plain_given(
    x: Array,
    matrix: Array,
    first: Moments,
    second: Moments,
    before: Affine,
    kernel: Array,
    after: Affine,
    stride: int,
) -> Array:
    """`given` as four operations."""
    y = batch_norm.normalise(pointwise.pointwise(x, matrix), *first, *before, swish=True)
    y = depthwise.depthwise(y, kernel, stride)
    return batch_norm.normalise(y, *second, *after, swish=True)


def _given_forward(*operands: Any) -> tuple[Array, tuple]:
    return given(*operands), operands[:-1]


def _given_backward(stride: int, residuals: tuple, g: Array) -> tuple:
    # Rare: training on given statistics.
    return jax.vjp(functools.partial(plain_given, stride=stride), *residuals)[1](g)


given.defvjp(_given_forward, _given_backward)
