"""Batch normalisation, with or without swish after it, as one operation with its own gradient.

Autodiff keeps several arrays of the input's size for the backward pass and goes over memory four
times there. Here it keeps the input and per-channel vectors, and goes twice: two sums per channel,
then the input's gradient. With

    z = (x - mean) * factor + bias,   factor = scale / sqrt(variance + EPSILON),   y = z or swish(z)

and `inner` the gradient with respect to z, the sums are of `inner` and of `inner * (x - mean)`
(arXiv 1502.03167, section 3). On CPU the compiled kernels of `native` do all of it where
there are any.

Images are `[..., C]`, all other arrays `[C]`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from supernet_jax.runtime import native

Array = jax.Array
EPSILON = 1e-5  # as published


class Operations(NamedTuple):
    """One way to compute it all; `swish` is static.

    Attributes:
        batch: `(x, scale, bias, swish=) -> (y, mean, biased variance)`.
        gradient: `(g, x, mean, variance, scale, bias, of_mean, of_variance, swish=)`, the gradients
            of y and of both moments, to those of x, scale and bias.
        given: `(x, mean, variance, scale, bias, swish=) -> y`.
    """

    batch: Callable[..., tuple[Array, Array, Array]]
    gradient: Callable[..., tuple[Array, Array, Array]]
    given: Callable[..., Array]


def batch_norm(
    x: Array, scale: Array, bias: Array, *, swish: bool
) -> tuple[Array, tuple[Array, Array]]:
    """Normalises by the statistics of the batch, which it returns: mean and biased variance.

    Args:
        x: `[..., C]`, any float type; `y` has the same, statistics are float32.
        scale: `[C]`.
        bias: `[C]`.
        swish: whether y = z * sigmoid(z).
    """
    return _batch_norm(_operations(x), swish, x, scale, bias)


def forward(
    x: Array, scale: Array, bias: Array, *, swish: bool
) -> tuple[tuple[Array, tuple[Array, Array]], tuple[Array, ...]]:
    """What `batch_norm` returns, and what `backward` needs."""
    return _batch_forward(_operations(x), swish, x, scale, bias)


def backward(
    residuals: tuple[Array, ...], gradient: tuple[Array, tuple[Array, Array]], *, swish: bool
) -> tuple[Array, Array, Array]:
    """The gradients of `x`, `scale` and `bias`, of those of y and of both moments."""
    return _batch_backward(_operations(residuals[0]), swish, residuals, gradient)


def normalise(
    x: Array, mean: Array, variance: Array, scale: Array, bias: Array, *, swish: bool
) -> Array:
    """Normalises by given statistics, mean and (whichever) variance, float32; see `batch_norm`."""
    return _normalise(_operations(x), swish, x, mean, variance, scale, bias)


def _operations(x: Array) -> Operations:
    if not native.takes_norm(x):
        return PLAIN
    return COMPILED if native.only_cpu() else BY_PLATFORM


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_norm(
    operations: Operations, swish: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    y, mean, variance = operations.batch(x, scale, bias, swish=swish)
    return y, (mean, variance)


def _batch_forward(
    operations: Operations, swish: bool, x: Array, scale: Array, bias: Array
) -> tuple[tuple[Array, tuple[Array, Array]], tuple[Array, ...]]:
    y, mean, variance = operations.batch(x, scale, bias, swish=swish)
    return (y, (mean, variance)), (x, mean, variance, scale, bias)


def _batch_backward(
    operations: Operations,
    swish: bool,
    residuals: tuple[Array, ...],
    gradient: tuple[Array, tuple[Array, Array]],
) -> tuple[Array, Array, Array]:
    g, moments = gradient
    return operations.gradient(g, *residuals, *moments, swish=swish)


_batch_norm.defvjp(_batch_forward, _batch_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normalise(operations: Operations, swish: bool, *operands: Array) -> Array:
    return operations.given(*operands, swish=swish)


def _normalise_forward(
    operations: Operations, swish: bool, *operands: Array
) -> tuple[Array, tuple[Array, ...]]:
    return operations.given(*operands, swish=swish), operands


def _normalise_backward(
    operations: Operations, swish: bool, residuals: tuple[Array, ...], g: Array
) -> tuple[Array, ...]:
    # Rare: training on given statistics. XLA does it on every backend.
    zero = jnp.zeros_like(residuals[1])
    by_x = _by_input(g, *residuals, slope=zero, offset=zero, swish=swish)
    return by_x, *_by_channel(g, *residuals, swish=swish)


_normalise.defvjp(_normalise_forward, _normalise_backward)


# ---------------------------------------------------------------------------- by XLA


def _batch(x: Array, scale: Array, bias: Array, *, swish: bool) -> tuple[Array, Array, Array]:
    wide, axes = _wide(x), tuple(range(x.ndim - 1))
    mean = jnp.mean(wide, axes)
    variance = jnp.mean(jnp.square(wide - _row(mean, wide)), axes)
    return _given(x, mean, variance, scale, bias, swish=swish), mean, variance


def _given(
    x: Array, mean: Array, variance: Array, scale: Array, bias: Array, *, swish: bool
) -> Array:
    y = _affine(x, mean, _factor(variance, scale), _wide(bias)).astype(x.dtype)
    return jax.nn.swish(y) if swish else y


def _gradient(
    g: Array,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    of_mean: Array,
    of_variance: Array,
    *,
    swish: bool,
) -> tuple[Array, Array, Array]:
    given = (g, x, mean, variance, scale, bias)
    by_mean, by_variance, by_scale, by_bias = _by_channel(*given, swish=swish)
    n = x.size // x.shape[-1]
    slope, offset = 2 / n * (of_variance + by_variance), (of_mean + by_mean) / n
    return _by_input(*given, slope=slope, offset=offset, swish=swish), by_scale, by_bias


def _by_channel(
    g: Array, x: Array, mean: Array, variance: Array, scale: Array, bias: Array, *, swish: bool
) -> tuple[Array, Array, Array, Array]:
    """Gradients with respect to mean, variance, scale and bias, each as if the rest were fixed."""
    factor, axes = _factor(variance, scale), tuple(range(x.ndim - 1))
    inner = _inner(g, x, mean, factor, _wide(bias), swish)
    total, along = jnp.sum(inner, axes), jnp.sum(inner * (_wide(x) - _row(mean, x)), axes)
    inverse = lax.rsqrt(variance + EPSILON)
    by_variance = -0.5 * factor * jnp.square(inverse) * along
    by_scale, by_bias = (inverse * along).astype(scale.dtype), total.astype(bias.dtype)
    return -factor * total, by_variance, by_scale, by_bias


def _by_input(
    g: Array,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    *,
    slope: Array,
    offset: Array,
    swish: bool,
) -> Array:
    """`inner * factor + slope * (x - mean) + offset`."""
    factor = _factor(variance, scale)
    inner = _inner(g, x, mean, factor, _wide(bias), swish)
    return (inner * _row(factor, x) + _affine(x, mean, slope, offset)).astype(x.dtype)


def _factor(variance: Array, scale: Array) -> Array:
    return lax.rsqrt(variance + EPSILON) * _wide(scale)


def _inner(g: Array, x: Array, mean: Array, factor: Array, bias: Array, swish: bool) -> Array:
    if not swish:
        return _wide(g)
    z = _affine(x, mean, factor, bias)
    s = jax.nn.sigmoid(z)
    return _wide(g) * (s + z * (s * (1 - s)))


def _affine(x: Array, mean: Array, factor: Array, shift: Array) -> Array:
    return (_wide(x) - _row(mean, x)) * _row(factor, x) + _row(shift, x)


def _wide(x: Array) -> Array:
    return x.astype(jnp.float32)


def _row(vector: Array, like: Array) -> Array:
    """A per-channel vector, shaped to broadcast explicitly."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


def _by_platform(cpu: Callable, default: Callable, *operands: Array, swish: bool) -> Any:
    cpu, default = (functools.partial(way, swish=swish) for way in (cpu, default))
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


PLAIN = Operations(_batch, _gradient, _given)
_EPSILON = np.float32(EPSILON)
COMPILED = Operations(
    batch=functools.partial(native.norm_batch, epsilon=_EPSILON),
    gradient=functools.partial(native.norm_gradient, epsilon=_EPSILON),
    given=functools.partial(native.norm_given, epsilon=_EPSILON),
)
BY_PLATFORM = Operations(
    batch=functools.partial(_by_platform, COMPILED.batch, PLAIN.batch),
    gradient=functools.partial(_by_platform, COMPILED.gradient, PLAIN.gradient),
    given=functools.partial(_by_platform, COMPILED.given, PLAIN.given),
)
