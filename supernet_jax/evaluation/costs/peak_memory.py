"""Peak memory: the bytes of the activations that live at once, at the worst moment.

`nn.liveness` says what lives when, exactly, of each block. Blocks run one after another, so that a
subnet needs as much as the neediest of its blocks. On a microcontroller this decides whether a
network runs at all (MCUNet, arXiv 2007.10319).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from supernet_jax.elastic import elastic_block
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.space import Geometry, Space, geometry
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation.costs import block_tables
from supernet_jax.evaluation.costs.block_tables import BlockCost, BlockTables
from supernet_jax.evaluation.costs.cost import Cost, check_is_space
from supernet_jax.nn import liveness
from supernet_jax.runtime import owned


def peak_memory(space: Space, *, bytes_per_value: int = 1) -> Cost:
    """Bytes of activations, one example: `arch[...] -> [...]`.

    The inputs of a network count, at the size to which the task brings them, and so does what it
    puts out; weights do not. Nothing is added where channels of a block that is skipped are padded
    or cut for the next one.

    Args:
        space: whose archs.
        bytes_per_value: of every array, as 1 for int8.

    Raises:
        UserError: it is no space, or its blocks do not simply run one after another.
    """
    check_is_space(space)
    return BlockCost(space, _tables(space, bytes_per_value))


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """Bytes of the activations that live at once, exact."""

    name: ClassVar[str] = "peak_memory"
    unit: ClassVar[str] = "bytes"
    bytes_per_value: int = 1
    """bytes of a number: 1 for int8, 2 for bfloat16, 4 for float32"""

    def __post_init__(self) -> None:
        at_least("peak-memory.bytes-per-value", self.bytes_per_value, 1)

    def build(self, space: Space) -> Cost:
        """The cost of a space's archs."""
        return peak_memory(space, bytes_per_value=self.bytes_per_value)

    def tables(self, space: Space) -> BlockTables:
        """Of its blocks."""
        return _tables(space, self.bytes_per_value)


@owned.by(owned.first)
def _tables(space: Space, bytes_per_value: int) -> BlockTables:
    _check_is_chain(space)

    def of_specs(place: Geometry, _: Geometry | None) -> list[int]:
        values = [liveness.peak(place.block.module, *at) for at in _specs_at(place)]
        return [bytes_per_value * n for n in values]

    return BlockTables(block_tables.tables(space, of_specs), "largest")


def _specs_at(place: Geometry) -> list[tuple[Any, liveness.Inputs]]:
    """Each spec of a block, as it is taken out, and the shapes of its own inputs."""
    block = place.block
    specs = map(block.taken_out, block.specs)
    return [(spec, elastic_block.own_inputs(block, spec, place.inputs)) for spec in specs]


def _check_is_chain(space: Space) -> None:
    """Raises a `UserError` unless each block reads what the one before it made, and that alone."""
    places, before, ran = geometry(space, space.sizes[0]), list[Any](), list[str]()
    own = True

    def run(name: str, *inputs: Array, otherwise: Array | None = None) -> Array:
        nonlocal before, own
        own &= len(inputs) == len(before) and all(map(_is, inputs, before)) and name not in ran
        own &= otherwise is None
        ran.append(name)
        before = [jnp.zeros_like(places[name].shapes.output)]
        return before[0]

    def forward(inputs: Any) -> Array:
        nonlocal before, own
        before = jax.tree.leaves(inputs)
        made = space.forward(run, inputs)
        own &= len(before) == 1 and made is before[0]
        return made

    jax.eval_shape(forward, space.task.inputs(space.sizes[0]))
    if not own:
        raise UserError(
            f"the peak memory of space {space.name} is not known: it is counted where blocks run "
            "one after another, each on what the one before it made, as sj.chain runs them"
        )


def _is(one: Any, other: Any) -> bool:
    return one is other
