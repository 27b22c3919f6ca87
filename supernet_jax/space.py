"""What a search space is: its menu, its elastic blocks and their topology.

Shape letters: `B` images, `C` channels, `K` classes, `N` rows of a parameter bank.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices, elastic
from supernet_jax.choices import Arch, Array, Lookup, Menu, Path
from supernet_jax.elastic import ElasticBlock

Run = Callable[..., Array]
Topology = Callable[[Run, Array], Array]


class Bank(NamedTuple):
    """Several copies of the shared parameters, one of which an arch picks.

    Attributes:
        rows: N, the size of the leading axis of every parameter.
        row: which of them an arch uses.
    """

    rows: int
    row: Lookup


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """A search space. Static: it never enters a traced function as an argument.

    Attributes:
        name: what files and messages call it.
        menu: the decisions.
        blocks: the elastic blocks, in the order in which they are usually run.
        forward: the topology.
        input_channels: C of the images.
        classes: K.
        resolution: where the input resolution stands in the menu. It is a shape, hence never
            traced: each resolution has a program of its own.
        bank: a parameter bank, or None for one set of parameters without an extra axis.
    """

    name: str
    menu: Menu
    blocks: Mapping[str, ElasticBlock]
    forward: Topology
    input_channels: int
    classes: int
    resolution: Path = ("resolution",)
    bank: Bank | None = None

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The input resolutions on offer, smallest first."""
        return tuple(int(r) for r in choices.get(self.menu, self.resolution).values)


def group(space: Space, name: str) -> str:
    """The name under which a block's parameters are kept."""
    return space.blocks[name].group or name


class Geometry(NamedTuple):
    """Shapes of a union block at one resolution, batch 1: its inputs, and everything of its own."""

    inputs: tuple[tuple[int, ...], ...]
    shapes: elastic.BlockShapes


@functools.cache
def geometry(space: Space, resolution: int) -> dict[str, Geometry]:
    """Shapes of every union block at one input resolution."""
    found: dict[str, Geometry] = {}

    def run(name: str, *inputs: Array) -> Array:
        block = space.blocks[name]
        shapes = tuple(x.shape for x in inputs)
        found[name] = Geometry(shapes, elastic.shapes(block, block.union, shapes))
        return jnp.zeros(found[name].shapes.output.shape)

    images = jax.ShapeDtypeStruct((1, resolution, resolution, space.input_channels), jnp.float32)
    jax.eval_shape(functools.partial(space.forward, run), images)
    return found


def identity(space: Space, resolution: int, archs: Arch) -> Array | np.ndarray:
    """What each block of an arch is, in the order in which they run: int32 `[..., blocks + 1]`.

    Archs with equal numbers up to a place do the same up to there: the row of the bank comes
    first, then each block's spec, -1 where it is skipped. NumPy in, NumPy out.
    """
    first = choices.get(archs, space.resolution) * 0
    xp = jnp if isinstance(first, jax.Array) else np
    columns = [first if space.bank is None else space.bank.row(archs)]
    for name in geometry(space, resolution):
        block = space.blocks[name]
        which = first + block.index(archs)
        columns.append(
            which if block.alive is None else xp.where(block.alive(archs) > 0, which, -1)
        )
    return xp.stack(columns, axis=-1)
