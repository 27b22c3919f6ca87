"""What a search space is: its menu, its elastic blocks and their topology.

Shape letters: `B` inputs, `C` channels, `K` classes, `N` rows of a parameter bank.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block
from supernet_jax.elastic.choices import Arch, Array, Lookup, Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock
from supernet_jax.errors import UserError, near
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import owned

Run = Callable[..., Array]
Topology = Callable[[Run, Array], Array]
LONGEST_NAME = 100  # characters; names of a few levels are one in the files of extracted networks


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
        input_channels: C of the inputs.
        classes: K.
        size: where the input size stands in the menu. It is a shape, hence never
            traced: each size has a program of its own.
        bank: a parameter bank, or None for one set of parameters without an extra axis.

    Raises:
        UserError: a decision, a block or its group has a name that no file could hold.
    """

    name: str
    menu: Menu
    blocks: Mapping[str, ElasticBlock]
    forward: Topology
    input_channels: int
    classes: int
    size: Path = ("size",)
    bank: Bank | None = None

    def __post_init__(self) -> None:
        _check_keys(self.menu, "a decision in the menu")
        for name, block in self.blocks.items():
            check_name(name, "a block")
            if block.group is not None:
                check_name(block.group, f"the group of block {name!r}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The input sizes on offer, smallest first."""
        return tuple(int(r) for r in choices.get(self.menu, self.size).values)

    def size_of(self, arch: Arch) -> int:
        """The input size of a concrete arch without batch axes."""
        return self.sizes[int(choices.get(arch, self.size))]


def check_name(name: Any, what: str) -> None:
    """Makes sure that a name can be a key of parameters in every file.

    Args:
        name: of anything whose parameters or decisions are kept by name.
        what: that is called so, for the message.

    Raises:
        UserError: it cannot.
    """
    fits = isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()
    if not fits or {"/", "\\"} & set(name) or name in (".", ".."):
        raise UserError(
            f"{what} is called {ascii(name)[:80]}; names are text of 1 to {LONGEST_NAME} printable "
            "characters, without / and \\, and not . or ..: rename it"
        )


def _check_keys(tree: Any, what: str) -> None:
    """Holds the keys of nested dicts, and of what lists among them hold, to `check_name`."""
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            check_name(name, what)
            _check_keys(inner, what)
    elif isinstance(tree, list | tuple):
        for inner in tree:
            _check_keys(inner, what)


def group(space: Space, name: str) -> str:
    """The name under which a block's parameters are kept."""
    return space.blocks[name].group or name


class Geometry(NamedTuple):
    """Shapes of a union block at one size, batch 1: its inputs, and everything of its own."""

    inputs: tuple[tuple[int, ...], ...]
    shapes: block_shapes.BlockShapes


@owned.by(owned.first)
def geometry(space: Space, size: int) -> dict[str, Geometry]:
    """Shapes of every union block at one input size.

    Raises:
        UserError: the topology runs a block that is not there, or a block has parameters that no
            file could hold.
    """
    found: dict[str, Geometry] = {}

    def run(name: str, *inputs: Array) -> Array:
        if name not in space.blocks:
            raise UserError(
                f"the topology of the space {space.name} runs a block {name!r}, which is not among "
                f"its blocks{near(str(name), space.blocks)}"
            )
        block = space.blocks[name]
        shapes = tuple(x.shape for x in inputs)
        found[name] = Geometry(shapes, elastic_block.shapes(block, block.union, shapes))
        for tree in found[name].shapes[:2]:  # parameters and statistics
            _check_parameters(tree, f"in block {name!r}")
        return jnp.zeros(found[name].shapes.output.shape)

    inputs = jax.ShapeDtypeStruct((1, size, size, space.input_channels), jnp.float32)
    jax.eval_shape(functools.partial(space.forward, run), inputs)
    return found


def _check_parameters(tree: Any, where: str) -> None:
    """Makes sure that parameters are nested dicts of arrays, under names that files can hold."""
    if isinstance(tree, Mapping):
        for name, inner in tree.items():
            check_name(name, f"a layer or parameter {where}")
            _check_parameters(inner, where)
    elif not isinstance(tree, jax.ShapeDtypeStruct):
        raise UserError(
            f"{where} there is a parameter that is a {type(tree).__name__}, not an array; make "
            "each array a parameter of its own"
        )


def identity(space: Space, size: int, archs: Arch) -> Array | np.ndarray:
    """What each block of an arch is, in the order in which they run: int32 `[..., blocks + 1]`.

    Archs with equal numbers up to a place do the same up to there: the row of the bank comes
    first, then each block's spec, -1 where it is skipped. NumPy in, NumPy out.
    """
    first = space.which_size(archs) * 0
    xp = jnp if isinstance(first, jax.Array) else np
    columns = [first if space.bank is None else space.bank.row(archs)]
    for name in geometry(space, size):
        block = space.blocks[name]
        which = first + block.index(archs)
        columns.append(
            which if block.alive is None else xp.where(block.alive(archs) > 0, which, -1)
        )
    return xp.stack(columns, axis=-1)


def normal(space: Space, archs: Arch) -> Arch:
    """The archs as every arch of the same network is written: equal networks, equal archs.

    A decision that changes nothing of what the others make of the network, as one for a block that
    is skipped, takes its first option; so does one of which several options make the same sizes
    take the first of these. (Where only changing several decisions at once leaves a network as it
    is, archs stay apart.)

    Args:
        space: whose archs.
        archs: `[...]`, concrete.

    Returns:
        NumPy archs `[...]`, of the same `identity` and size.
    """
    archs = jax.tree.map(lambda leaf: np.asarray(leaf, np.int32), archs)
    for path, read in _readers(space).items():
        if path == space.size:
            continue
        own = choices.get(archs, path)
        best, before = own, [_answer(ask, archs) for ask in read]
        for option in reversed(range(len(choices.get(space.menu, path)) - 1)):
            other = choices.replace(archs, path, np.full_like(own, option))
            same = [_answer(ask, other) == seen for ask, seen in zip(read, before, strict=True)]
            best = np.where(functools.reduce(np.logical_and, same, own > option), option, best)
        archs = choices.replace(archs, path, best)
    return archs


def distinct(space: Space, archs: Sequence[Arch]) -> list[Arch]:
    """The first of those archs that are the same network, as they were given."""
    if not archs:
        return []
    rows = np.asarray(choices.pack(normal(space, choices.stack(archs))))
    _, first = np.unique(rows, axis=0, return_index=True)
    return [archs[i] for i in np.sort(first)]


_Ask = tuple[Lookup, Lookup | None]  # which spec or row, and whether it is there at all


@owned.by(owned.first)
def _readers(space: Space) -> dict[Path, list[_Ask]]:
    """What depends on each decision: the blocks that ask for it, and the row of the bank."""
    asks: list[_Ask] = [(block.index, block.alive) for block in space.blocks.values()]
    asks += [] if space.bank is None else [(space.bank.row, None)]
    return {
        path: [
            (index, alive)
            for index, alive in asks
            if path in index.paths or (alive is not None and path in alive.paths)
        ]
        for path in choices.paths(space.menu)
    }


def _answer(ask: _Ask, archs: Arch) -> np.ndarray:
    index, alive = ask
    which = np.asarray(index(archs))
    return which if alive is None else np.where(np.asarray(alive(archs)) > 0, which, -1)
