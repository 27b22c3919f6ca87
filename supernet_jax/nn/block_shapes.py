"""The shapes of a module's parameters, statistics and outputs, as the module itself gives them.

They come from `jax.eval_shape` of the module's own `init`. A space has hundreds of specs made of
few distinct layers, so a layer that was met before with the same fields and the same inputs is not
traced again: its variables and its output are known.
"""

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax
import flax.linen as nn
import jax
import numpy as np

from supernet_jax.nn import macs
from supernet_jax.runtime import disk_cache

Shapes = Any  # nested dicts, as Flax keeps variables, with jax.ShapeDtypeStruct leaves
SHAPES_ONLY = "shapes"  # a random stream that is there where no values are wanted, only shapes
_LEAF = "shape, dtype"  # marks a leaf on disk; no layer has such a name
_MACS = "macs"  # a collection of our own: multiply-accumulates of the layers that were replayed
_AXES = "axes"  # another: what layers declare of their parameters' axes
# Kinds of axes. Spatial ones are cut at their centre, channels and heads leading; an axis of heads
# says besides that they are all alike, so that they may be put into another order.
SPATIAL, CHANNEL, HEAD = "spatial", "channel", "head"


class BlockShapes(NamedTuple):
    """What tracing a spec's module says of it.

    Attributes:
        params: tree of shapes; leaves of layers that declare their axes are `Declared`.
        moments: tree of shapes of its norms' statistics.
        alive: tree of shapes of its `layers.alive` vectors.
        output: shape of what it returns.
        macs: multiply-accumulates of one example.
        positions: for each layer that owns a `kernel`, how often each of its numbers is used for
            one example: at how many places of an image or a sequence. Where `macs` is more than
            the sum of those products, there are other products, as those of attention.
    """

    params: Shapes
    moments: Shapes
    alive: Shapes
    output: jax.ShapeDtypeStruct
    macs: int
    positions: dict[tuple[str, ...], int]


class Declared(jax.ShapeDtypeStruct):
    """The shape of a parameter whose layer declares what its axes are.

    A layer does so by an attribute of its class, as
    `axes = {"kernel": (CHANNEL, CHANNEL, CHANNEL, CHANNEL)}`.

    Attributes:
        axes: the kind of each axis, `SPATIAL`, `CHANNEL` or `HEAD`.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, axes: tuple[str, ...]) -> None:
        super().__init__(shape, dtype)
        self.axes = axes


@runtime_checkable
class HasMacs(Protocol):
    """A layer that declares its MACs, for the inputs of its call."""

    def macs(self, *inputs: Any) -> int:
        """Multiply-accumulates of one example."""


@runtime_checkable
class HasAxes(Protocol):
    """A layer that declares the kinds of its parameters' axes, by parameter."""

    axes: dict[str, tuple[str, ...]]


# By what makes a module, and gone with it: a user's function may hold a whole space.
_described_before: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


def describe(
    make: Callable[[Any], nn.Module], spec: Any, inputs: tuple[jax.ShapeDtypeStruct, ...]
) -> BlockShapes:
    """Shapes of everything that `make(spec)` has, for inputs of the given shapes and dtypes."""
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


