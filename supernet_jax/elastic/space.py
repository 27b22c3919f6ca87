"""What a search space is: its menu, its elastic blocks and their topology.

Shape letters: `B` examples, `N` rows of a parameter bank.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block
from supernet_jax.elastic.choices import Arch, Array, Choice, Code, Lookup, Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock
from supernet_jax.errors import UserError, near
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import owned
from supernet_jax.tasks.task import Size, Task

Run = Callable[..., Array]
Topology = Callable[[Run, Array], Array]
LONGEST_NAME = 100  # characters; names of a few levels are one in the files of extracted networks


class Bank(NamedTuple):
    """Several copies of shared parameters, one of which an arch picks.

    Attributes:
        rows: N, the size of the leading axis of every parameter that has rows.
        row: which of them an arch uses.
        groups: of parameters that have rows; all archs share the others. None for all groups.
    """

    rows: int
    row: Lookup
    groups: tuple[str, ...] | None = None

    def has(self, group: str) -> bool:
        """Whether a group of parameters has rows."""
        return self.groups is None or group in self.groups


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """A search space. Static: it never enters a traced function as an argument.

    Attributes:
        name: what files and messages call it.
        menu: the decisions.
        blocks: the elastic blocks, in the order in which they are usually run.
        forward: the topology.
        task: what it is for, which says what goes in and what comes out.
        static: where decisions stand in the menu that are shapes, as the length of sequences, and
            hence never traced: each of their values has a program of its own.
        bank: a parameter bank, or None where no parameter has several rows.
        trained: regular expressions for whole paths of parameters, as "block/layer/leaf": only
            those that one of them matches are trained. None trains all.
        uncounted: names of blocks whose parameters the space's paper leaves out where it counts
            those of a subnet, as embeddings of words or a classifier; so does the cost
            `parameters`. Extracted networks count all that they have.

    Raises:
        UserError: a decision, a block or its group has a name that no file could hold; what is
            uncounted is no block; archs use rows that the bank does not have, or it has rows for
            a group that there is not.
    """

    name: str
    menu: Menu
    blocks: Mapping[str, ElasticBlock]
    forward: Topology
    task: Task
    static: tuple[Path, ...] = ()
    bank: Bank | None = None
    trained: tuple[str, ...] | None = None
    uncounted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise UserError(
                f"the task of the space {self.name} is {self.task!r}; give one of "
                "supernet_jax.tasks"
            )
        _check_keys(self.menu, "a decision in the menu")
        for name, block in self.blocks.items():
            check_name(name, "a block")
            if block.group is not None:
                check_name(block.group, f"the group of block {name!r}")
        for name in self.uncounted:
            if name not in self.blocks:
                raise UserError(
                    f"the space {self.name} does not count the block {name!r}, which is not among "
                    f"its blocks{near(name, self.blocks)}"
                )
        if self.bank is not None:
            self._check_bank(self.bank)

    def _check_bank(self, bank: Bank) -> None:
        table = bank.row.table
        if bank.rows < 1 or np.min(table) < 0 or np.max(table) >= bank.rows:
            raise UserError(
                f"the bank of the space {self.name} has {bank.rows} rows, and archs use the rows "
                f"{np.min(table)} to {np.max(table)}; rows count from 0, and at least one is needed"
            )
        groups = {block.group or name for name, block in self.blocks.items()}
        for name in bank.groups or ():
            if name not in groups:
                raise UserError(
                    f"the bank of the space {self.name} has rows for the group {name!r}, which is "
                    f"not among its groups of parameters{near(name, groups)}"
                )

    @property
    def sizes(self) -> tuple[Size, ...]:
        """What the static decisions may be, smallest first: values of the one that there is, or
        tuples of values.
        """
        options = [choices.get(self.menu, path).values for path in self.static]
        if len(options) == 1:
            return tuple(options[0])
        return tuple(itertools.product(*options))

    def size_of(self, arch: Arch) -> Size:
        """That of a concrete arch without batch axes."""
        return self.sizes[int(self.which_size(arch))]

    def which_size(self, archs: Arch) -> Any:
        """Which of `sizes` archs `[...]` have: int32 `[...]`; NumPy in, NumPy out."""
        which = jax.tree.leaves(archs)[0] * 0
        for path in self.static:
            which = which * len(choices.get(self.menu, path)) + choices.get(archs, path)
        return which

    def at_size(self, archs: Arch | Code, which: Any) -> Arch | Code:
        """The archs with the static decisions of another of `sizes`.

        Args:
            archs: `[...]`, or codes.
            which: of `sizes`, int32 `[...]`.
        """
        is_code = choices.is_code(archs)
        for path in reversed(self.static):
            options = len(choices.get(self.menu, path))
            option = which % options
            option = jax.nn.one_hot(option, options) if is_code else option
            archs = choices.replace(archs, path, option)
            which = which // options
        return archs


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


def has_rows(space: Space, owner: str) -> bool:
    """Whether a group of parameters has the rows of a bank."""
    return space.bank is not None and space.bank.has(owner)


class Geometry(NamedTuple):
    """A block at one size.

    Attributes:
        block: itself, with the specs that it can have there.
        inputs: shapes of its union's inputs, batch 1.
        shapes: of its union's parameters, statistics and output.
    """

    block: ElasticBlock
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    shapes: block_shapes.BlockShapes


@owned.by(owned.first)
def geometry(space: Space, size: Size) -> dict[str, Geometry]:
    """Every block at one size, in the order in which they run.

    Raises:
        UserError: the topology runs a block that is not there, or has something of another shape
            in the place of one that is skipped, or a block has parameters that no file could hold.
    """
    found: dict[str, Geometry] = {}
    static: tuple[tuple[Path, int], ...] = ()
    if size in space.sizes:  # others will do as well, where no block depends on them
        arch = space.at_size(choices.smallest(space.menu), space.sizes.index(size))
        static = tuple((path, int(choices.get(arch, path))) for path in space.static)

    def run(name: str, *inputs: Array, otherwise: Array | None = None) -> Array:
        if name not in space.blocks:
            raise UserError(
                f"the topology of the space {space.name} runs a block {name!r}, which is not among "
                f"its blocks{near(str(name), space.blocks)}"
            )
        block = elastic_block.at_static(space.blocks[name], static)
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
        found[name] = Geometry(block, shapes, elastic_block.shapes(block, block.union, shapes))
        made = found[name].shapes.output
        if otherwise is not None and otherwise.shape[:-1] != made.shape[:-1]:
            raise UserError(
                f"the topology of the space {space.name} has {list(otherwise.shape)} in the place "
                f"of a skipped block {name!r}, which puts out {list(made.shape)}; only the last "
                "axis may differ"
            )
        for tree in found[name].shapes[:2]:  # parameters and statistics
            _check_parameters(tree, f"in block {name!r}")
        whole = elastic_block.shapes(space.blocks[name], space.blocks[name].union, shapes)
        if whole.moments != found[name].shapes.moments:
            raise UserError(
                f"the statistics of block {name!r} have other sizes at {size} than at others of "
                f"{', '.join('/'.join(map(str, path)) for path in space.static)}; norms of a block "
                "must not depend on a static decision"
            )
        return jnp.zeros_like(found[name].shapes.output)

    jax.eval_shape(functools.partial(space.forward, run), space.task.inputs(size))
    return found


@owned.by(owned.first)
def output_shape(space: Space, size: Size) -> jax.ShapeDtypeStruct:
    """What a network puts out for one example, with a leading axis of 1; nothing is computed."""
    known = geometry(space, size)
    run = lambda name, *_, **__: jnp.zeros_like(known[name].shapes.output)  # noqa: E731
    return jax.eval_shape(functools.partial(space.forward, run), space.task.inputs(size))


class _Straight:
    """What flows through a topology that is looked at: nothing can be done with it but passing."""


def is_chain(space: Space) -> bool:
    """Whether each block's only input is the output of the one before, and no block runs twice."""
    last, seen, straight = _Straight(), set[str](), True

    def run(name: str, *inputs: Any, **_: Any) -> _Straight:
        nonlocal last, straight
        straight &= len(inputs) == 1 and inputs[0] is last and name not in seen
        seen.add(name)
        last = _Straight()
        return last

    try:
        output: Any = space.forward(run, last)  # type: ignore[arg-type]
    except (TypeError, AttributeError):  # it computes something itself
        return False
    return straight and output is last


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


