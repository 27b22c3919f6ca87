"""Pointwise convolution: images times a matrix."""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


@jax.custom_vjp
def pointwise(x: Array, w: Array) -> Array:
    """`[..., C]` times `[C, F]`. As matrices: XLA transposes larger arrays for w's gradient."""
    return forward(x, w)[0]


def forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    """What `pointwise` returns, and what `backward` needs."""
    return jnp.dot(_rows(x), w).reshape(*x.shape[:-1], w.shape[-1]), (x, w)


def backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """The gradients of `x` and of `w`, of that of the result, `[..., F]`."""
    # What is kept is x itself: a reshaped one, as autodiff keeps, would be another array.
    x, w = residuals
    of_x = lax.dot_general(_rows(g), w, (((1,), (1,)), ((), ())))
    of_w = lax.dot_general(_rows(x), _rows(g), (((0,), (0,)), ((), ())))
    return of_x.reshape(x.shape), of_w


pointwise.defvjp(forward, backward)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])
