"""An inverted bottleneck without its shortcut, as one operation on CPU where no gradient is wanted.

    x -> pointwise, norm, swish -> depthwise -> norm, swish [, squeeze-excite] -> pointwise, norm

Between the pointwise convolutions there are several times as many channels, and most time goes into
writing and reading them. The compiled kernel of `native` computes them in parts that a cache holds:
none is written with given statistics and without squeeze-and-excite, unless images are few, and
otherwise those after the depthwise convolution. Where a gradient is wanted, it is `separable` and
the operations that follow. All of these ways differ in rounding alone.

Images are `[B, H, W, I]`, the output `[B, ceil(H/stride), ceil(W/stride), F]`, float32.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from supernet_jax.nn import batch_norm, depthwise, pointwise, separable
from supernet_jax.nn.separable import Affine, Moments
from supernet_jax.runtime import native

Array = jax.Array
_EPSILON = np.float32(batch_norm.EPSILON)

takes = separable.takes  # both need the same of an image


class Excite(NamedTuple):
    """Of squeeze-and-excite: `reduce` `[C, R]` and its bias, `excite` `[R, C]` and its bias."""

    reduce: Array
    reduce_bias: Array
    excite: Array
    excite_bias: Array


class Weights(NamedTuple):
    """Of all of it.

    Attributes:
        expand: `[I, C]`, the first pointwise convolution.
        before: of the norm after it, `[C]` each.
        kernel: `[k, k, 1, C]`, of the depthwise convolution.
        after: of the norm after that.
        excite: of squeeze-and-excite, if there is one.
        project: `[C, F]`, the second pointwise convolution.
        last: of the norm after it, `[F]` each.
    """

    expand: Array
    before: Affine
    kernel: Array
    after: Affine
    excite: Excite | None
    project: Array
    last: Affine


def squeeze_excite(x: Array, w: Excite) -> Array:
    """What `layers.SqueezeExcite` makes of `[B, H, W, C]`, as a function of its weights.

    A gradient of the whole is taken with respect to these.
    """
    hidden = nn.relu(jnp.mean(x, (1, 2)) @ w.reduce + w.reduce_bias[None])
    return x * nn.hard_sigmoid(hidden @ w.excite + w.excite_bias[None])[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_batch(x: Array, w: Weights, stride: int) -> tuple[Array, tuple[Moments, Moments, Moments]]:
    """Normalises by the statistics of the batch, and returns them: those of all three norms.

    Args:
        x: `[B, H, W, I]`, float32, on one device; see `takes`.
        w: float32.
        stride: of the depthwise convolution.

    Returns:
        The output, and mean and biased variance of the norms: `[C]`, `[C]`, `[F]`.
    """
    operands = (w.expand, *w.before, w.kernel, *w.after, *_excite(w), w.project, *w.last)
    y, *m = native.bottleneck_batch(x, *operands, stride=stride, epsilon=_EPSILON)
    return y, ((m[0], m[1]), (m[2], m[3]), (m[4], m[5]))


def plain_by_batch(
    x: Array, w: Weights, stride: int
) -> tuple[Array, tuple[Moments, Moments, Moments]]:
    """`by_batch` by way of `separable`, with its gradient."""
    y = pointwise.pointwise(x, w.expand)
    y, first, second = separable.by_batch(y, w.before, w.kernel, w.after, stride)
    if w.excite is not None:
        y = squeeze_excite(y, w.excite)
    y, last = batch_norm.batch_norm(pointwise.pointwise(y, w.project), *w.last, swish=False)
    return y, (first, second, last)


by_batch.defvjp(
    lambda x, w, stride: jax.vjp(functools.partial(plain_by_batch, stride=stride), x, w),
    lambda stride, pull, gradient: pull(gradient),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def given(x: Array, w: Weights, moments: tuple[Moments, Moments, Moments], stride: int) -> Array:
    """Normalises by given statistics, those of all norms, whose variances may be unbiased.

    Takes and returns the same as `by_batch`, but for the statistics.
    """
    first, second, last = moments
    operands = (w.expand, *first, *w.before, w.kernel, *second, *w.after, *_excite(w))
    operands = (*operands, w.project, *last, *w.last)
    return native.bottleneck_given(x, *operands, stride=stride, epsilon=_EPSILON)


def plain_given(
    x: Array, w: Weights, moments: tuple[Moments, Moments, Moments], stride: int
) -> Array:
    """`given`, one operation after the other."""
    first, second, last = moments
    y = batch_norm.normalise(pointwise.pointwise(x, w.expand), *first, *w.before, swish=True)
    y = depthwise.depthwise(y, w.kernel, stride)
    y = batch_norm.normalise(y, *second, *w.after, swish=True)
    if w.excite is not None:
        y = squeeze_excite(y, w.excite)
    return batch_norm.normalise(pointwise.pointwise(y, w.project), *last, *w.last, swish=False)


# Rare: training on given statistics.
given.defvjp(
    lambda x, w, moments, stride: jax.vjp(
        functools.partial(plain_given, stride=stride), x, w, moments
    ),
    lambda stride, pull, gradient: pull(gradient),
)


def _excite(w: Weights) -> tuple[Any, ...]:
    """With no hidden channels where there is no squeeze-and-excite."""
    if w.excite is not None:
        return w.excite
    c = w.project.shape[0]
    return tuple(jnp.zeros(shape, w.project.dtype) for shape in ((c, 0), 0, (0, c), c))
