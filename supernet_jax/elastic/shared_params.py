"""The shared parameters of a space: their shapes, their initial values, and a bank's rows."""

import functools
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices, elastic_block, slicing
from supernet_jax.elastic.block_call import init_module
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import ElasticBlock, Tree
from supernet_jax.elastic.space import Geometry, Space, geometry, group
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import bulk_random, owned


def init(space: Space, key: Array) -> Tree:
    """Random shared parameters of a space: `{group: {layer: {kernel|bias|scale: array}}}`.

    A group is a block, or several that share their parameters. With a parameter bank every leaf has
    a leading axis of its rows.
    """
    start = bulk_random.at_once(functools.partial(_init_one, space))
    if space.bank is None:
        return start(key)
    return jax.vmap(start)(jax.random.split(key, space.bank.rows))


@owned.by(owned.first)
def parameter_shapes(space: Space) -> Tree:
    """The tree of `init` with `jax.ShapeDtypeStruct` leaves; nothing is computed."""
    shapes: Tree = {}
    for owner, block, about in _owners(space):
        tree = dict(about.shapes.params)
        if block.transforms:
            made = functools.partial(_init_transforms, block, tree)
            tree[elastic_block.TRANSFORMS] = jax.eval_shape(made, jax.eval_shape(jax.random.key, 0))
        shapes[owner] = tree
    if space.bank is None:
        return shapes
    rows = space.bank.rows
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, *s.shape), s.dtype), shapes)


def _init_one(space: Space, key: Array) -> Tree:
    params: Tree = {}
    for owner, block, about in _owners(space):
        layers_key, transforms_key = jax.random.split(named_key(key, owner))
        how = {"make": block.module, "spec": block.union, "inputs": about.inputs}
        tree = dict(init_module(layers_key, **how))
        if block.transforms:
            tree[elastic_block.TRANSFORMS] = _init_transforms(block, tree, transforms_key)
        params[owner] = tree
    return params


def _owners(space: Space) -> Iterator[tuple[str, ElasticBlock, Geometry]]:
    """Each group that owns parameters, and the first of its blocks to run with its geometry."""
    met = set()
    for name, about in geometry(space, space.resolutions[0]).items():
        owner = group(space, name)
        if owner not in met:
            met.add(owner)
            yield owner, space.blocks[name], about


def _init_transforms(block: ElasticBlock, tree: Tree, key: Array) -> Tree:
    made = {}
    for transform in block.transforms:
        leaf = slicing.get_leaf(tree, transform.leaf)
        name = "/".join(transform.leaf)
        made[name] = transform.init(named_key(key, name), leaf.shape)
    return made


def zero_stats(space: Space) -> Tree:
    """Statistics of every block at the union's shapes, all zero."""
    shapes = {n: g.shapes.moments for n, g in geometry(space, space.resolutions[0]).items()}
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def empty_memory(
    space: Space, resolution: int, images: int, *, dtype: Any, moments: bool
) -> dict[str, tuple[Array, Tree]]:
    """Zeros of the shape of `Output.memory`.

    Args:
        space: the space.
        resolution: of the input.
        images: per batch.
        dtype: of activations.
        moments: whether the statistics are those of the batch, rather than given.
    """

    def one(block: block_shapes.BlockShapes) -> tuple[Array, Tree]:
        output = jnp.zeros((images, *block.output.shape[1:]), dtype)
        made = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), block.moments)
        return output, made if moments else {}

    return {name: one(found.shapes) for name, found in geometry(space, resolution).items()}


def bank_row(space: Space, params: Tree, arch: Arch | Code) -> Tree:
    """The parameters that an arch uses: the bank's row for it, or `params` where there is none."""
    if space.bank is None:
        return params
    if choices.is_code(arch):
        share = space.bank.row.probabilities(arch, space.bank.rows)
        return jax.tree.map(lambda p: jnp.tensordot(share, p, 1), params)
    row = space.bank.row(arch)
    return jax.tree.map(lambda p: p[row], params)


def named_key(key: Array, name: str) -> Array:
    """A key that depends on a block's name, not on its place, so that spaces can grow."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
