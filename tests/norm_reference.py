"""Batch normalisation and its gradients in float64, by autodiff of the textbook's formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Odd ones; vectors of 16, of 8 and single channels; several blocks of rows, the last one shorter.
SHAPES = [(3, 9, 7, 25), (2, 17, 17, 300), (1, 1, 1, 5), (6, 8)]


def operands(shape: tuple[int, ...], mean: float = 0.5) -> tuple[np.ndarray, ...]:
    """x, scale, bias; then statistics: mean, variance; float32."""
    rng = np.random.default_rng(sum(shape))
    draw = [rng.normal(size=s).astype(np.float32) for s in (shape, *(shape[-1:],) * 4)]
    return 3 * draw[0] + np.float32(mean), draw[1], 2 * draw[2], draw[3], draw[4] ** 2


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


def close(found: Any, exact: Any, bound: float) -> None:
    """Every array within `bound` of the exact one's largest value (1e-6 where that is zero)."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, rtol=0, atol=bound * max(np.abs(b).max(), 1e-6)
        )
