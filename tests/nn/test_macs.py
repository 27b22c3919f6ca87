"""MACs are those of the products in the traced program, whatever layer makes them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.elastic import slicing
from supernet_jax.errors import UserError
from supernet_jax.nn import layers, macs, resize
from supernet_jax.nn.block_shapes import CHANNEL, SPATIAL, Declared, describe


def given(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


class Attention(nn.Module):
    """Self-attention with a fused kernel `[C, 3, H, D]`, and the output `[H, D, C]`."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.moveaxis(nn.DenseGeneral((3, self.heads, 5), name="qkv")(x), -3, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="out")(mixed)


class Looped(nn.Module):
    """A product inside each step of a loop, and one in each branch of a condition."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("w", nn.initializers.normal(), (3, 3))
        y = jax.lax.scan(lambda c, _: (c @ w, None), x, length=4)[0]
        return jax.lax.cond(y[0, 0] > 0, lambda y: y @ w @ w, lambda y: y @ w, y)


class Twice(nn.Module):
    """One layer applied two times."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = layers.Depthwise(3, name="conv")
        return layer(layer(x))


class Resized(nn.Module):
    """A resize, which happens to be products of matrices and is not counted."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2)(resize.resize_bicubic(x, 4))


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (Attention(4), given(1, 7, 8), 7 * 8 * 3 * 4 * 5 + 2 * 7 * 7 * 4 * 5 + 7 * 4 * 5 * 8),
        (nn.DenseGeneral((4, 5)), given(1, 4, 8), 4 * 8 * 4 * 5),
        (nn.Conv(6, (3,), padding="SAME"), given(1, 10, 4), 10 * 3 * 4 * 6),
        (nn.Conv(6, (3, 3), feature_group_count=2), given(1, 5, 5, 4), 25 * 9 * 2 * 6),
        (nn.Embed(10, 4), given(1, 7, dtype=jnp.int32), 0),
        (Looped(), given(1, 3), (4 + 2) * 9),
        (Twice(), given(1, 5, 5, 2), 2 * 25 * 9 * 2),
        (Resized(), given(1, 8, 8, 3), 16 * 3 * 2),
    ],
)
def test_products_of_any_layer(module: nn.Module, inputs: Any, expected: int) -> None:
    assert describe(lambda spec: module, 0, (inputs,)).macs == expected


def test_a_loop_of_unknown_length_is_refused() -> None:
    program = jax.make_jaxpr(
        lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x)
    )
    with pytest.raises(UserError, match=r"macs\(\*inputs\)"):
        macs.counted(program(jnp.ones((2, 2))))


def test_axes_are_those_that_layers_declare() -> None:
    attention = describe(lambda spec: Attention(4), 0, (given(1, 7, 8),)).params
    conv = describe(lambda spec: nn.Conv(6, (5,)), 0, (given(1, 10, 4),)).params
    assert isinstance(conv["kernel"], Declared)
    assert conv["kernel"].axes == (SPATIAL, CHANNEL, CHANNEL)
    # The fused kernel [C, 3, H, D] has rank 4, as that of a convolution.
    small = describe(lambda spec: Attention(2), 0, (given(1, 7, 6),)).params
    kernel = np.random.default_rng(0).normal(size=attention["qkv"]["kernel"].shape)
    found = slicing.cut({"kernel": jnp.asarray(kernel)}, {"kernel": small["qkv"]["kernel"]})
    np.testing.assert_array_equal(found["kernel"], kernel[:6, :, :2].astype(np.float32))
    line = np.arange(5 * 4 * 6).reshape(5, 4, 6)
    part = describe(lambda spec: nn.Conv(2, (3,)), 0, (given(1, 10, 3),)).params
    found = slicing.cut({"kernel": jnp.asarray(line)}, {"kernel": part["kernel"]})
    np.testing.assert_array_equal(found["kernel"], line[1:4, :3, :2])


@pytest.mark.parametrize(
    "layer",
    [layers.LayerNorm(), layers.LayerNorm(bias=False), layers.LayerNorm(over=2)],
)
def test_layer_norm_is_that_of_flax(layer: layers.LayerNorm) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 3, 8)) + 4
    variables = layer.init(jax.random.key(1), x)
    variables = jax.tree.map(lambda p: p + 0.1 * np.arange(8), variables)
    theirs = nn.LayerNorm(epsilon=1e-5, use_bias=layer.bias, use_fast_variance=False)
    theirs = theirs.clone(reduction_axes=tuple(range(-layer.over, 0)))
    wanted = theirs.apply(variables, x)
    np.testing.assert_allclose(layer.apply(variables, x), wanted, atol=1e-5)


@pytest.mark.parametrize("layer", [layers.LayerNorm(), layers.LayerNorm(over=2), layers.RMSNorm()])
def test_norms_see_the_channels_that_are_there(layer: nn.Module) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 3, 8)) + 4
    small = layer.apply(layer.init(jax.random.key(1), x[..., :5]), x[..., :5])
    there = jnp.arange(8) < 5
    variables = jax.tree.map(lambda p: p * there, layer.init(jax.random.key(1), x))
    given_alive = {**variables, "alive": {"alive": there.astype(jnp.float32)}}
    masked = layer.apply(given_alive, x * there.reshape(1, 1, 8))
    np.testing.assert_allclose(masked[..., :5], small, atol=1e-6)
    assert not np.any(masked[..., 5:])
