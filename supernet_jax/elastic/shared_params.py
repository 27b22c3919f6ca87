"""The shared parameters of a space: their shapes, their initial values, and a bank's rows."""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block, slicing
from supernet_jax.elastic.block_call import init_module
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import ElasticBlock, Tree
from supernet_jax.elastic.space import Geometry, Space, geometry, group
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import bulk_random, hardware, owned
from supernet_jax.tasks import task
from supernet_jax.tasks.task import Size


def init(space: Space, key: Array) -> Tree:
    """Random shared parameters of a space: `{group: {layer: {kernel|bias|scale: array}}}`.

    A group is a block, or several that share their parameters. With a parameter bank every leaf has
    a leading axis of its rows.
    """
    # Operation by operation it takes seconds, nearly all of them in compiling each.
    start = _start if isinstance(key, jax.core.Tracer) else _started
    return start(space)(key)


def _start(space: Space) -> Callable[[Array], Tree]:
    """What makes the parameters of a key."""
    start = bulk_random.at_once(functools.partial(_init_one, space))
    if space.bank is None:
        return start
    rows = space.bank.rows
    return lambda key: jax.vmap(start)(jax.random.split(key, rows))


@owned.by(owned.first)
def _started(space: Space) -> Callable[[Array], Tree]:
    """The same as one program."""
    return jax.jit(_start(space), compiler_options=hardware.runs_once())


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
    keys = key if bank is None else jax.random.split(key, bank.rows)
    programs: dict[Any, tuple[Callable[..., Tree], int]] = {}
    found, first = [], 0
    for owner, block, about in sorted(_owners(space), key=lambda each: each[0]):
        leaves, _ = jax.tree.flatten(where[owner])
        alike = elastic_block.kind(block, False), about.inputs, tuple(leaves)
        if alike not in programs:
            start = functools.partial(_init_group, block, about)
            run = bulk_random.part(start, mesh=mesh)
            run = run if bank is None else jax.vmap(run, in_axes=(0, 0, None))
            how = {"out_shardings": where[owner], "compiler_options": hardware.runs_once()}
            programs[alike] = jax.jit(run, **how), bulk_random.numbers(start)
        program, count = programs[alike]
        own = functools.partial(named_key, name=owner)
        own = own if bank is None else jax.vmap(own)
        found.append(Starter(owner, program, (own(keys), keys, np.uint32(first))))
        first += count
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
    if space.bank is None:
        return shapes
    rows = space.bank.rows
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((rows, *s.shape), s.dtype), shapes)


def _init_one(space: Space, key: Array) -> Tree:
    return {
        owner: _init_group(block, about, named_key(key, owner))
        for owner, block, about in _owners(space)
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
