"""Batch normalisation, with or without swish after it, as one operation with its own gradient.

Autodiff keeps several arrays of the input's size for the backward pass and goes over memory four
times there. Here it keeps the input and per-channel vectors, and goes twice: two sums per channel,
then the input's gradient. With

    z = (x - mean) * factor + bias,   factor = scale / sqrt(variance + EPSILON),   y = z or swish(z)

and `inner` the gradient with respect to z, the sums are of `inner` and of `inner * (x - mean)`
(arXiv 1502.03167, section 3). On CPU the compiled kernels of `native` make these passes if they
were built.

Images are `[..., C]`, all other arrays `[C]`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from supernet_jax import native

Array = jax.Array
EPSILON = 1e-5  # as published


class Passes(NamedTuple):
    """The passes over a whole array.

    Attributes:
        moments: `x -> (mean, biased variance)`.
        apply: `(x, mean, factor, bias, swish) -> y`.
        sums: `(g, x, mean, factor, bias, swish)` -> the two sums; g is the gradient of y.
        gradient: `(g, x, mean, factor, bias, slope, offset, swish)` ->
            `inner * factor + slope * (x - mean) + offset`.
    """

    moments: Callable[..., tuple[Array, Array]]
    apply: Callable[..., Array]
    sums: Callable[..., tuple[Array, Array]]
    gradient: Callable[..., Array]


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
    return _on_platform(_batch_norm, swish, x, scale, bias)


def normalise(
    x: Array, mean: Array, variance: Array, scale: Array, bias: Array, *, swish: bool
) -> Array:
    """Normalises by given statistics, mean and (whichever) variance, float32; see `batch_norm`."""
    return _on_platform(_normalise, swish, x, mean, variance, scale, bias)


def _on_platform(operation: Callable, swish: bool, *operands: Array) -> Any:
    plain = functools.partial(operation, PLAIN, swish)
    if not native.takes_norm(operands[0]):
        return plain(*operands)
    compiled = functools.partial(operation, COMPILED, swish)
    return lax.platform_dependent(*operands, cpu=compiled, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batch_norm(
    passes: Passes, swish: bool, x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    mean, variance = passes.moments(x)
    return _normalise(passes, swish, x, mean, variance, scale, bias), (mean, variance)


def _batch_forward(
    passes: Passes, swish: bool, x: Array, scale: Array, bias: Array
) -> tuple[tuple[Array, tuple[Array, Array]], tuple[Array, ...]]:
    y, (mean, variance) = _batch_norm(passes, swish, x, scale, bias)
    return (y, (mean, variance)), (x, mean, variance, scale, bias)


def _batch_backward(
    passes: Passes,
    swish: bool,
    residuals: tuple[Array, ...],
    gradient: tuple[Array, tuple[Array, Array]],
) -> tuple[Array, Array, Array]:
    g, (of_mean, of_variance) = gradient
    x, *_ = residuals
    by_mean, by_variance, by_scale, by_bias = _by_channel(passes, swish, residuals, g)
    n = x.size // x.shape[-1]
    slope = 2 / n * (of_variance + by_variance)
    by_x = _by_input(passes, swish, residuals, g, slope, (of_mean + by_mean) / n)
    return by_x, by_scale, by_bias


_batch_norm.defvjp(_batch_forward, _batch_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normalise(
    passes: Passes, swish: bool, x: Array, mean: Array, variance: Array, scale: Array, bias: Array
) -> Array:
    return passes.apply(x, mean, _factor(variance, scale), _wide(bias), swish)


def _normalise_forward(
    passes: Passes, swish: bool, *operands: Array
) -> tuple[Array, tuple[Array, ...]]:
    return _normalise(passes, swish, *operands), operands


def _normalise_backward(
    passes: Passes, swish: bool, residuals: tuple[Array, ...], g: Array
) -> tuple[Array, ...]:
    zero = jnp.zeros_like(residuals[1])
    by_x = _by_input(passes, swish, residuals, g, zero, zero)
    return by_x, *_by_channel(passes, swish, residuals, g)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _by_channel(
    passes: Passes, swish: bool, residuals: tuple[Array, ...], g: Array
) -> tuple[Array, Array, Array, Array]:
    """Gradients with respect to mean, variance, scale and bias, each as if the rest were fixed."""
    x, mean, variance, scale, bias = residuals
    factor = _factor(variance, scale)
    total, along = passes.sums(g, x, mean, factor, _wide(bias), swish)
    inverse = lax.rsqrt(variance + EPSILON)
    by_variance = -0.5 * factor * jnp.square(inverse) * along
    by_scale, by_bias = (inverse * along).astype(scale.dtype), total.astype(bias.dtype)
    return -factor * total, by_variance, by_scale, by_bias


def _by_input(
    passes: Passes,
    swish: bool,
    residuals: tuple[Array, ...],
    g: Array,
    slope: Array,
    offset: Array,
) -> Array:
    x, mean, variance, scale, bias = residuals
    factor = _factor(variance, scale)
    return passes.gradient(g, x, mean, factor, _wide(bias), slope, offset, swish)


def _factor(variance: Array, scale: Array) -> Array:
    return lax.rsqrt(variance + EPSILON) * _wide(scale)


# ---------------------------------------------------------------------------- the passes


def _moments(x: Array) -> tuple[Array, Array]:
    wide, axes = _wide(x), tuple(range(x.ndim - 1))
    mean = jnp.mean(wide, axes)
    return mean, jnp.mean(jnp.square(wide - _row(mean, wide)), axes)


def _apply(x: Array, mean: Array, factor: Array, bias: Array, swish: bool) -> Array:
    y = _affine(x, mean, factor, bias).astype(x.dtype)
    return jax.nn.swish(y) if swish else y


def _sums(
    g: Array, x: Array, mean: Array, factor: Array, bias: Array, swish: bool
) -> tuple[Array, Array]:
    inner, axes = _inner(g, x, mean, factor, bias, swish), tuple(range(x.ndim - 1))
    return jnp.sum(inner, axes), jnp.sum(inner * (_wide(x) - _row(mean, x)), axes)


def _gradient(
    g: Array,
    x: Array,
    mean: Array,
    factor: Array,
    bias: Array,
    slope: Array,
    offset: Array,
    swish: bool,
) -> Array:
    inner = _inner(g, x, mean, factor, bias, swish)
    return (inner * _row(factor, x) + _affine(x, mean, slope, offset)).astype(x.dtype)


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


PLAIN = Passes(_moments, _apply, _sums, _gradient)
COMPILED = Passes(native.norm_moments, native.norm_apply, native.norm_sums, native.norm_gradient)
