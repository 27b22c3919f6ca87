"""Ensembles of subnets of one space, as a space: members share a trunk, and part behind it.

NEAS (Chen et al., CVPR 2021, arXiv 2104.00597) searches for several subnets of one supernet at
once, whose outputs are averaged, and for the block behind which they part: all before it is
computed once. `Branches` of `nn.blocks.ensemble` is the topology.

The first member has the blocks and the parameters of the space itself. Each further member has a
copy of every block behind the first place where members may part; an arch in which they part later
skips the copies before. A decision belongs to the trunk if a block of the trunk depends on it: then
all members have it as the first one has, whatever stands in their own menu. So a member is a subnet
of the space, always.

Shape letters: `K` members, `D` decisions of a member, `...` batch axes of archs.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Choice, Lookup, Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.nn.blocks.ensemble import Branches, Parted, PartedSpec, name_of

MEMBERS, SPLIT = "members", "split"  # what the menu of an ensemble holds
LARGEST = 2**22  # entries of a table; more would take longer to build than a network to train


def ensemble(
    space: Space,
    *,
    members: int = 2,
    splits: Sequence[int] = (),
    weights: Literal["shared", "own"] = "shared",
) -> Space:
    """The space of ensembles of a space's subnets.

    Its menu is `{"members": [menu, ...], "split": Choice(splits)}`; static decisions are all
    members' and stand in the first one's menu.

    Args:
        space: of which members are subnets: its blocks run one after another.
        members: K, at least 2.
        splits: how many blocks members may share, each from 0 (none) to all of them, which is one
            subnet alone; empty for every number from 1 on.
        weights: behind the trunk, members have the "shared" weights of the space, or each further
            member has weights of its "own".

    Raises:
        UserError: fewer than two members, a number of blocks that there is not, or a space that is
            no chain, has a parameter bank or an ensemble already, or whose decisions are too many
            for a table.
    """
    names = tuple(elastic_space.geometry(space, space.sizes[0]))
    _check(space, names, members, splits)
    parts = tuple(sorted(set(splits))) or tuple(range(1, len(names) + 1))
    menu: Menu = {
        MEMBERS: [_menu(space, member) for member in range(1, members + 1)],
        SPLIT: Choice(parts),
    }
    readers = first_readers(space, names)
    place = _Place(space, parts, readers)
    blocks: dict[str, ElasticBlock] = {}
    for name in names:
        block, own = space.blocks[name], lambda lookup: _moved(lookup, _of_member(1))
        alive = block.alive and own(block.alive)
        blocks[name] = dataclasses.replace(block, index=own(block.index), alive=alive)
    for member in range(2, members + 1):
        for i, name in enumerate(names[parts[0] :], parts[0]):
            called, block = name_of(member, name), space.blocks[name]
            group = elastic_space.group(space, name)
            if weights == "own":
                group = name_of(member, group)
            blocks[called] = dataclasses.replace(
                block,
                index=place.index(block.index, member, i),
                alive=place.alive(block.alive, member, i),
                group=group,
            )
            if block.alive is not None:
                blocks[f"{called}_parted"] = _parted(space, name, place, member, i)
    copies = {
        name: [name, *(c for k in range(2, members + 1) if (c := name_of(k, name)) in blocks)]
        for name in names
    }
    optional = tuple(name for name in names if space.blocks[name].alive is not None)
    trained = space.trained
    if trained is not None and weights == "own":
        trained = (*trained, *(rf"member\d+_(?:{pattern})" for pattern in trained))
    return Space(
        f"{space.name}-ensemble",
        menu,
        blocks,
        Branches(names, parts[0], optional, members),
        space.task,
        static=tuple((MEMBERS, 0, *path) for path in space.static),
        trained=trained,
        uncounted=tuple(copy for name in space.uncounted for copy in copies[name]),
    )


def _check(space: Space, names: tuple[str, ...], members: int, splits: Sequence[int]) -> None:
    require(members >= 2, f"an ensemble has {members} members, must have 2 or more")
    for split in splits:
        require(
            0 <= split <= len(names),
            f"members of an ensemble share {split} blocks, but the space {space.name} has "
            f"{len(names)}; give numbers from 0 to {len(names)}",
        )
    require(
        elastic_space.is_chain(space),
        f"the blocks of the space {space.name} do not run one after another, so that ensembles of "
        "it have no trunk; give one whose topology is a chain, as sj.chain makes it",
    )
    require(
        space.bank is None,
        f"the space {space.name} has a parameter bank; give one without, to make ensembles of it",
    )
    for path in space.static:
        require(
            len(path) == 1,
            f"the static decision {'/'.join(map(str, path))} of the space {space.name} stands "
            "inside another entry of its menu; ensembles need it to stand alone",
        )


def _menu(space: Space, member: int) -> Menu:
    """The decisions of a member; static ones are the first member's alone."""

    def own(choice: Choice) -> Choice:
        if choice.depth is None:
            return choice
        path, i = choice.depth
        # How deep a further member is may be the trunk's to decide: its decisions are all written.
        depth = ((*_of_member(member), *path), i) if member == 1 else None
        return dataclasses.replace(choice, depth=depth)

    menu = jax.tree.map(own, space.menu)
    if member == 1:
        return menu
    return {name: inner for name, inner in menu.items() if (name,) not in space.static}


