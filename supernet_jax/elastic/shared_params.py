"""The shared parameters of a space: their shapes and their initial values."""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import elastic_block, slicing
from supernet_jax.elastic.block_call import init_module
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import ElasticBlock, Tree
from supernet_jax.elastic.space import Geometry, Space, geometry, group, has_rows
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import bulk_random, hardware, owned
from supernet_jax.tasks import task
from supernet_jax.tasks.task import Size


def init(space: Space, key: Array) -> Tree:
    """Random shared parameters of a space: `{group: {layer: {kernel|bias|scale: array}}}`.

    A group is a block, or several that share their parameters. The leaves of those that have the
    rows of a bank lead with an axis of them.
    """
    # Operation by operation it takes seconds, nearly all of them in compiling each.
    start = _start if isinstance(key, jax.core.Tracer) else _started
    return start(space)(key)


def _start(space: Space) -> Callable[[Array], Tree]:
    """What makes the parameters of a key."""
    shared, rows = (
        bulk_random.at_once(functools.partial(_init_groups, space, rows)) for rows in (False, True)
    )

    def start(key: Array) -> Tree:
        params = shared(key)
        if space.bank is not None:
            params |= jax.vmap(rows)(jax.random.split(key, space.bank.rows))
        return {owner: params[owner] for owner, *_ in _owners(space)}

    return start


@owned.by(owned.first)
def _started(space: Space) -> Callable[[Array], Tree]:
    """The same as one program."""
    return jax.jit(_start(space))  # without options, which only outermost programs may have


class Starter(NamedTuple):
    """A program that makes the first parameters of a group, where they are to lie.

    Attributes:
        owner: the group's name.
        program: jitted; groups that are alike have the same.
        arguments: of it.
    """

    owner: str
    program: Callable[..., Tree]
    arguments: tuple[Any, ...]


def starters(space: Space, key: Array, where: Tree) -> list[Starter]:
    """`init(space, key)` as a program for each group: the same numbers, the memory of one group.

    Args:
        space: the space.
        key: concrete.
        where: `NamedSharding` of the parameters, on one mesh.
    """
    mesh, bank = jax.tree.leaves(where)[0].mesh, space.bank
    programs: dict[Any, tuple[Callable[..., Tree], int]] = {}
    found, first = [], {False: 0, True: 0}
    for owner, block, about in sorted(_owners(space), key=lambda each: each[0]):
        rows = has_rows(space, owner)
        keys = jax.random.split(key, bank.rows) if rows and bank is not None else key
        leaves, _ = jax.tree.flatten(where[owner])
        alike = elastic_block.kind(block, False), about.inputs, tuple(leaves), rows
        if alike not in programs:
            start = functools.partial(_init_group, block, about)
            run = bulk_random.part(start, mesh=mesh)
            run = jax.vmap(run, in_axes=(0, 0, None)) if rows else run
            how = {"out_shardings": where[owner], "compiler_options": hardware.runs_once()}
            programs[alike] = jax.jit(run, **how), bulk_random.numbers(start)
        program, count = programs[alike]
        own = functools.partial(named_key, name=owner)
        own = jax.vmap(own) if rows else own
        found.append(Starter(owner, program, (own(keys), keys, np.uint32(first[rows]))))
        first[rows] += count
    return found


@owned.by(owned.first)
def parameter_shapes(space: Space) -> Tree:
    """The tree of `init` with `jax.ShapeDtypeStruct` leaves; nothing is computed."""
    shapes: Tree = {}
    for owner, block, about in _owners(space):
        tree = dict(about.shapes.params)
        if block.transforms:
            made = functools.partial(_init_transforms, block, tree)
            own = jax.eval_shape(made, jax.eval_shape(jax.random.key, 0))
            tree |= {elastic_block.TRANSFORMS: own} if own else {}
        shapes[owner] = tree
    if (bank := space.bank) is None:
        return shapes
    shape = jax.ShapeDtypeStruct
    several = lambda s: shape((bank.rows, *s.shape), s.dtype)  # noqa: E731
    return {
        owner: jax.tree.map(several, tree) if bank.has(owner) else tree
        for owner, tree in shapes.items()
    }


def _init_groups(space: Space, rows: bool, key: Array) -> Tree:
    """Of those groups that have rows, or of those that do not: one row each."""
    return {
        owner: _init_group(block, about, named_key(key, owner))
        for owner, block, about in _owners(space)
        if has_rows(space, owner) is rows
    }


def _init_group(block: ElasticBlock, about: Geometry, key: Array) -> Tree:
    layers_key, transforms_key = jax.random.split(key)
    how = {"make": block.module, "spec": block.union, "inputs": about.inputs}
    tree = dict(init_module(layers_key, **how))
    if block.transforms:
        own = _init_transforms(block, tree, transforms_key)
        tree |= {elastic_block.TRANSFORMS: own} if own else {}
    return tree


def _owners(space: Space) -> Iterator[tuple[str, ElasticBlock, Geometry]]:
    """Each group that owns parameters, and the first of its blocks to run with its geometry."""
    met = set()
    known = unions(space)
    for name, about in geometry(space, space.sizes[0]).items():
        owner = group(space, name)
        if owner not in met:
            met.add(owner)
            block, shapes = known[name]
            yield owner, block, about._replace(block=block, shapes=shapes)


def _init_transforms(block: ElasticBlock, tree: Tree, key: Array) -> Tree:
    """By transform; those without parameters are left out, as no file would keep them."""
    made = {}
    for transform in block.transforms:
        leaf = slicing.get_leaf(tree, transform.leaf)
        made[transform.key] = transform.init(named_key(key, transform.key), leaf.shape)
    return {name: own for name, own in made.items() if jax.tree.leaves(own)}


def unions(space: Space) -> dict[str, tuple[ElasticBlock, block_shapes.BlockShapes]]:
    """Every block with the shapes of all that it has, whatever the static decisions."""
    return {
        name: (block, elastic_block.shapes(block, block.union, about.inputs))
        for name, about in geometry(space, space.sizes[0]).items()
        for block in [space.blocks[name]]
    }


def zero_stats(space: Space) -> Tree:
    """Statistics of every block at the union's shapes, all zero."""
    shapes = {name: union.moments for name, (_, union) in unions(space).items()}
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def empty_memory(
    space: Space, size: Size, examples: int, *, dtype: Any, moments: bool
) -> dict[str, tuple[Array, Tree]]:
    """Zeros of the shape of `Output.memory`.

    Args:
        space: the space.
        size: of the inputs.
        examples: per batch.
        dtype: of floats.
        moments: whether the statistics are those of the batch, rather than given.
    """

    def one(block: block_shapes.BlockShapes) -> tuple[Array, Tree]:
        shape = (examples, *block.output.shape[1:])
        output = task.cast(jnp.zeros(shape, block.output.dtype), dtype)
        made = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), block.moments)
        return output, made if moments else {}

    return {name: one(found.shapes) for name, found in geometry(space, size).items()}


def named_key(key: Array, name: str) -> Array:
    """A key that depends on a block's name, not on its place, so that spaces can grow."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
