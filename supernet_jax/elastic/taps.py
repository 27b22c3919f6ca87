"""Taps: values inside blocks that are wanted beside their outputs.

A module offers one by `self.sow("taps", NAME, value)`, with examples along its first axis, elastic
axes of which a smaller block has the leading part, and a NAME that none of its layers has. It is a
feature BLOCK/NAME; of a layer inside the block, BLOCK/LAYER/NAME. With the default reduce function
of `sow` the last value counts where a module runs several times; with another one, as
`reduce_fn=jnp.add, init_fn=lambda: 0.0`, what it makes of them.

Inside a strategy the taps of a block lie beside its moments, under a name that no layer can have.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space, geometry
from supernet_jax.errors import UserError, near
from supernet_jax.runtime import owned

COLLECTION = "taps"
BESIDE = "/taps"  # in a block's moments; names of layers have no slash


def wanted(features: Iterable[str], block: str) -> tuple[str, ...]:
    """The names of those features that are taps of a block, in the order of pytrees."""
    pairs = (feature.partition("/") for feature in features)
    return tuple(sorted({name for owner, slash, name in pairs if slash and owner == block}))


def found(collection: Mapping[str, Any], names: tuple[str, ...]) -> Tree:
    """Those of these taps that a module has left: what is put beside its moments."""
    if not names:
        return {}
    flat = flax.traverse_util.flatten_dict(dict(collection), sep="/")
    values = {name: flat[name] for name in names if name in flat}
    return {BESIDE: {n: x[-1] if isinstance(x, tuple) else x for n, x in values.items()}}


def split(moments: Tree) -> tuple[Tree, dict[str, Array]]:
    """The moments of a block, and the taps beside them."""
    if BESIDE not in moments:
        return moments, {}
    return {name: x for name, x in moments.items() if name != BESIDE}, moments[BESIDE]


def padded(moments: Tree, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Tree:
    """Taps filled up with zeros to these shapes; those that are not there are zeros."""
    if not shapes:
        return moments
    rest, own = split(moments)
    full = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    for name, value in own.items():
        space = [(0, n - m) for n, m in zip(shapes[name].shape, value.shape, strict=True)]
        full[name] = jnp.pad(value, space)
    return {**rest, BESIDE: full}


def scaled(moments: Tree, factor: Array) -> Tree:
    """Taps times a factor, and the moments as they are."""
    rest, own = split(moments)
    return (
        {**rest, BESIDE: {n: factor.astype(x.dtype) * x for n, x in own.items()}} if own else rest
    )


def check(space: Space, features: tuple[str, ...]) -> None:
    """Makes sure that a space has these features: blocks, and taps as BLOCK/NAME.

    Raises:
        UserError: it has no such block, or the block offers no such value.
    """
    for feature in features:
        block, slash, name = feature.partition("/")
        if block not in space.blocks:
            raise UserError(
                f"the feature {feature!r} names a block {block!r}, which the space {space.name} "
                f"does not have{near(block, space.blocks)}"
            )
        if slash and name not in (there := offered(space, block)):
            has = ", ".join(f"{block}/{one}" for one in there) or "nothing"
            raise UserError(
                f"the feature {feature!r} is no value that the block {block} offers, which is "
                f'{has}{near(name, there)}; a module offers one by self.sow("taps", NAME, value)'
            )


@owned.by(owned.first)
def offered(space: Space, block: str) -> tuple[str, ...]:
    """The taps of a block's union."""
    elastic = space.blocks[block]
    inputs = geometry(space, space.sizes[0])[block].inputs
    module = elastic.module(elastic.union)
    variables = jax.eval_shape(module.init, jax.eval_shape(jax.random.key, 0), *inputs)
    return tuple(flax.traverse_util.flatten_dict(dict(variables.get(COLLECTION, {})), sep="/"))
