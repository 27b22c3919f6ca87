"""Draws made at once have the distributions that they have one by one, and are independent."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import light
from tiny_space import tiny, transforming

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.choices import Array, Lookup
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.runtime import bulk_random, sharding

BANK = Bank(2, Lookup((("width",),), np.asarray([0, 1, 1])))
SPACES = (  # plain, with learned transforms, all in rows, some in rows
    tiny(),
    transforming(),
    light(bank=BANK),
    light(bank=BANK._replace(groups=("pool",))),
)

N = 20_000


def several(key: Array) -> dict[str, Array]:
    """Draws of the kinds that parameters start with, also inside functions jitted by themselves."""
    first, second = jax.random.split(key)
    jitted = jax.jit(lambda key: jax.random.normal(key, (N, 2)))
    return {
        "uniform": jax.random.uniform(first, (N,), minval=-2.0, maxval=1.0),
        "normal": jitted(second),
        "truncated": nn.initializers.truncated_normal(1.0)(jax.random.fold_in(key, 7), (N,)),
        "he": nn.initializers.he_normal()(jax.random.fold_in(key, 8), (100, N // 100)),
        "ones": jnp.ones(3),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return jax.device_get(jax.jit(bulk_random.at_once(several))(jax.random.key(0)))


def test_same_distributions(drawn: dict[str, np.ndarray]) -> None:
    one_by_one = jax.device_get(several(jax.random.key(1)))
    shares = np.linspace(0.02, 0.98, 25)
    for name in ("uniform", "normal", "truncated", "he"):
        mine, other = drawn[name].ravel(), one_by_one[name].ravel()
        assert mine.dtype == other.dtype and drawn[name].shape == one_by_one[name].shape
        # Five standard deviations of the difference of two quantiles' ranks.
        bound = 5 * np.sqrt(0.5 / mine.size)
        ranks = np.searchsorted(np.sort(mine), np.quantile(other, shares)) / mine.size
        assert np.max(np.abs(ranks - shares)) < bound
    np.testing.assert_array_equal(drawn["ones"], np.ones(3))


def test_independent(drawn: dict[str, np.ndarray]) -> None:
    names = ("uniform", "truncated", "he")
    rows = np.stack([drawn[name].ravel() for name in names] + list(drawn["normal"].T))
    off = np.corrcoef(rows) - np.eye(len(rows))
    assert np.max(np.abs(off)) < 5 / np.sqrt(N)


def test_a_function_of_the_key_alone() -> None:
    draw = bulk_random.at_once(several)
    first, again, other = (draw(jax.random.key(i)) for i in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.any(np.asarray(first["normal"]) == np.asarray(other["normal"]))


def test_one_draw_and_nothing_that_is_not_needed() -> None:
    def wasteful(key: Array) -> Array:
        a, b, c = jax.random.split(key, 3)
        jnp.sort(jax.random.normal(a, (9,)))
        return jax.random.uniform(b, (4,)) + jax.random.uniform(c, (4,))

    program = str(jax.make_jaxpr(bulk_random.at_once(wasteful))(jax.random.key(0)))
    assert program.count("random_bits[") == 1
    assert "sort" not in program and "random_split" not in program
    # Some numbers, not one for all of them.
    assert len(np.unique(bulk_random.at_once(wasteful)(jax.random.key(0)))) == 4


def test_loops_and_other_widths_are_left_alone() -> None:
    def function(key: Array) -> tuple[Array, Array]:
        loop = jax.lax.map(lambda k: jax.random.normal(k, (3,)), jax.random.split(key, 4))
        return loop, jax.random.bits(key, (5,), jnp.uint8)

    key = jax.random.key(3)
    jax.tree.map(np.testing.assert_array_equal, bulk_random.at_once(function)(key), function(key))


def test_without_any_draw() -> None:
    np.testing.assert_array_equal(
        bulk_random.at_once(lambda key: jnp.ones(2))(jax.random.key(0)), 1.0
    )


def test_parts_of_a_draw_are_drawn_alone() -> None:
    """By several devices, and from any number on, they are the numbers of the whole draw."""
    whole, own = jax.random.key(0), jax.random.key(5)
    names = ("he", "normal", "uniform")

    def two(key: Array) -> list[dict[str, Array]]:
        del key
        return [several(own), several(own)]

    count = bulk_random.numbers(several)
    assert bulk_random.has_parts() and count == 5 * N and bulk_random.numbers(two) == 2 * count
    at_once = jax.jit(bulk_random.at_once(two))(whole)
    part = jax.jit(bulk_random.part(several, mesh=sharding.data_mesh(model=2)))
    for i, expected in enumerate(at_once):
        found = part(own, whole, np.uint32(i * count))
        for name in names:
            np.testing.assert_array_equal(found[name], expected[name])


def test_several_keys_at_once() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.vmap(bulk_random.at_once(several))(keys)
    for i, key in enumerate(keys):
        jax.tree.map(
            lambda row, alone, i=i: np.testing.assert_array_equal(row[i], alone),
            rows,
            bulk_random.at_once(several)(key),
        )


def test_a_space_starts_with_one_draw() -> None:
    start = jax.make_jaxpr(lambda key: shared_params.init(tiny(), key))(jax.random.key(0))
    assert str(start).count("random_bits[") == 1


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_shapes_of_parameters_are_those_of_their_start(space: Space) -> None:
    begun = jax.eval_shape(functools.partial(shared_params.init, space), jax.random.key(0))
    assert shared_params.parameter_shapes(space) == begun
