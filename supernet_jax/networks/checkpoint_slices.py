"""The part of a supernet that one subnet needs, read from a checkpoint without the rest.

    part = read(folder, space, arch)
    module, variables = extract.extract(part.space, part.params, arch, stats)

What is read takes the place of the shared parameters wherever the subnet runs by `network.sliced`:
in calibration, extraction and proof. Blocks that it skips have no parameters then.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from supernet_jax.elastic import choices, elastic_block, shared_params, slicing
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.runtime import owned
from supernet_jax.storage import checkpoint
from supernet_jax.storage.chunked_arrays import Box


class Part(NamedTuple):
    """What a subnet runs on.

    Attributes:
        space: the space; without its parameter bank, of which the subnet has one row.
        params: NumPy, the tree of the shared parameters, cut to what the subnet needs; None where
            it needs nothing.
    """

    space: Space
    params: Tree


def read(
    folder: checkpoint.Folder,
    space: Space,
    arch: Arch,
    *,
    step: int | None = None,
    subtree: str = "params",
) -> Part:
    """Reads what a subnet needs of a checkpoint.

    Args:
        folder: of the checkpoints.
        space: the space that they belong to.
        arch: concrete, no batch axes.
        step: which checkpoint; None takes the last.
        subtree: "params", or "ema" for their moving average.

    Raises:
        UserError: no such checkpoint, a damaged one, or one that is not of the space.
    """
    found = checkpoint.read_slices(folder, boxes(space, arch), step=step, subtree=subtree)
    if space.bank is None:
        return Part(space, found)
    return Part(_without_bank(space), jax.tree.map(lambda leaf: leaf[0], found))


def boxes(space: Space, arch: Arch) -> Tree:
    """Which part of each shared parameter a subnet needs.

    Blocks that share parameters need the union of their parts.

    Args:
        space: the space.
        arch: concrete, no batch axes.

    Returns:
        The tree of the shared parameters, of `chunks.Box`, None where nothing is needed.
    """
    resolution = space.resolutions[int(choices.get(arch, space.resolution))]
    row = None if space.bank is None else space.bank.row.static(arch)
    shared = shared_params.parameter_shapes(_without_bank(space))
    wanted: dict[str, dict[tuple[str, ...], Box]] = {name: {} for name in shared}
    transforms: dict[str, set[str]] = {name: set() for name in wanted}
    for name, shape in elastic_space.geometry(space, resolution).items():
        block, group = space.blocks[name], elastic_space.group(space, name)
        spec = block.spec(arch)
        if spec is None:
            continue
        own = elastic_block.shapes(block, spec, shape.inputs).params
        for path, edges in slicing.needed(block, own, shared[group]).items():
            box = Box(*map(tuple, zip(*edges, strict=True)))
            wanted[group][path] = wanted[group].get(path, box).union(box)
        transforms[group] |= {"/".join(transform.leaf) for transform in block.transforms}
    return {
        group: _tree(shapes, wanted[group], transforms[group], row)
        for group, shapes in shared.items()
    }


@owned.by(owned.first)
def _without_bank(space: Space) -> Space:
    return space if space.bank is None else replace(space, bank=None)


def _tree(
    shapes: Tree, wanted: Mapping[tuple[str, ...], Box], transforms: set[str], row: int | None
) -> Tree:
    """The boxes of one group as a tree like its parameters."""

    def banked(box: Box) -> Box:
        return box if row is None else Box((row, *box.start), (row + 1, *box.stop))

    def whole(leaf: Any) -> Box:
        return banked(Box((0,) * leaf.ndim, leaf.shape))

    def walk(node: Tree, path: tuple[str, ...]) -> Tree:
        if isinstance(node, Mapping):
            return {key: walk(value, (*path, key)) for key, value in node.items()}
        return banked(wanted[path]) if path in wanted else None

    own = {
        key: walk(node, (key,)) for key, node in shapes.items() if key != elastic_block.TRANSFORMS
    }
    if elastic_block.TRANSFORMS in shapes:
        own[elastic_block.TRANSFORMS] = {
            name: jax.tree.map(whole if name in transforms else lambda leaf: None, tree)
            for name, tree in shapes[elastic_block.TRANSFORMS].items()
        }
    return own
