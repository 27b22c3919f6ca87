"""The weights of a spec cut out of the shared ones, and put back."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import TRANSFORMS, ElasticBlock, Spec, Transform, Tree
from supernet_jax.errors import UserError
from supernet_jax.nn import block_shapes, resize
from supernet_jax.nn.block_shapes import Shapes


def cut(tree: Tree, target: Shapes, *, whole: Collection[tuple[str, ...]] = ()) -> Tree:
    """Slices one spec's tree out of a shared tree: leading in channels, centred in kernels.

    Args:
        tree: shared arrays; may hold leaves that the spec lacks.
        target: the spec's tree of shapes.
        whole: leaves that keep the full size of their spatial axes, for transforms.
    """

    def one(path: tuple[str, ...], leaf: Array, part: Any) -> Array:
        spatial = spatial_axes(path, part)
        if path not in whole:
            return cut_leaf(leaf, part.shape, spatial)
        shape = [leaf.shape[a] if a in spatial else n for a, n in enumerate(part.shape)]
        return cut_leaf(leaf, tuple(shape), spatial)

    return _zip(tree, target, one)


def cut_leaf(leaf: Array, shape: tuple[int, ...], spatial: tuple[int, ...] = ()) -> Array:
    """The part of a leaf that has a shape: at the centre of spatial axes, leading on others."""
    if leaf.shape == shape:
        return jnp.asarray(leaf)
    kept = box(leaf.shape, shape, spatial)
    return jax.lax.slice(leaf, [start for start, _ in kept], [stop for _, stop in kept])


def fill(tree: Tree, target: Shapes) -> Tree:
    """Inverse of `cut`: the spec's tree among zeros, with the shapes of `target`."""

    def one(path: tuple[str, ...], shape: Any, leaf: Array | None) -> Array:
        if leaf is None:
            return jnp.zeros(shape.shape, shape.dtype)
        if leaf.shape == shape.shape:
            return leaf
        kept = box(shape.shape, leaf.shape, spatial_axes(path, shape))
        edges = [(a, n - b, 0) for (a, b), n in zip(kept, shape.shape, strict=True)]
        # `jnp.pad` is a program of its own to trace, for each of many leaves.
        return jax.lax.pad(leaf, leaf.dtype.type(0), edges)

    return walk(target, tree, one)


def fit_channels(x: Array, channels: int | None) -> Array:
    """An activation with so many channels (last axis): the leading ones, or zeros after them; as it
    is for None.
    """
    if channels is None or x.shape[-1] == channels:
        return x
    return x[..., :channels] if x.shape[-1] > channels else resize.pad_channels(x, channels)


def weights(block: ElasticBlock, shared: Tree, spec: Spec, target: Shapes) -> Tree:
    """The parameters of one spec: cut from the shared ones, then transformed."""
    leaves = by_leaf(block)
    result = cut(shared, target, whole=leaves)
    for where, transforms in leaves.items():
        if (part := find_leaf(target, where)) is None:  # of a layer that the spec lacks
            continue
        channels, final = get_leaf(result, where), part.shape
        sizes = tuple(transform.size(spec) for transform in transforms)
        made = transformed(transforms, shared.get(TRANSFORMS, {}), channels, sizes)
        if made.shape == channels.shape:
            made = cut_leaf(made, final, spatial_axes(where, part))
        if made.shape != final:
            raise UserError(
                f"the transforms of {'/'.join(where)} make {list(made.shape)} of "
                f"{list(channels.shape)}, where the spec {spec} has {list(final)}"
            )
        result = put_leaf(result, where, made)
    return result


def by_leaf(block: ElasticBlock) -> dict[tuple[str, ...], tuple[Transform, ...]]:
    """The transforms of each leaf that has any, in their order."""
    found: dict[tuple[str, ...], tuple[Transform, ...]] = {}
    for transform in block.transforms:
        found[transform.leaf] = (*found.get(transform.leaf, ()), transform)
    return found


