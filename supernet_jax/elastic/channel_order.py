"""The order of shared channels: sorted by importance, without changing the largest subnet.

A smaller subnet keeps the leading channels, so it is better off if those matter most. Channels
inside a block may be permuted freely, as long as everything that is indexed by them is permuted
alike. What is indexed by them follows from the block itself: one size of its union spec is set to
another value that some spec has, and the axes of the parameters that change with it belong
together. Sizes that change the block's inputs or output are left alone: those channels meet the
ones of other blocks. So are axes that two sizes determine, as heads times channels of a head.
Shapes do not tell whether a module knows channels by their place otherwise (a fixed number of heads
or groups, a shuffle): such a block's largest subnet would change.

Shape letters: `C` channels, `N` rows of a parameter bank.
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices, elastic_block, slicing
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import ElasticBlock, Tree
from supernet_jax.elastic.space import Geometry, Space
from supernet_jax.runtime import owned

Leaf = tuple[str, ...]  # path of a parameter
Orders = dict[Leaf, tuple[tuple[int, Array], ...]]  # axis from the end, and `[C]` or `[N, C]`


class Coupling(NamedTuple):
    """Axes of a block's parameters that are indexed by the same channels.

    Attributes:
        size: name of the field of the block's specs that counts the channels.
        used: how many of them the largest subnet has: the leading ones. It need not have all, where
            sizes are rounded.
        axes: (path within the block, axis counted from the end).
        reads: the kernels among them that take the channels as input, with their numbers of axes.
    """

    size: str
    used: int
    axes: frozenset[tuple[Leaf, int]]
    reads: tuple[tuple[Leaf, int], ...]


@owned.by(owned.first)
def couplings(space: Space) -> dict[str, tuple[Coupling, ...]]:
    """By group of parameters, the channels that may be permuted.

    Of tied blocks only what they agree on.
    """
    found: dict[str, tuple[Coupling, ...]] = {}
    for name, geometry in elastic_space.geometry(space, space.sizes[0]).items():
        block, owner = space.blocks[name], elastic_space.group(space, name)
        largest = block.specs[int(block.index(choices.largest(space.menu)))]
        own = _couplings(block, geometry, largest)
        shared = found.get(owner, own)
        found[owner] = tuple(coupling for coupling in shared if coupling in own)
    return found


def by_importance(space: Space, params: Tree) -> Orders:
    """The order of all inner channels, the most important first; unused ones of the largest last.

    A channel's importance is the L1 norm of the weights that read it, summed over kernels
    (Once-for-All, arXiv 1908.09791, section 3.3; its code takes the projection of a block alone).
    """
    flat = flax.traverse_util.flatten_dict(params)
    orders: Orders = {}
    for owner, own in couplings(space).items():
        for coupling in own:
            total: Any = 0.0
            for path, ndim in coupling.reads:
                others = tuple(axis for axis in range(-ndim, 0) if axis != -2)
                total = total + jnp.sum(jnp.abs(flat[(owner, *path)]), axis=others)
            used = jnp.arange(total.shape[-1]) < coupling.used
            most = jnp.where(jnp.broadcast_to(used, total.shape), total, -1.0)
            order = jnp.argsort(-most, axis=-1, stable=True)
            for path, axis in sorted(coupling.axes):
                leaf = (owner, *path)
                orders[leaf] = (*orders.get(leaf, ()), (axis, order))
    return orders


def reordered(tree: Any, orders: Orders) -> Any:
    """Parameters in that order, or anything that holds trees like them: averages, momenta."""

    def one(path: Any, leaf: Array) -> Array:
        keys = tuple(_name(key) for key in path)
        ends = (keys[start:] for start in range(len(keys)))
        wanted = next((orders[end] for end in ends if end in orders), ())
        for axis, order in wanted:
            if leaf.ndim >= -axis and leaf.shape[axis] == order.shape[-1]:
                shape = [1] * leaf.ndim
                shape[axis] = order.shape[-1]
                if order.ndim == 2:  # a parameter bank
                    shape[0] = order.shape[0]
                leaf = jnp.take_along_axis(leaf, order.reshape(shape), axis=axis)
        return leaf

    return jax.tree_util.tree_map_with_path(one, tree)


def _couplings(block: ElasticBlock, geometry: Geometry, largest: Any) -> tuple[Coupling, ...]:
    """Of one block; `largest` is its spec in the largest subnet."""
    made = [
        coupling
        for field in dataclasses.fields(block.union)
        if (coupling := _coupling(block, geometry, largest, field.name)) is not None
    ]
    axes = [axis for coupling in made for axis in coupling.axes]
    return tuple(
        coupling
        for coupling in made
        if coupling.reads and all(axes.count(axis) == 1 for axis in coupling.axes)
    )


def _coupling(block: ElasticBlock, geometry: Geometry, largest: Any, size: str) -> Coupling | None:
    """The axes that one field of the specs determines; None if it does not count inner channels."""
    values = [dataclasses.asdict(spec)[size] for spec in (block.union, *block.specs)]
    others = [v for v in values if type(v) is int and v != values[0]]
    if type(values[0]) is not int or not others:
        return None
    changed = dataclasses.replace(block.union, **{size: others[0]})
    if block.channels(changed) != block.channels(block.union):
        return None
    try:
        there = elastic_block.shapes(block, changed, geometry.inputs)
    except Exception:  # whatever a module raises: this size cannot change by itself
        return None
    if there.output.shape != geometry.shapes.output.shape:
        return None
    whole, part = (
        {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(x.params).items()}
        for x in (geometry.shapes, there)
    )
    axes, reads = set(), []
    for path, shape in whole.items():
        if len(part.get(path, ())) != len(shape):
            return None
        spatial = slicing.spatial_axes(path, len(shape))
        for axis in range(len(shape)):
            if axis in spatial or part[path][axis] == shape[axis]:
                continue
            if shape[axis] != values[0] or part[path][axis] != others[0]:
                return None
            axes.add((path, axis - len(shape)))
            if path[-1] == "kernel" and axis == len(shape) - 2:
                reads.append((path, len(shape)))
    return Coupling(size, dataclasses.asdict(largest)[size], frozenset(axes), tuple(reads))


def _name(key: Any) -> Any:
    """What one step of a tree's path is called."""
    if isinstance(key, jax.tree_util.DictKey | jax.tree_util.FlattenedIndexKey):
        return key.key
    return key.name if isinstance(key, jax.tree_util.GetAttrKey) else key.idx
