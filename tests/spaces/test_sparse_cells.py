"""Sparse convolutions beside dense ones: zeros to the unit, gradients, what is taken out."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import Check, global_difference, largest_difference

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.elastic_block import TRANSFORMS
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import extract
from supernet_jax.nn.blocks.cells import ReluConv, ReluConvSpec
from supernet_jax.spaces import SparseCells, nas_bench_201
from supernet_jax.spaces.sparse_cells import OPERATIONS, Sparse, sparse_cells
from supernet_jax.tasks import ImageClassification

EDGE, OWN = "stage1_cell1_edge1_2", "sparse_conv3x3"
SHARE = 0.3


@functools.cache
def edge() -> Space:
    """A single edge."""
    task = ImageClassification(2, 5)
    how: Any = {"resolution": 4, "channels": 3, "cells": 1, "stages": 1, "nodes": 2}
    dense = nas_bench_201.nas_bench_201("edge", task=task, outputs=5, input_channels=2, **how)
    return sparse_cells(dense, share=SHARE)


@functools.cache
def check() -> Check:
    return Check(edge(), size=4, forwards=("switched",))


def arch_of(operation: str) -> Any:
    return choices.replace(
        choices.smallest(edge().menu), ("edge", 0), np.int32(OPERATIONS.index(operation))
    )


@pytest.mark.parametrize(
    ("share", "shape", "kept"),
    [
        (0.1, (3, 3, 3, 3), 9),  # the published code: int(0.9 * 81) = 72 zeros
        (0.07, (1, 1, 10, 10), 7),  # 0.07 * 100 is above 7 in floats
        (0.01, (1, 1, 2, 2), 1),
        (1.0, (3, 3, 2, 2), 36),
    ],
)
def test_the_share_of_zeros_to_the_unit(share: float, shape: Any, kept: int) -> None:
    rng = np.random.default_rng(0)
    weights, made = rng.normal(size=shape).astype(np.float32), Sparse(share)
    start = made.init(jax.random.key(0), shape)
    found = np.asarray(made(start, weights, None))
    order = np.argsort(-np.abs(weights), axis=None)[:kept]  # at first, magnitudes
    assert set(np.flatnonzero(found)) == set(order)
    np.testing.assert_array_equal(found.flat[order], weights.flat[order])
    # What is learned moves the mask, and equal scores are told apart.
    least = np.argmin(np.abs(weights))
    start["scores"] = start["scores"].at[np.unravel_index(least, shape)].set(10.0)
    assert made(start, weights, None).reshape(-1)[least] == weights.flat[least]
    alike = made(made.init(jax.random.key(0), shape), jnp.ones(shape), None)
    assert np.count_nonzero(alike) == kept
    assert not np.any(made(start, jnp.zeros(shape), None)), "nothing of nothing is no number"


def test_gradients_pass_straight_through_the_mask() -> None:
    """Of a kernel of 2 x 3 weights, half of which are kept."""
    weights = jnp.array([[0.5, -2.0, 0.1], [1.0, -0.2, 0.3]]).reshape(1, 1, 2, 3)
    learned = jnp.array([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]).reshape(1, 1, 2, 3)
    slope = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reshape(1, 1, 2, 3)  # dL/dw'

    def loss(params: Any, weights: Any) -> Any:
        return jnp.sum(slope * Sparse(0.5)(params, weights, None))

    of_scores, of_weights = jax.grad(loss, (0, 1))({"scores": learned}, weights)
    np.testing.assert_array_equal(of_weights.reshape(2, 3), [[0, 2, 3], [4, 0, 0]])
    # w dL/dw', and the sign of the score's inside, which is that of w where nothing is learned.
    wanted = [[0.5, 4.0, 0.3], [4.0, 1.0, 1.8]]
    np.testing.assert_allclose(of_scores["scores"].reshape(2, 3), wanted, rtol=1e-6)


def test_strategies_agree() -> None:
    """Masked, switched, block by block and as a code; what an arch lacks has no gradient.

    This is no row of the theorem's, which tells dead weights by random values of all parameters:
    which weights are zero here depends on their own.
    """
    made, arch = check(), arch_of(OWN)
    output, gradients = made.run("sliced", arch)
    for name in ("masked", "blockwise"):
        other, others = made.run(name, arch)
        assert largest_difference(other.logits, output.logits) < 1e-5
        assert largest_difference(other.moments, output.moments) < 1e-5
        assert global_difference(others, gradients) < 1e-5
        for option, tree in others[EDGE].items():
            leaves = jax.tree.leaves(tree)
            assert option in (OWN, TRANSFORMS) or not any(np.any(leaf) for leaf in leaves)
        scores = others[EDGE][TRANSFORMS]
        assert np.all(scores[f"{OWN}/conv/kernel:sparse"]["scores"] != 0)
        assert not np.any(scores["sparse_conv1x1/conv/kernel:sparse"]["scores"])
    switched, _ = made.run("switched", arch)
    assert largest_difference(switched.logits, output.logits) < 1e-5
    run = made.forward(mixed)
    one_hot = run(made.params, choices.one_hot(edge().menu, arch))
    assert largest_difference(one_hot.logits, output.logits) < 1e-5
    code = choices.one_hot(edge().menu, arch)
    code["edge"][0] = jax.nn.softmax(jnp.arange(7.0) / 3)
    by_weights = made.forward(strategies.masked)(made.params, code)
    assert largest_difference(run(made.params, code).logits, by_weights.logits) < 1e-5
    assert largest_difference(by_weights.logits, output.logits) > 1e-2


def test_what_is_taken_out_is_an_ordinary_convolution_with_zeros() -> None:
    made, arch = check(), arch_of(OWN)
    stats = made.run("masked", arch)[0].moments
    module, variables = extract.extract(edge(), made.params, arch, stats)
    block = next(block for block in module.blocks if block.name == EDGE)
    assert (block.module, block.spec) == (ReluConv, ReluConvSpec(3, 3, 3))
    kernel = variables["params"][EDGE]["conv"]["kernel"]
    assert set(variables["params"][EDGE]) == {"conv", "norm"}
    assert np.count_nonzero(kernel) == 25 and kernel.size == 81  # 0.3 * 81 = 24.3
    images = np.asarray(made.images)
    assert extract.prove(edge(), made.params, arch, stats, module, variables, images) <= 1e-5


def test_costs_count_a_sparse_kernel_as_a_dense_one() -> None:
    for cost in (costs.macs, costs.parameters):
        of = cost(edge())
        assert of(arch_of(OWN)) == of(arch_of("conv3x3")) > of(arch_of("sparse_conv1x1"))


def test_the_space_by_its_configuration() -> None:
    space = SparseCells(resolution=8, channels=4, cells=1, stages=1).build()
    assert choices.count(space.menu) == 7**6 and space.name == "sparse_cells"
    for share in (0.0, 1.5):
        with pytest.raises(UserError, match=rf"space\.share is {share}, but must be above 0"):
            SparseCells(share=share).build()
