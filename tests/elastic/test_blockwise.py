"""Block by block: what programs there are, topologies with operations between blocks, and the mesh.

That gradients, logits and statistics are those of the other strategies is in `test_theorem.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import Mix, Pool, Sizes, light
from theorem import global_difference, largest_difference, random_params
from tiny_space import deep

from supernet_jax.elastic import blockwise, choices, strategies
from supernet_jax.elastic.blockwise import Blockwise, Mode
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.runtime import sharding
from supernet_jax.tasks import ImageClassification

TOLERANCE = 1e-5  # float32: sums are ordered otherwise


def branching(combine: Callable) -> Space:
    """Two branches of one width, combined outside of any block; the second may be skipped."""
    menu = {"resolution": Choice((4,)), "width": Choice((3, 5)), "depth": Choice((1, 2))}
    make = functools.partial(elastic, menu=menu, decisions=[("width",)])
    blocks = {
        "stem": make(Mix, lambda c: Sizes(2, c)),
        "left": make(Mix, lambda c: Sizes(c, c)),
        "right": make(Mix, lambda c: Sizes(c, c), depth=(("depth",), 1)),
        "pool": make(Pool, lambda c: Sizes(c, 4)),
    }

    def forward(run: Any, x: Any) -> Any:
        x = run("stem", x)
        return run("pool", combine(run("left", x), run("right", x), x))

    return Space("branching", menu, blocks, forward, ImageClassification(2, 4), (("resolution",),))


ROWS = np.arange(1.0, 5.0, dtype=np.float32).reshape(1, 4, 1, 1)
COMBINATIONS: dict[str, Callable] = {
    "a sum": lambda left, right, x: left + right,
    "a sum of products": lambda left, right, x: left * right + 0.5 * x,
    "an array of its own": lambda left, right, x: (
        left + right * np.arange(1, 17).reshape(1, 4, 4, 1)
    ),
    "functions": lambda left, right, x: jax.nn.relu(jnp.tanh(left) - right),
}


def gradient(run: Blockwise, params: Any, arch: Any, images: Any, **how: Any) -> tuple[Any, Any]:
    """The sum of squares of logits, and its gradient."""
    resolution = run.space.size_of(arch)
    leaves = run.leaves(params)
    passed = run.forward(
        run.plan(arch, Mode(resolution, len(images), **how)),
        leaves,
        blockwise.prepare(images, run.space.task, resolution, run.dtype),
    )
    loss, of_logits = jax.value_and_grad(lambda y: jnp.sum(jnp.square(y)))(passed.logits)
    zero = {name: [jnp.zeros_like(x) for x in own] for name, own in leaves.items()}
    return loss, run.tree(run.backward(passed, of_logits, {}, zero))


def by_autodiff(space: Space, params: Any, arch: Any, images: Any) -> tuple[Any, Any]:
    def loss(params: Any) -> Any:
        size = space.size_of(arch)
        output = strategies.sliced(space, params, arch, images, size=size)
        return jnp.sum(jnp.square(output.logits))

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_operations_between_blocks(name: str) -> None:
    space = branching(COMBINATIONS[name])
    params, run = random_params(space), Blockwise(space)
    images = jax.random.normal(jax.random.key(0), (6, 4, 4, 2))
    for arch in (choices.largest(space.menu), choices.smallest(space.menu)):
        loss, gradients = gradient(run, params, arch, images)
        wanted, others = by_autodiff(space, params, arch, images)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
        assert global_difference(gradients, others) < TOLERANCE


def test_each_kind_of_block_is_one_program() -> None:
    space = deep()  # a stem, five blocks of one stage of which the first has a stride, a head
    run, params = Blockwise(space), random_params(space)
    images = jnp.ones((2, 8, 8, space.task.input_channels))
    largest = choices.largest(space.menu)
    operations = run.plan(largest, Mode(8, 2)).requests
    assert len(operations) == 7 and len(set(operations)) == 4
    gradient(run, params, largest, images)
    assert len(run.programs) == 4
    gradient(run, params, largest, images + 1)
    assert len(run.programs) == 4
    # No arch needs more than a program for each spec of each kind of block.
    archs = choices.unstack(choices.sample(space.menu, jax.random.key(0), (40,)))
    requests = {r for arch in archs for r in run.plan(arch, Mode(8, 2)).requests}
    kinds = {r.key[0] for r in requests | set(operations)}
    assert len(requests) <= sum(len(kind.block.specs) for kind in kinds)


def test_rematerialised_gradients_keep_nothing() -> None:
    space = branching(COMBINATIONS["a sum"])
    params, images = random_params(space), jax.random.normal(jax.random.key(0), (6, 4, 4, 2))
    arch = choices.largest(space.menu)
    plain, again = Blockwise(space), Blockwise(space, remat=True)
    (loss, one), (same, other) = (gradient(run, params, arch, images) for run in (plain, again))
    assert largest_difference(other, one) < TOLERANCE and abs(loss - same) < 1e-4
    assert 0 < again.held_bytes() < plain.held_bytes()


def test_many_devices_do_as_one() -> None:
    space = branching(COMBINATIONS["a sum"])
    mesh = sharding.data_mesh(jax.devices()[:4])
    params, arch = random_params(space), choices.largest(space.menu)
    images = jax.random.normal(jax.random.key(0), (8, 4, 4, 2))
    rules: sharding.Rules = ((r".*/kernel", "largest"), (r".*", "whole"))
    where = sharding.place(mesh, params, rules=rules, least=1)
    run, split = Blockwise(space, mesh=mesh, where=where), jax.device_put(params, where)
    loss, gradients = gradient(run, split, arch, sharding.split(mesh, images))
    wanted, others = gradient(Blockwise(space), params, arch, images)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert largest_difference(jax.device_get(gradients), jax.device_get(others)) < TOLERANCE
    assert jax.tree.map(lambda x: x.sharding, gradients) == where


def test_what_is_traced_is_refused() -> None:
    space = light()
    params, images = random_params(space), jnp.ones((2, 8, 8, 2))
    run = functools.partial(blockwise.blockwise, space, params, size=8)
    assert run(choices.largest(space.menu), images).logits.shape == (2, space.task.classes)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(run)(choices.largest(space.menu), images)
