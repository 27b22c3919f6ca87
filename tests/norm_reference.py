"""Batch normalisation and its gradients in float64, by autodiff of the textbook's formula."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.nn import batch_norm

# Of the largest value; float32's last place is 6e-8. A gradient is a difference of terms as large
# as itself, whose sums of up to 578 products are each a few places off.
BOUND = 3e-6
# Odd ones; vectors of 16, of 8 and single channels; several blocks of rows, the last one shorter.
SHAPES = [(3, 9, 7, 25), (2, 17, 17, 300), (1, 1, 1, 5), (6, 8)]


def operands(shape: tuple[int, ...], mean: float = 0.5) -> tuple[np.ndarray, ...]:
    """x, scale, bias; then statistics: mean, variance; float32."""
    rng = np.random.default_rng(sum(shape))
    draw = [rng.normal(size=s).astype(np.float32) for s in (shape, *(shape[-1:],) * 4)]
    # Variances well above 0: dividing by a small one makes float32's rounding of x large.
    return 3 * draw[0] + np.float32(mean), draw[1], 2 * draw[2], draw[3], draw[4] ** 2 + 0.5


def by_batch(x: Any, scale: Any, bias: Any, swish: bool) -> Any:
    """y and the moments, as `norm.batch_norm` gives them."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
    return given(x, mean, variance, scale, bias, swish), (mean, variance)


def given(x: Any, mean: Any, variance: Any, scale: Any, bias: Any, swish: bool) -> Any:
    """y, as `norm.normalise` gives it."""
    rows = [v.reshape((1,) * (x.ndim - 1) + (-1,)) for v in (mean, variance, scale, bias)]
    y = (x - rows[0]) / jnp.sqrt(rows[1] + 1e-5) * rows[2] + rows[3]
    return y / (1 + jnp.exp(-y)) if swish else y


def cotangents(outputs: Any) -> Any:
    """Random gradients of the outputs; those of moments count as much as those of y."""
    leaves, tree = jax.tree.flatten(outputs)
    rng = np.random.default_rng(len(leaves))
    return tree.unflatten([rng.normal(size=a.shape).astype(a.dtype) for a in leaves])


def in_float64(function: Any, inputs: tuple[Any, ...], gradient: Any) -> tuple[Any, Any]:
    """Outputs, and gradients with respect to the inputs for given gradients of the outputs."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (inputs, gradient))
        outputs, back = jax.vjp(function, *wide[0])
        return jax.tree.map(np.asarray, (outputs, back(wide[1])))


def check_by_batch(shape: tuple[int, ...], swish: bool) -> None:
    """`norm.batch_norm` and its gradients, also those of the moments."""
    inputs = operands(shape)[:3]
    outputs, back = jax.vjp(functools.partial(batch_norm.batch_norm, swish=swish), *_arrays(inputs))
    gradient = cotangents(outputs)
    exact = in_float64(functools.partial(by_batch, swish=swish), inputs, gradient)
    # Where a channel hardly varies, the terms of x's gradient are larger than it by this factor.
    steepness = 1 / np.sqrt(exact[0][1][1].min() + 1e-5)
    close((outputs, back(gradient)), exact, BOUND * max(1, steepness))


def check_given(shape: tuple[int, ...], swish: bool) -> None:
    """`norm.normalise` and its gradients, also those of the statistics."""
    x, scale, bias, mean, variance = operands(shape)
    inputs = (x, mean, variance, scale, bias)
    y, back = jax.vjp(functools.partial(batch_norm.normalise, swish=swish), *_arrays(inputs))
    gradient = cotangents(y)
    exact = in_float64(functools.partial(given, swish=swish), inputs, gradient)
    close((y, back(gradient)), exact, BOUND)


def check_moments() -> None:
    """Mean and variance where the mean is 1,000 times the spread."""
    x, scale, bias = operands((4, 30, 30, 40), 3000)[:3]
    _, moments = batch_norm.batch_norm(*_arrays((x, scale, bias)), swish=False)
    wide = x.astype(np.float64)
    exact = (wide.mean((0, 1, 2)), wide.var((0, 1, 2)))
    close(moments, exact, BOUND)


def _arrays(inputs: tuple[Any, ...]) -> list[jax.Array]:
    return [jnp.asarray(a) for a in inputs]


def close(found: Any, exact: Any, bound: float) -> None:
    """Every array within `bound` of the exact one's largest value (1e-6 where that is zero)."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=0, atol=bound * max(np.abs(b).max(), 1e-6)
        )
