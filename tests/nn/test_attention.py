"""Attention: beside Flax's, beside sums written out, and with heads that are not there."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.errors import UserError
from supernet_jax.nn import attention
from supernet_jax.nn.attention import BY_HEAD, NONE, PREFIX, Grid, SelfAttention

B, C, H, D = 2, 6, 3, 4


def noisy(module: nn.Module, x: jax.Array) -> Any:
    """Variables in which no bias is zero."""
    variables = jax.jit(module.init)(jax.random.key(1), x)
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda p: np.asarray(p) + np.asarray(0.3 * rng.normal(size=p.shape), p.dtype), variables
    )


def tokens(count: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (B, count, C))


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_that_of_flax(causal: bool) -> None:
    x, own = tokens(5), SelfAttention(H, D, causal=causal)
    params = noisy(own, x)["params"]
    theirs = nn.MultiHeadDotProductAttention(H, qkv_features=H * D)
    mapped: dict[str, Any] = {
        name: {leaf: value[i] for leaf, value in heads.items()}
        for i, name in enumerate(("query", "key", "value"))
        for heads in [
            {
                "kernel": jnp.moveaxis(params["heads"]["kernel"], 1, 0),
                "bias": params["heads"]["bias"],
            }
        ]
    }
    mapped["out"] = params["merge"]
    mask = nn.make_causal_mask(x[..., 0]) if causal else None
    # Flax makes the mask of the heads by promoting ranks.
    with jax.numpy_rank_promotion("allow"):
        wanted = theirs.apply({"params": mapped}, x, mask=mask)
    np.testing.assert_allclose(own.apply({"params": params}, x), wanted, atol=1e-5)


def test_no_bias_and_no_grid_have_no_parameters() -> None:
    params = SelfAttention(H, D, bias=NONE, out_bias=False).init(jax.random.key(0), tokens(5))
    shapes = jax.tree.map(jnp.shape, params["params"])
    assert shapes == {"heads": {"kernel": (C, 3, H, D)}, "merge": {"kernel": (H, D, C)}}


def test_relative_positions_are_the_sums_written_out() -> None:
    grid = Grid(2, 4, 2)  # columns 3 apart count as 2 apart
    x, module = tokens(1 + 8), SelfAttention(H, D, bias=PREFIX, grid=grid)
    variables = noisy(module, x)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables["params"])
    heads = np.einsum("bnc,cihd->ibnhd", np.asarray(x, np.float64), params["heads"]["kernel"])
    q, k, v = heads + params["heads"]["bias"].reshape(3, 1, 1, H, D)
    keys, values = (distances(params["attention"], grid) for params in parts(params))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) + np.einsum("bqhd,qkd->bhqk", q, keys)
    weights = np.exp(scores / D**0.5)
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bhqk,bkhd->bqhd", weights, v) + np.einsum("bhqk,qkd->bqhd", weights, values)
    wanted = np.einsum("bqhd,hdc->bqc", y, params["merge"]["kernel"]) + params["merge"]["bias"]
    np.testing.assert_allclose(module.apply(variables, x), wanted, atol=1e-5)


def parts(params: Any) -> list[Any]:
    return [{"attention": params[name]} for name in ("key_positions", "value_positions")]


def distances(tables: Any, grid: Grid) -> np.ndarray:
    """The embedding of each pair of tokens, one after the other: `[N, N, D]`."""
    count = 1 + grid.rows * grid.columns
    found = np.zeros((count, count, D))
    for a, b in itertools.product(range(count), repeat=2):
        rows = [0, 0]
        if a and b:
            (y, x), (to_y, to_x) = divmod(a - 1, grid.columns), divmod(b - 1, grid.columns)
            steps = (to_y - y, to_x - x)
            rows = [max(-grid.distance, min(grid.distance, s)) + grid.distance + 1 for s in steps]
        found[a, b] = tables["vertical"][rows[0]] + tables["horizontal"][rows[1]]
    return found


def test_tokens_that_are_not_those_of_the_grid() -> None:
    with pytest.raises(UserError, match=r"2 x 4 patches and a class token are 9 tokens, .* are 8"):
        SelfAttention(H, D, grid=Grid(2, 4, 2)).init(jax.random.key(0), tokens(8))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_fewer_heads_read_the_beginning_of_a_prefix(heads: int) -> None:
    bias = jnp.arange(1.0, 3 * H * D + 1)
    there = (np.arange(H) < heads).astype(np.float32)
    read = lambda b: attention.read_prefix(b, H, jnp.asarray(there))  # noqa: E731
    found, own = read(bias), 3 * heads * D
    np.testing.assert_array_equal(found[:, :heads], bias[:own].reshape(3, heads, D))
    assert not np.any(found[:, heads:])
    # Each number that is read is read once; the others have no gradient.
    gradient = jax.grad(lambda b: jnp.sum(jnp.square(read(b))))(bias)
    np.testing.assert_array_equal(gradient[:own], 2 * bias[:own])
    assert not np.any(gradient[own:])


def test_a_code_reads_the_expectation() -> None:
    bias, share = jnp.arange(1.0, 3 * H * D + 1), 0.25
    alone = [
        attention.read_prefix(bias, H, jnp.asarray(there)) for there in ([1.0, 0, 0], [1.0, 1, 1])
    ]
    mixed = attention.read_prefix(bias, H, jnp.asarray([1.0, share, share]))
    np.testing.assert_allclose(mixed, (1 - share) * alone[0] + share * alone[1], rtol=1e-6)


@pytest.mark.parametrize("bias", [BY_HEAD, PREFIX, NONE])
def test_heads_that_are_not_there_do_not_count(bias: str) -> None:
    x, few = tokens(5), 2
    large, small = (SelfAttention(h, D, bias=bias) for h in (H, few))
    variables = noisy(large, x)
    cut = jax.tree.map(
        lambda p, s: p[tuple(slice(n) for n in s.shape)],
        variables,
        jax.eval_shape(small.init, jax.random.key(0), x),
    )
    there = jnp.asarray(np.arange(H) < few, jnp.float32)
    alive = {name: {"alive": there} for name in ("heads", "merge")}
    masked = jax.jit(large.apply)({**variables, "alive": alive}, x)
    np.testing.assert_allclose(masked, jax.jit(small.apply)(cut, x), atol=1e-5)