def _of_member(member: int) -> Path:
    """Where the decisions of a member stand; members count from 1."""
    return (MEMBERS, member - 1)


def _moved(lookup: Lookup, where: Path) -> Lookup:
    return Lookup(tuple((*where, *path) for path in lookup.paths), lookup.table)


def first_readers(space: Space, names: Sequence[str]) -> dict[Path, int]:
    """By decision, which of a chain's blocks is the first that depends on it.

    Static decisions, and those on which none depends, are read before all others: by -1.
    """
    found = dict.fromkeys(choices.paths(space.menu), -1)
    for i, name in reversed(list(enumerate(names))):
        block = space.blocks[name]
        for path in (*block.index.paths, *(() if block.alive is None else block.alive.paths)):
            found[path] = i
    return found | dict.fromkeys(space.static, -1)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where members may part, and so whose decisions a copy of a block goes by.

    Attributes:
        space: of the members.
        splits: how many blocks they may share.
        readers: see `first_readers`.
    """

    space: Space
    splits: tuple[int, ...]
    readers: dict[Path, int]

    def index(self, lookup: Lookup, member: int, i: int) -> Lookup:
        """A lookup of block `i`, for a member that has it of its own.

        A decision that a block before it reads is the trunk's where that block is of the trunk.
        """
        # In archs that have the block, members part at it or before it.
        either = [path for path in lookup.paths if self.splits[0] <= self.readers[path] < i]
        trunk = [path for path in lookup.paths if self.readers[path] < self.splits[0]]
        from_one = [(*_of_member(1), *path) for path in (*either, *trunk)]
        own = [(*_of_member(member), *path) for path in lookup.paths if path not in trunk]
        paths = [*([(SPLIT,)] if either else []), *from_one, *own]
        lengths = {path: n for path, n in zip(lookup.paths, lookup.table.shape, strict=True)}
        shape = [len(self.splits) if path == (SPLIT,) else lengths[path[2:]] for path in paths]
        require(
            math.prod(shape) <= LARGEST,
            f"a block of an ensemble of {self.space.name} would depend on {math.prod(shape)} "
            f"combinations of decisions, at most {LARGEST} fit; allow fewer splits",
        )
        grid = dict(zip(paths, np.indices(shape, sparse=True), strict=True))
        split = np.asarray(self.splits)[grid[(SPLIT,)]] if either else np.int32(self.splits[0])
        picked = []
        for path in lookup.paths:
            first, mine = ((*_of_member(k), *path) for k in (1, member))
            if path in either:
                is_trunks = self.readers[path] < split
                picked.append(np.where(is_trunks, grid[first], grid[mine]))
            else:
                picked.append(grid[first if path in trunk else mine])
        return Lookup(tuple(paths), np.broadcast_to(lookup.table[tuple(picked)], shape))

    def alive(self, lookup: Lookup | None, member: int, i: int) -> Lookup | None:
        """Whether block `i` is there, for a member that may have it of its own."""
        parted = self.parted(i)
        if lookup is None or parted is None:
            return parted if lookup is None else self.index(lookup, member, i)
        inner = self.index(lookup, member, i)
        if (SPLIT,) not in inner.paths:
            inner = Lookup(
                ((SPLIT,), *inner.paths), np.repeat(inner.table[None], len(self.splits), 0)
            )
        there = parted.table.reshape(-1, *(1,) * (inner.table.ndim - 1))
        return Lookup(inner.paths, inner.table * there)

    def parted(self, i: int) -> Lookup | None:
        """Whether members have parted at block `i`; None where they always have."""
        there = np.asarray([int(split <= i) for split in self.splits], np.int32)
        return None if there.all() else Lookup(((SPLIT,),), there)


def _parted(space: Space, name: str, place: _Place, member: int, i: int) -> ElasticBlock:
    """The block behind a member's copy of one that it may skip."""
    block = space.blocks[name]
    inputs = elastic_space.geometry(space, space.sizes[0])[name].inputs
    # The union may be wider than any spec.
    widest, *wide = (
        elastic_block.shapes(block, spec, inputs).output.shape[-1]
        for spec in (block.union, *block.specs)
    )
    specs = tuple(PartedSpec(channels) for channels in sorted(set(wide)))
    which = np.asarray([specs.index(PartedSpec(channels)) for channels in wide], np.int32)
    index = place.index(Lookup(block.index.paths, which[block.index.table]), member, i)
    return ElasticBlock(
        Parted,
        specs,
        union=PartedSpec(widest),
        index=index,
        alive=place.parted(i),
        channels=lambda spec: (spec.channels, spec.channels),
    )


