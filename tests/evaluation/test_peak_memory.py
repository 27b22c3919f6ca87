"""Peak memory: to the byte what the whole network of a subnet needs, looked at naively."""

from typing import Any

import jax
import jax.numpy as jnp
import light_space
import numpy as np
import pytest
import tiny_space
from theorem import archs_of

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks.network import Block, Network
from supernet_jax.nn import liveness
from supernet_jax.nn.liveness import Operations
from supernet_jax.spaces import mobilenet
from supernet_jax.tasks import ImageClassification

SPACES = {
    "light": light_space.light,
    "tiny": tiny_space.tiny,
    "digits": mobilenet.digits,
    "transforming": tiny_space.transforming,
    "tokens": tiny_space.tokens,
    "two_factors": tiny_space.two_factors,
    "decoding": tiny_space.decoding,
    "decoding_untied": tiny_space.decoding_untied,
    "encoding": tiny_space.encoding,
}


def naive(given: Operations) -> int:
    """The largest number of values at any moment, each looked at by itself."""
    made = {array: -1 for array in range(given.inputs)}
    made |= {array: i for i, each in enumerate(given.each) for array in each.makes}
    needed = {array: [-1] for array in made}
    for i, each in enumerate(given.each):
        for read in each.reads:
            needed[read.array].append(i)
    for array in given.outputs:
        needed[array].append(len(given.each))
    totals = [sum(given.sizes[: given.inputs])]
    for i, each in enumerate(given.each):
        there = [a for a in made if made[a] < i <= max(needed[a])]
        total = sum(given.sizes[a] for a in [*there, *each.makes]) + each.beside
        gone = [a for a in there if max(needed[a]) == i]
        for new in each.makes if each.in_place else ():
            for old in gone:
                ways = {(r.size, r.order) for r in each.reads if r.array == old}
                same = given.sizes[old] == given.sizes[new]
                if same and len(ways) == 1 and (given.sizes[old],) == next(iter(ways))[:1]:
                    total -= given.sizes[old]
                    gone.remove(old)
                    break
        totals.append(total)
    return max(totals)


def network(space: Space, arch: Any) -> Network:
    """As it is extracted."""
    there = [(name, block, block.spec(arch)) for name, block in space.blocks.items()]
    blocks = [Block(name, b.module, spec) for name, b, spec in there if spec is not None]
    return Network(tuple(blocks), space.size_of(arch), space.task)


@pytest.mark.parametrize("name", SPACES)
def test_of_whole_networks(name: str) -> None:
    space = SPACES[name]()
    archs = archs_of(space, 8)
    wanted = []
    for arch in archs:
        inputs = space.task.inputs(space.size_of(arch))
        program = liveness.program(network(space, arch), [inputs])
        wanted.append(naive(liveness.operations(program, 1)))
    assert len(set(wanted)) > 1
    found = costs.peak_memory(space, bytes_per_value=4)(choices.stack(archs))
    np.testing.assert_array_equal(found, 4 * np.asarray(wanted))


def test_by_hand() -> None:
    """An expansion to six times as many channels, beside its input; the first layer is smaller."""
    space = light_space.light(widths=(3, 12), resolutions=(8,))
    cost = costs.peak_memory(space)
    assert cost(choices.smallest(space.menu)) == 64 * (2 + 3)
    # Two maps of the second layer, which has no shortcut.
    assert cost(choices.largest(space.menu)) == 64 * (12 + 12)


def test_a_topology_of_its_own_is_refused() -> None:
    menu = {"resolution": Choice((8,)), "width": Choice((3, 4))}
    mix = elastic(light_space.Mix, lambda: light_space.Sizes(2, 2), menu=menu)
    pool = elastic(light_space.Pool, lambda: light_space.Sizes(2, 3), menu=menu)
    blocks, task = {"mix": mix, "pool": pool}, ImageClassification(2, 3)

    def space(forward: Any) -> Space:
        return Space("joined", menu, blocks, forward, task, (("resolution",),))

    assert costs.peak_memory(space(chain(("mix", "pool"))))(choices.smallest(menu)) == 64 * 4
    for forward in (
        lambda run, x: run("pool", x + run("mix", x)),
        lambda run, x: jnp.exp(run("pool", run("mix", x))),
        lambda run, x: run("pool", run("mix", run("mix", x))),
        lambda run, x: (run("mix", x), run("pool", x))[1],
    ):
        with pytest.raises(UserError, match="the peak memory of space joined is not known"):
            costs.peak_memory(space(forward))


def test_bytes_of_a_number() -> None:
    space = light_space.light()
    arch = jax.tree.map(jnp.asarray, choices.largest(space.menu))
    one, four = (costs.PeakMemory(n).build(space)(arch) for n in (1, 4))
    assert int(four) == 4 * int(one)
    with pytest.raises(UserError, match="bytes-per-value is 0"):
        costs.PeakMemory(0)
