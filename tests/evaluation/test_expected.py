"""The expected cost of a code, against the mean over all archs of a space."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_space

from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.spaces import NasBench201, attentivenas

SPACES = {"tiny": tiny_space.tiny, "tokens": tiny_space.tokens, "cells": tiny_space.cells}


def some_code(space: Space, seed: int = 0) -> Any:
    leaves, treedef = jax.tree.flatten(space.menu)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    made = [
        jax.nn.softmax(jax.random.normal(k, (len(c),))) for k, c in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, made)


def every_arch(space: Space) -> Any:
    sizes = [range(len(choice)) for choice in jax.tree.leaves(space.menu)]
    return choices.unpack(space.menu, np.asarray(list(itertools.product(*sizes)), np.int32))


@pytest.mark.parametrize("cost", [costs.macs, costs.parameters], ids=["macs", "parameters"])
@pytest.mark.parametrize("name", SPACES)
def test_it_is_the_mean_over_all_archs(name: str, cost: Any) -> None:
    space = SPACES[name]()
    code, archs = some_code(space), every_arch(space)
    leaves = zip(jax.tree.leaves(code), jax.tree.leaves(archs), strict=True)
    chance = math.prod(np.asarray(weights, np.float64)[i] for weights, i in leaves)
    assert chance.sum() == pytest.approx(1, abs=1e-6)
    values, of = cost(space)(archs), costs.expected(cost(space))
    assert float(of(code)) == pytest.approx(float(chance @ values), rel=1e-5)
    for i in (0, len(values) // 2, len(values) - 1):
        arch = jax.tree.map(lambda leaf, i=i: leaf[i], archs)
        assert float(of(choices.one_hot(space.menu, arch))) == pytest.approx(values[i], rel=1e-6)


def test_its_gradient_lowers_it() -> None:
    """Along the gradient of the logits the published space gets cheaper, inside jit."""
    space = attentivenas.attentivenas()
    of = costs.expected(costs.macs(space))
    logits = jax.tree.map(lambda choice: jnp.zeros(len(choice)), space.menu)
    value = jax.jit(jax.value_and_grad(lambda z: of(jax.tree.map(jax.nn.softmax, z)) / 1e9))
    before, gradients = value(logits)
    after, _ = value(jax.tree.map(lambda z, g: z - g, logits, gradients))
    drawn = jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(0), (4000,)))
    assert float(before) * 1e9 == pytest.approx(costs.macs(space)(drawn).mean(), rel=0.02)
    assert after < before


def test_what_has_no_expected_cost() -> None:
    space = NasBench201(channels=4, cells=1).build()
    arch = choices.smallest(space.menu)
    with pytest.raises(UserError, match="made of the costs of blocks"):
        costs.expected(lambda arch: 1.0)
    with pytest.raises(UserError, match="that of a code"):
        costs.expected(costs.macs(space))(arch)
    with pytest.raises(UserError, match="combinations of options"):
        costs.expected(costs.peak_memory(attentivenas.attentivenas()))