def transformed(
    transforms: tuple[Transform, ...], params: Tree, leaf: Array, sizes: tuple[Any, ...]
) -> Array:
    """What the transforms of a leaf make of it, each of what the one before has made.

    Args:
        transforms: of one leaf.
        params: of all transforms of the block that have any.
        leaf: with its channels cut or masked.
        sizes: the option of each transform.
    """
    for transform, size in zip(transforms, sizes, strict=True):
        leaf = transform.apply(params.get(transform.key, {}), leaf, size)
    return leaf


def needed(
    block: ElasticBlock, target: Shapes, shared: Shapes
) -> dict[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """What `weights` uses of each shared leaf: on each axis the first index, and that after the
    last. Cut to these boxes, shared parameters give the same weights.

    Args:
        block: the elastic block.
        target: the spec's tree of shapes.
        shared: shapes of the shared parameters, without those of transforms, which are needed
            whole.
    """
    found: dict[tuple[str, ...], tuple[tuple[int, int], ...]] = {}
    transformed = {transform.leaf for transform in block.transforms}

    def note(path: tuple[str, ...], full: Any, part: Any) -> None:
        spatial = spatial_axes(path, part)
        edges = box(full.shape, part.shape, spatial)
        for axis in spatial:
            # A transform sees all of it; another centre would be found in a lopsided part.
            n = full.shape[axis]
            if path in transformed or (n - part.shape[axis]) % 2:
                edges[axis] = (0, n)
        found[path] = tuple(edges)

    _zip(shared, target, note)
    return found


def spatial_axes(path: tuple[str, ...], leaf: Any) -> tuple[int, ...]:
    """The axes cut at their centre: those that the layer declares to be spatial; without a
    declaration the first two of a `kernel` of rank 4.

    Args:
        path: of a parameter.
        leaf: its shape, of the union or of any spec.
    """
    if isinstance(leaf, block_shapes.Declared):
        return tuple(a for a, kind in enumerate(leaf.axes) if kind == block_shapes.SPATIAL)
    return (0, 1) if path[-1] == "kernel" and len(leaf.shape) == 4 else ()


def box(
    full: tuple[int, ...], part: tuple[int, ...], spatial: tuple[int, ...] = ()
) -> list[tuple[int, int]]:
    """Where a part lies in the whole: on each axis the first index, and that after the last; at
    the centre of `spatial` axes, leading on others.
    """
    sizes = enumerate(zip(full, part, strict=True))
    starts = [(n - m) // 2 if axis in spatial else 0 for axis, (n, m) in sizes]
    return [(start, start + m) for start, m in zip(starts, part, strict=True)]


def _zip(tree: Tree, target: Shapes, one: Callable, path: tuple[str, ...] = ()) -> Tree:
    if isinstance(target, Mapping):
        return {k: _zip(tree[k], target[k], one, (*path, k)) for k in target}
    return one(path, tree, target)


def walk(target: Shapes, tree: Tree, one: Callable, path: tuple[str, ...] = ()) -> Tree:
    """Walks `target`; `one(path, shape, leaf or None)` where `tree` may lack branches."""
    if isinstance(target, Mapping):
        own = tree if isinstance(tree, Mapping) else {}
        return {k: walk(target[k], own.get(k), one, (*path, k)) for k in target}
    return one(path, target, tree)


def find_leaf(tree: Tree, path: tuple[str, ...]) -> Any:
    """What a path leads to, or None."""
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def get_leaf(tree: Tree, path: tuple[str, ...]) -> Any:
    """What a path leads to."""
    return functools.reduce(lambda node, key: node[key], path, tree)


def put_leaf(tree: Tree, path: tuple[str, ...], leaf: Array) -> Tree:
    """The tree with another leaf at a path."""
    if not path:
        return leaf
    return {**tree, path[0]: put_leaf(tree[path[0]], path[1:], leaf)}
