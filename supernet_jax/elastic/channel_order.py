"""The order of shared channels: sorted by importance, without changing the largest subnet.

A smaller subnet keeps the leading channels, so it is better off if those matter most. Channels
inside a block may be permuted freely, as long as everything that is indexed by them is permuted
alike. What is indexed by them follows from the block itself: one size of its union spec is set to
another value that some spec has, and the axes of the parameters that change with it belong
together. Sizes that change the block's inputs or output are left alone: those channels meet the
ones of other blocks. So are axes that two sizes determine, as heads times channels of a head.
Heads that have an axis of their own are permuted whole, where the layers say so: that of what makes
queries, keys and values, and that of what merges heads, are of the kind `HEAD`. Shapes do not tell
whether a module knows channels by their place otherwise (a fixed number of groups, a shuffle): such
a block's largest subnet would change.

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
from supernet_jax.nn import block_shapes
from supernet_jax.nn.block_shapes import HEAD
from supernet_jax.runtime import owned, path_rules

Leaf = tuple[str, ...]  # path of a parameter
Orders = dict[Leaf, tuple[tuple[int, Array], ...]]  # axis from the end, and `[C]` or `[N, C]`


class Reading(NamedTuple):
    """A kernel that takes some channels, or heads, as input.

    Attributes:
        path: within the block.
        ndim: its number of axes.
        axis: which of them is that of the channels, counted from the end.
    """

    path: Leaf
    ndim: int
    axis: int


class Coupling(NamedTuple):
    """Axes of a block's parameters that are indexed by the same channels, or heads.

    Attributes:
        size: name of the field of the block's specs that counts the channels.
        used: how many of them the largest subnet has: the leading ones. It need not have all, where
            sizes are rounded.
        axes: (path within the block, axis counted from the end).
        reads: the kernels among them that take the channels as input.
    """

    size: str
    used: int
    axes: frozenset[tuple[Leaf, int]]
    reads: tuple[Reading, ...]


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
    """The order of all inner channels and heads, the most important first; unused ones of the
    largest last.

    A channel's importance is the L1 norm of the weights that read it, summed over kernels
    (Once-for-All, arXiv 1908.09791, section 3.3; its code takes the projection of a block alone).
    A head's is that of the weights that read any of its channels.
    """
    flat = flax.traverse_util.flatten_dict(params)
    orders: Orders = {}
    for owner, own in couplings(space).items():
        for coupling in own:
            total: Any = 0.0
            for path, ndim, own_axis in coupling.reads:
                others = tuple(axis for axis in range(-ndim, 0) if axis != own_axis)
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
        name = path_rules.ending_in(path, orders)
        for axis, order in () if name is None else orders[name]:
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
    whole, part = (flax.traverse_util.flatten_dict(x.params) for x in (geometry.shapes, there))
    axes, kernels = set(), []
    for path, leaf in whole.items():
        shape = leaf.shape
        if path not in part or len(part[path].shape) != len(shape):
            return None
        spatial = slicing.spatial_axes(path, leaf)
        for axis in range(len(shape)):
            other = part[path].shape[axis]
            if axis in spatial or other == shape[axis]:
                continue
            if shape[axis] != values[0] or other != others[0]:
                return None
            axes.add((path, axis - len(shape)))
            if path[-1] == "kernel":
                kernels.append(_use(path, leaf, axis, plain=len(shape) - len(spatial) == 2))
    if None in kernels or len({use.of_heads for use in kernels if use}) > 1:
        return None  # a layer that knows its heads by their place, as those that share keys
    reads = tuple(use.reading for use in kernels if use and use.is_input)
    return Coupling(size, dataclasses.asdict(largest)[size], frozenset(axes), reads)


class _Use(NamedTuple):
    """What an axis of a kernel is: of heads or of channels, of its inputs or its outputs."""

    reading: Reading
    of_heads: bool
    is_input: bool


def _use(path: Leaf, leaf: Any, axis: int, *, plain: bool) -> _Use | None:
    """What an axis is; None where that is not known. `plain` kernels have one axis of inputs and
    one of outputs beside spatial ones.
    """
    reading = Reading(path, len(leaf.shape), axis - len(leaf.shape))
    kinds = leaf.axes if isinstance(leaf, block_shapes.Declared) else ()
    if HEAD in kinds:
        # Inputs come first: heads that do are read.
        return _Use(reading, True, axis == 0) if kinds[axis] == HEAD else None
    return _Use(reading, False, reading.axis == -2) if plain or not kinds else None