# ---- archs of ensembles


class Parts(NamedTuple):
    """What archs of an ensemble are made of.

    Attributes:
        members: K.
        paths: D decisions, as they stand in a further member's menu: all but static ones.
        options: how many each has, int32 `[D]`.
        reads: which block is the first that depends on each, int32 `[D]`; -1 for none.
        splits: how many blocks members may share, int32 `[options of the split]`.
        blocks: how many a member has.
        shared: whether all members have the same weights.
    """

    members: int
    paths: tuple[Path, ...]
    options: np.ndarray
    reads: np.ndarray
    splits: np.ndarray
    blocks: int
    shared: bool


def parts(space: Space) -> Parts:
    """What archs of a space of ensembles are made of.

    Raises:
        UserError: it is no space of ensembles.
    """
    branches = space.forward
    if not isinstance(branches, Branches):
        raise UserError(
            f"the space {space.name} is none of ensembles; make one of it, as "
            "space=sj.spaces.Ensembles(space=...)"
        )
    inner = space.menu[MEMBERS][1]
    paths = choices.paths(inner)
    first = first_readers(space, branches.blocks)
    copies = {name_of(2, name): name for name in branches.blocks}
    return Parts(
        branches.members,
        paths,
        np.asarray([len(choices.get(inner, path)) for path in paths], np.int32),
        np.asarray([first[(*_of_member(1), *path)] for path in paths], np.int32),
        np.asarray(space.menu[SPLIT].values, np.int32),
        len(branches.blocks),
        all(
            elastic_space.group(space, copy) == elastic_space.group(space, name)
            for copy, name in copies.items()
            if copy in space.blocks
        ),
    )


def decisions(space: Space, archs: Arch) -> Any:
    """What each member of ensembles has for each decision, those of the trunk as the first one.

    Args:
        space: of ensembles.
        archs: `[...]`.

    Returns:
        int32 `[..., K, D]`, in the order of `Parts.paths`; NumPy in, NumPy out.
    """
    about = parts(space)
    first, *others = (
        choices.pack([choices.get(member, path) for path in about.paths])
        for member in archs[MEMBERS]
    )
    xp: Any = jnp if isinstance(first, jax.Array) else np
    split = xp.asarray(about.splits)[archs[SPLIT]][..., None]
    reads = about.reads.reshape((1,) * (split.ndim - 1) + (-1,))
    own = [xp.where(reads < split, first, other) for other in others]
    return xp.stack([first, *own], axis=-2)


def alone(space: Space, archs: Arch, member: int) -> Arch:
    """The archs in which one member of ensembles is all there is: every block is shared.

    Args:
        space: of ensembles whose members share their weights.
        archs: `[...]`.
        member: which one, from 1 to K.

    Raises:
        UserError: the space has no arch in which all is shared, or members have weights of their
            own, which are not those of one subnet alone.
    """
    about = parts(space)
    if not about.shared:
        raise UserError(
            f"members of the space {space.name} have weights of their own, so that none of them is "
            'a subnet alone; make the space with weights="shared"'
        )
    if about.splits[-1] != about.blocks:
        raise UserError(
            f"members of the space {space.name} share at most {about.splits[-1]} of their "
            f"{about.blocks} blocks; have {about.blocks} among its splits, for one subnet alone"
        )
    rows = decisions(space, archs)[..., member - 1, :]
    made = archs[MEMBERS][0]  # with the static decisions
    for i, path in enumerate(about.paths):
        made = choices.replace(made, path, rows[..., i])
    others = jax.tree.map(lambda leaf: leaf * 0, archs[MEMBERS][1:])
    last = archs[SPLIT] * 0 + (len(about.splits) - 1)
    return {MEMBERS: [made, *others], SPLIT: last}
