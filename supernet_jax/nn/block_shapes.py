"""The shapes of a module's parameters, statistics and outputs, as the module itself gives them.

They come from `jax.eval_shape` of the module's own `init`. A space has hundreds of specs made of
few distinct layers, so a layer that was met before with the same fields and the same inputs is not
traced again: its variables and its output are known.
"""

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.runtime import disk_cache

Shapes = Any  # nested dicts, as Flax keeps variables, with jax.ShapeDtypeStruct leaves
SHAPES_ONLY = "shapes"  # a random stream that is there where no values are wanted, only shapes
_LEAF = "shape, dtype"  # marks a leaf on disk; no layer has such a name
_PLACES = "places"  # a collection of our own: at how many places of an image a kernel is applied


class BlockShapes(NamedTuple):
    """What `jax.eval_shape` says of a spec's module.

    Attributes:
        params: tree of shapes.
        moments: tree of shapes of its norms' statistics.
        output: shape of what it returns.
        positions: for each layer that owns a `kernel`, at how many places of one image it is
            applied; that many times its size are the layer's MACs.
    """

    params: Shapes
    moments: Shapes
    output: jax.ShapeDtypeStruct
    positions: dict[tuple[str, ...], int]


# By what makes a module, and gone with it: a user's function may hold a whole space.
_described_before: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


def describe(
    make: Callable[[Any], nn.Module], spec: Any, inputs: tuple[tuple[int, ...], ...]
) -> BlockShapes:
    """Shapes of everything that `make(spec)` has, for float32 inputs of the given shapes."""
    known = _described_before.setdefault(make, {})
    if (spec, inputs) not in known:
        kind, own = plain(make, spec)
        described = _recalled if kind is make else describe
        known[spec, inputs] = described(kind, own, inputs)
    return known[spec, inputs]


def plain(make: Callable[[Any], nn.Module], spec: Any) -> tuple[Callable[[Any], nn.Module], Any]:
    """The class and the spec of the module `make(spec)`, if these tell all of it; else as given.

    They are others than those given where a spec says more than its module needs.
    """
    made = make(spec)
    fields = [f.name for f in dataclasses.fields(made) if f.name not in ("parent", "name")]
    if len(fields) != 1:
        return make, spec
    kind, own = type(made), vars(made)[fields[0]]
    return (kind, own) if kind(own) == made else (make, spec)


def _recalled(make: Callable, spec: Any, inputs: tuple[tuple[int, ...], ...]) -> BlockShapes:
    """The description on disk, if there is one; else it is put there, if it is of our own code."""
    if not all(_is_ours(part) for part in (make, type(spec))):
        return _described(make, spec, inputs)
    key = f"{make.__module__}.{make.__qualname__} {spec} {inputs}"
    if (kept := disk_cache.recall(key)) is not None:
        return _from_json(kept)
    found = _described(make, spec, inputs)
    disk_cache.keep(key, _to_json(found))
    return found


def _is_ours(part: Any) -> bool:
    """Whether this is a class of the package, so that its name says all about it."""
    return isinstance(part, type) and part.__module__.startswith("supernet_jax.")


def _described(make: Callable, spec: Any, inputs: tuple[tuple[int, ...], ...]) -> BlockShapes:
    given = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    with nn.intercept_methods(_note):
        variables, output = _traced(make(spec), given)
    places = flax.traverse_util.flatten_dict(variables.get(_PLACES, {}))
    positions = {path[:-1]: count for path, count in places.items()}
    return BlockShapes(variables.get("params", {}), variables.get("moments", {}), output, positions)


def _to_json(shapes: BlockShapes) -> Any:
    trees = (shapes.params, shapes.moments, shapes.output)
    leaves = jax.tree.map(lambda leaf: {_LEAF: [list(leaf.shape), str(leaf.dtype)]}, trees)
    return [*leaves, [[list(path), count] for path, count in shapes.positions.items()]]


def _from_json(value: Any) -> BlockShapes:
    def read(node: Any) -> Any:
        if _LEAF not in node:
            return {name: read(inner) for name, inner in node.items()}
        shape, dtype = node[_LEAF]
        return jax.ShapeDtypeStruct(tuple(shape), dtype)

    params, moments, output, places = value
    positions = {tuple(path): count for path, count in places}
    return BlockShapes(read(params), read(moments), read(output), positions)


def _traced(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, Any], Any]:
    """A module's variables (ours are numbers) and its output. Only where `_note` listens."""
    variables: dict[str, Any] = {}

    def run(keys: Any, *args: jax.Array) -> Any:
        output, made = module.init_with_output(keys, *args)
        variables.update(jax.tree.map(_shape, made))
        return output

    key = _key_shape()
    output = jax.eval_shape(run, {"params": key, SHAPES_ONLY: key}, *inputs)
    return variables, output


@functools.cache
def _key_shape() -> Any:
    """Of a random key. A key itself would leave operations in whatever is being traced."""
    return jax.eval_shape(jax.random.key, 0)


_known = functools.cache(_traced)


def _note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """Called by Flax in place of each method: replays known layers, counts a kernel's places."""
    layer = context.module
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    if not _replayable(layer, args, kwargs):
        output = call(*args, **kwargs)
        if layer.has_variable("params", "kernel"):
            layer.put_variable(_PLACES, "kernel", math.prod(output.shape[1:-1]))
        return output
    variables, output = _known(layer.clone(parent=None, name=None), tuple(map(_shape, args)))
    for collection, tree in variables.items():
        for name, value in tree.items():
            layer.put_variable(collection, name, jax.tree.map(_placeholder, value))
    return jax.tree.map(lambda x: jax.lax.full(x.shape, 0, x.dtype), output)


def _replayable(layer: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a call is the first of a layer that its fields and its inputs describe alone."""
    if not layer.path or kwargs or layer.variables:
        return False
    if not all(isinstance(x, jax.Array) for x in args):
        return False
    fields = [value for name, value in vars(layer).items() if name in layer.__dataclass_fields__]
    given = [value for value in fields if value is not layer.parent]
    if any(isinstance(leaf, nn.Module) for leaf in jax.tree.leaves(given)):
        return False  # its parameters may live elsewhere
    try:
        hash(tuple(given))
    except TypeError:
        return False
    return True


def _shape(leaf: Any) -> Any:
    is_array = isinstance(leaf, jax.Array | np.ndarray)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array else leaf


def _placeholder(leaf: Any) -> Any:
    """Zeros that take no memory, and no operation where nobody asks for them."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
