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

from supernet_jax.nn import batch_norm, depthwise, pointwise, separable, squeeze_excite
from supernet_jax.nn.separable import Affine, Moments
from supernet_jax.nn.squeeze_excite import Excite
from supernet_jax.runtime import native

Array = jax.Array
_EPSILON = np.float32(batch_norm.EPSILON)

takes = separable.takes  # both need the same of an image


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


def _forward(
    x: Array, w: Weights, stride: int
) -> tuple[tuple[Array, tuple[Moments, Moments, Moments]], tuple]:
    """What `by_batch` returns, one operation after the other, and what `_backward` needs."""
    y, expand = pointwise.forward(x, w.expand)
    (y, first, second), conv = separable.forward(y, w.before, w.kernel, w.after, stride)
    y, excite = (y, None) if w.excite is None else squeeze_excite.forward(y, w.excite)
    y, project = pointwise.forward(y, w.project)
    (y, last), norm = batch_norm.forward(y, *w.last, swish=False)
    return (y, (first, second, last)), (expand, conv, excite, project, norm)


def _backward(stride: int, residuals: tuple, gradient: tuple) -> tuple[Array, Weights]:
    # The chain of the parts, by hand: autodiff takes long to trace it, for each kind of block.
    expand, conv, excite, project, norm = residuals
    g, (first, second, last) = gradient
    g, *of_last = batch_norm.backward(norm, (g, last), swish=False)
    g, of_project = pointwise.backward(project, g)
    g, of_excite = (g, None) if excite is None else squeeze_excite.backward(excite, g)
    g, of_before, of_kernel, of_after = separable.backward(conv, (g, first, second), stride)
    g, of_expand = pointwise.backward(expand, g)
    between = of_before, of_kernel, of_after, of_excite
    return g, Weights(of_expand, *between, of_project, Affine(*of_last))


by_batch.defvjp(_forward, _backward)


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
        y = squeeze_excite.squeeze_excite(y, w.excite)
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