def identity(space: Space, size: Size, archs: Arch) -> Array | np.ndarray:
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
        if path in space.static:
            continue
        own = choices.get(archs, path)
        best, before = own, [_answer(ask, archs) for ask in read]
        for option in reversed(range(len(choices.get(space.menu, path)) - 1)):
            other = choices.replace(archs, path, np.full_like(own, option))
            same = [_answer(ask, other) == seen for ask, seen in zip(read, before, strict=True)]
            best = np.where(functools.reduce(np.logical_and, same, own > option), option, best)
        archs = choices.replace(archs, path, best)
    return archs


def only(space: Space, arch: Arch) -> Space:
    """The space of one subnet: its decisions have one option each. Its parameters are those of the
    whole space.

    Args:
        space: the space.
        arch: concrete, no batch axes.
    """

    def taken(lookup: Lookup) -> Lookup:
        return Lookup(lookup.paths, np.full_like(lookup.table[_one(lookup)], lookup.static(arch)))

    def narrowed(block: ElasticBlock) -> ElasticBlock:
        spec, alive = block.specs[block.index.static(arch)], block.alive
        index = Lookup(block.index.paths, np.zeros_like(block.index.table[_one(block.index)]))
        alive = None if alive is None else taken(alive)
        return dataclasses.replace(block, specs=(spec,), index=index, alive=alive)

    return dataclasses.replace(
        space,
        menu=jax.tree.map(lambda choice, i: Choice((choice.values[int(i)],)), space.menu, arch),
        blocks={name: narrowed(block) for name, block in space.blocks.items()},
        bank=space.bank and space.bank._replace(row=taken(space.bank.row)),
    )


def _one(lookup: Lookup) -> tuple[slice, ...]:
    """One option of each decision."""
    return (slice(0, 1),) * lookup.table.ndim


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
