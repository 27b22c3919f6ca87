"""Gradient matching: distances by hand, and a planted partition that is found."""

import dataclasses
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.evaluation import gradient_matching
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification

CHANNELS, CLASSES, BATCH = 8, 3, 64


@dataclasses.dataclass(frozen=True)
class TurnSpec:
    """What a `Turn` multiplies by."""

    sign: int


class Turn(nn.Module):
    """Its input, or the opposite, plus a little of what it learns."""

    spec: TurnSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        own = layers.Dense(CHANNELS, name="own")(x)
        return self.spec.sign * x + 0.3 * own


@dataclasses.dataclass(frozen=True)
class EndSpec:
    """Channels of the classifier."""

    c_in: int


class Stem(nn.Module):
    """The mean over pixels of shared features."""

    spec: EndSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(CHANNELS, name="features")(jnp.mean(x, (1, 2)))


class End(nn.Module):
    """A classifier."""

    spec: EndSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(CLASSES, name="classifier")(x)


# The options of "odd" turn what comes in by these signs, so two of them want other weights of the
# blocks around them than the other two. Those of "even" differ by as much, but turn nothing.
SIGNS = {"odd": (1, -1, 1, -1), "even": (1, 1, 1, 1)}


def planted() -> Space:
    menu = {"resolution": Choice((4,)), **{name: Choice((0, 1, 2, 3)) for name in SIGNS}}
    blocks = {"stem": elastic(Stem, lambda: EndSpec(2), menu=menu)}
    for name, signs in SIGNS.items():
        options = {f"op{i}": (Turn, TurnSpec(sign)) for i, sign in enumerate(signs)}
        blocks[name] = choice_block(options, menu=menu, decision=(name,), channels=(CHANNELS,))
    blocks["end"] = elastic(End, lambda: EndSpec(CHANNELS), menu=menu)
    task = ImageClassification(2, CLASSES)
    return Space("planted", menu, blocks, chain(tuple(blocks)), task, (("resolution",),))


@functools.cache
def found(seed: int) -> dict[str, np.ndarray]:
    """Distances of each decision, over a few random batches and subnets of random weights."""
    space = planted()
    rng = np.random.default_rng(seed)
    params = shared_params.init(space, jax.random.key(seed))
    program = jax.jit(gradient_matching.distances(space, size=4))
    total: dict[str, Any] = dict.fromkeys(SIGNS, 0.0)
    for name, i in itertools.product(SIGNS, range(4)):
        inputs = rng.standard_normal((BATCH, 4, 4, 2), np.float32) + rng.normal(size=2)
        own = gradient_matching.decided(space, (name,))
        assert own == {name}
        arch = choices.sample(space.menu, jax.random.key(100 * seed + i), (1,))
        archs = jax.tree.map(lambda leaf: jnp.repeat(leaf, 4), arch)
        total[name] += np.asarray(
            program(
                params,
                inputs.astype(np.float32),
                rng.integers(0, CLASSES, BATCH),
                choices.replace(archs, (name,), jnp.arange(4)),
                {owner: np.bool_(owner not in own) for owner in params},
            )
        )
    assert program._cache_size() == 1, "a decision of as many options has the same program"
    return {name: value / 4 for name, value in total.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_partition_is_found(seed: int) -> None:
    distances = found(seed)
    cuts = {name: gradient_matching.cut(matrix) for name, matrix in distances.items()}
    assert set(cuts["odd"].parts) == {(0, 2), (1, 3)}
    assert cuts["odd"].distance > 0.5 and cuts["even"].distance < 0.25


def test_distances_are_those_of_gradients_one_by_one() -> None:
    """Beside gradients of single subnets, leaf by leaf, in NumPy."""
    space, rng = planted(), np.random.default_rng(0)
    params = shared_params.init(space, jax.random.key(0))
    inputs = rng.standard_normal((8, 4, 4, 2), np.float32)
    labels = rng.integers(0, CLASSES, 8)
    arch = choices.smallest(space.menu)

    def gradient(option: int) -> np.ndarray:
        own = choices.replace(arch, ("odd",), np.int32(option))

        def loss(params: Any) -> Any:
            logits = strategies.sliced(space, params, own, inputs, size=4).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), labels])

        tree = jax.jit(jax.grad(loss))(params)
        return np.concatenate(
            [np.ravel(x) for name in tree if name != "odd" for x in jax.tree.leaves(tree[name])]
        )

    rows = [gradient(option) for option in range(4)]
    wanted = [[1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in rows] for b in rows]
    archs = jax.tree.map(lambda leaf: jnp.full(4, leaf), arch)
    matrix = jax.jit(gradient_matching.distances(space, size=4))(
        params,
        inputs,
        labels,
        choices.replace(archs, ("odd",), jnp.arange(4)),
        {owner: np.bool_(owner != "odd") for owner in params},
    )
    np.testing.assert_allclose(matrix, wanted, atol=2e-6)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_cut_is_the_best_of_all_halves(count: int) -> None:
    rng = np.random.default_rng(count)
    distances = rng.uniform(0, 2, (count, count))
    distances = (distances + distances.T) * (1 - np.eye(count)) / 2

    def within(parts: Any) -> float:
        return sum(
            float(distances[i, j]) for part in parts for i, j in itertools.combinations(part, 2)
        )

    made = gradient_matching.cut(distances)
    halves = [
        (one, tuple(set(range(count)) - set(one)))
        for one in itertools.combinations(range(count), count // 2)
    ]
    assert within(made.parts) == pytest.approx(min(map(within, halves)))
    across = [distances[i, j] for i in made.parts[0] for j in made.parts[1]]
    assert made.distance == pytest.approx(np.mean(across))


def test_many_options_are_parted_in_order() -> None:
    count = gradient_matching.MOST_COMPARED + 3
    places = np.arange(count)
    distances = np.abs(places[:, None] - places) / count
    assert gradient_matching.cut(distances).parts in (
        (tuple(range(count // 2)), tuple(range(count // 2, count))),
        (tuple(range(count // 2 + 1)), tuple(range(count // 2 + 1, count))),
    )
