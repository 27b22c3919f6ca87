"""Squeeze-and-excitation (arXiv 1709.01507, section 3) as one operation with its own gradient.

    y = x * hard_sigmoid(relu(mean(x) reduce + reduce_bias) excite + excite_bias)

with the mean over an image, and `hard_sigmoid(z) = clip(z / 6 + 1 / 2, 0, 1)` as in MobileNetV3
(arXiv 1905.02244, section 5.2). Autodiff takes long to trace it, for each kind of block. At the
corners of ReLU and hard sigmoid the gradient is 0, as autodiff has it.

Images are `[B, H, W, C]`, any float type.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
_BY_COLUMNS, _BY_ROWS = (((1,), (1,)), ((), ())), (((0,), (0,)), ((), ()))


class Excite(NamedTuple):
    """Its weights: `reduce` `[C, R]` and its bias, `excite` `[R, C]` and its bias."""

    reduce: Array
    reduce_bias: Array
    excite: Array
    excite_bias: Array


@jax.custom_vjp
def squeeze_excite(x: Array, w: Excite) -> Array:
    """`[B, H, W, C]` -> the same shape and type; weights have the type of `x`."""
    return forward(x, w)[0]


def forward(x: Array, w: Excite) -> tuple[Array, tuple]:
    """What `squeeze_excite` returns, and what `backward` needs."""
    mean = jnp.mean(x, (1, 2))
    zero, one = x.dtype.type(0), x.dtype.type(1)
    hidden = lax.max(_affine(mean, w.reduce, w.reduce_bias), zero)
    gate = lax.clamp(zero, _affine(hidden, w.excite, w.excite_bias) / 6 + 0.5, one)
    return x * gate[:, None, None], (x, mean, hidden, gate, w)


def backward(residuals: tuple, g: Array) -> tuple[Array, Excite]:
    """The gradients of `x` and of the weights.

    Args:
        residuals: of `forward`.
        g: the gradient of the result, `[B, H, W, C]`.
    """
    x, mean, hidden, gate, w = residuals
    of_gate = jnp.sum(g * x, (1, 2))
    of_sum = lax.select((gate > 0) & (gate < 1), of_gate / 6, jnp.zeros_like(gate))
    of_hidden = lax.dot_general(of_sum, w.excite, _BY_COLUMNS)
    of_hidden = lax.select(hidden > 0, of_hidden, jnp.zeros_like(hidden))
    # A number of pixels may be too large for a narrow type, and its inverse is not.
    of_mean = lax.dot_general(of_hidden, w.reduce, _BY_COLUMNS) * (1 / (x.shape[1] * x.shape[2]))
    of_weights = Excite(
        lax.dot_general(mean, of_hidden, _BY_ROWS),
        jnp.sum(of_hidden, 0),
        lax.dot_general(hidden, of_sum, _BY_ROWS),
        jnp.sum(of_sum, 0),
    )
    return g * gate[:, None, None] + of_mean[:, None, None], of_weights


squeeze_excite.defvjp(forward, backward)


def _affine(x: Array, w: Array, b: Array) -> Array:
    return jnp.dot(x, w) + b[None]