def _recalled(make: Callable, spec: Any, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> BlockShapes:
    """The description on disk, if there is one; else it is put there, if it is of our own code."""
    if not all(is_ours(part) for part in (make, type(spec), *_classes(spec))):
        return _described(make, spec, inputs)
    key = f"{make.__module__}.{make.__qualname__} {spec} {inputs}"
    if (kept := disk_cache.recall(key)) is not None:
        return _from_json(kept)
    found = _described(make, spec, inputs)
    disk_cache.keep(key, _to_json(found))
    return found


def _classes(spec: Any) -> list[type]:
    """Classes that a spec names, as one of a choice block does."""
    if isinstance(spec, type):
        return [spec]
    if dataclasses.is_dataclass(spec):
        spec = tuple(getattr(spec, field.name) for field in dataclasses.fields(spec))
    return [one for value in spec for one in _classes(value)] if isinstance(spec, tuple) else []


def is_ours(part: Any) -> bool:
    """Whether this is a class of the package, so that its name says all about it."""
    return isinstance(part, type) and part.__module__.startswith("supernet_jax.")


def _described(make: Callable, spec: Any, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> BlockShapes:
    with nn.intercept_methods(_note):
        variables, output = _traced(make(spec), inputs)
    flatten = flax.traverse_util.flatten_dict
    params, counts = flatten(variables.get("params", {})), flatten(variables.get(_MACS, {}))
    for path, axes in flatten(variables.get(_AXES, {})).items():
        params[path] = Declared(params[path].shape, params[path].dtype, axes)
    positions = {
        path[:-1]: counts.get((*path[:-1], _MACS), 0) // leaf.size
        for path, leaf in params.items()
        if path[-1] == "kernel"
    }
    return BlockShapes(
        params=flax.traverse_util.unflatten_dict(params),
        moments=variables.get("moments", {}),
        alive=variables.get("alive", {}),
        output=output,
        macs=sum(counts.values()),
        positions=positions,
    )


def _to_json(shapes: BlockShapes) -> Any:
    def write(leaf: jax.ShapeDtypeStruct) -> Any:
        axes = leaf.axes if isinstance(leaf, Declared) else None
        return {_LEAF: [list(leaf.shape), str(leaf.dtype), axes]}

    trees = (shapes.params, shapes.moments, shapes.alive, shapes.output)
    places = [[list(path), count] for path, count in shapes.positions.items()]
    return [*jax.tree.map(write, trees), shapes.macs, places]


def _from_json(value: Any) -> BlockShapes:
    def read(node: Any) -> Any:
        if _LEAF not in node:
            return {name: read(inner) for name, inner in node.items()}
        shape, dtype, axes = node[_LEAF]
        if axes is not None:
            return Declared(tuple(shape), dtype, tuple(axes))
        return jax.ShapeDtypeStruct(tuple(shape), dtype)

    params, moments, alive, output, total, places = value
    positions = {tuple(path): count for path, count in places}
    return BlockShapes(read(params), read(moments), read(alive), read(output), total, positions)


def _traced(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[dict[str, Any], Any]:
    """A module's variables (ours are no arrays) and its output. Only where `_note` listens."""
    variables: dict[str, Any] = {}

    def run(keys: Any, *args: jax.Array) -> Any:
        output, made = module.init_with_output(keys, *args)
        variables.update(jax.tree.map(shape_of, made))
        return output

    key = key_shape()
    keys = {"params": key, SHAPES_ONLY: key}
    program, output = jax.make_jaxpr(run, return_shape=True)(keys, *inputs)
    # What this module does by itself; the layers that were replayed have put down theirs.
    own = macs.counted(program)
    variables[_MACS] = {**variables.get(_MACS, {})}
    variables[_MACS][_MACS] = variables[_MACS].get(_MACS, 0) + own
    return variables, output


@functools.cache
def key_shape() -> Any:
    """Of a random key. A key itself would leave operations in whatever is being traced."""
    return jax.eval_shape(jax.random.key, 0)


_known = functools.cache(_traced)


def _note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """Called by Flax in place of each method: replays known layers, and notes what is declared."""
    layer = context.module
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    if not replayable(layer, args, kwargs):
        declared = layer.macs if isinstance(layer, HasMacs) else None
        with contextlib.nullcontext() if declared is None else macs.aside():
            output = call(*args, **kwargs)
        if declared is not None:
            before = layer.get_variable(_MACS, _MACS, 0)
            layer.put_variable(_MACS, _MACS, before + declared(*args, **kwargs))
        for name, axes in _axes(layer).items():
            layer.put_variable(_AXES, name, axes)
        return output
    variables, output = _known(layer.clone(parent=None, name=None), tuple(map(shape_of, args)))
    for collection, tree in variables.items():
        for name, value in tree.items():
            layer.put_variable(collection, name, jax.tree.map(_placeholder, value))
    return jax.tree.map(lambda x: jax.lax.full(x.shape, 0, x.dtype), output)


def _axes(layer: nn.Module) -> dict[str, tuple[str, ...]]:
    """What a layer declares of its parameters' axes; for Flax's own it is known."""
    if isinstance(layer, HasAxes):
        return layer.axes
    if isinstance(layer, nn.Conv):
        spatial = 1 if isinstance(layer.kernel_size, int) else len(layer.kernel_size)
        return {"kernel": (SPATIAL,) * spatial + (CHANNEL,) * 2}
    if isinstance(layer, nn.DenseGeneral):
        return {"kernel": (CHANNEL,) * layer.get_variable("params", "kernel").ndim}
    return {}


def replayable(layer: nn.Module, args: Any, kwargs: Any) -> bool:
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


def shape_of(leaf: Any) -> Any:
    """The shape of an array; what is none, as it is."""
    is_array = isinstance(leaf, jax.Array | np.ndarray)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array else leaf


def _placeholder(leaf: Any) -> Any:
    """Zeros that take no memory, and no operation where nobody asks for them."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
