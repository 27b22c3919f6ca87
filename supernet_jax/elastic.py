"""Elastic blocks: one set of shared parameters, and every smaller block inside it.

An `ElasticBlock` is an ordinary Flax module and the few specs (static sizes) it can take. Its
shared parameters are the *union* of its specs' parameters, each leaf at the largest shape.
`cut` takes one spec's slice out of a shared tree: leading in channels, centred in convolution
kernels; `fill` puts it back among zeros. The mask of a spec is the box that `cut` would keep.
Both read the same description, the shapes that `jax.eval_shape` gives for the spec's module, so
there is nothing that could drift.

Shape letters: `S` number of specs of a block.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices
from supernet_jax.choices import Arch, Array, Code, Lookup, Menu, Path

Tree = Any  # nested dicts of arrays, as Flax keeps parameters
Shapes = Any  # the same with jax.ShapeDtypeStruct leaves
Spec = Any  # a frozen dataclass of plain numbers and strings, made by whoever defines the block
TRANSFORMS = "transforms"  # where a block's weight-transform parameters live, beside its layers


class Transform(NamedTuple):
    """Learned (or fixed) computation of a layer's weights from the shared ones.

    It sees the shared leaf after its input and output channels were cut, at its full spatial size,
    and returns the leaf at the size of the spec; without one, kernels are centre crops.

    Attributes:
        leaf: which parameter, as ("depthwise", "kernel").
        size: the layer's own option in a spec, e.g. `lambda spec: spec.kernel`.
        init: `(key, full_shape) -> params`, the transform's own parameters.
        apply: `(params, weights, size) -> weights`, static in `size`.
    """

    leaf: tuple[str, ...]
    size: Callable[[Spec], Any]
    init: Callable[[Array, tuple[int, ...]], Tree]
    apply: Callable[[Tree, Array, Any], Array]


@dataclasses.dataclass(frozen=True, eq=False)
class ElasticBlock:
    """A module, the specs it can take, and how an arch picks one.

    Attributes:
        module: `spec -> nn.Module`; usually the module class itself. Sizes are read off its
            parameters; statistics of its norms are its `moments` collection.
        specs: the distinct specs, in any order.
        union: the spec whose module holds every parameter of every spec, at the largest shape.
            What `masked` runs.
        index: which of `specs` an arch picks.
        alive: 1 where an arch keeps the block and 0 where it is skipped and returns its first
            input; None if it is always there.
        channels: number of channels (last axis) of each of the block's inputs, for a spec.
        gates: constants of a spec that the union module reads from its `gates` collection where a
            spec's module decides statically, e.g. which kind of shortcut it has.
        relaxed: names of the layers whose outputs a *soft* mask scales (the last normalisation
            of each group of channels). A scale before a normalisation would be cancelled by it.
        transforms: weight transforms of single leaves.
        group: name of the parameters; two blocks with one name share them.
    """

    module: Callable[[Spec], nn.Module]
    specs: tuple[Spec, ...]
    union: Spec
    index: Lookup
    alive: Lookup | None = None
    channels: Callable[[Spec], tuple[int, ...]] = lambda spec: (spec.c_in,)
    gates: Callable[[Spec], Mapping[str, float]] = lambda spec: {}
    relaxed: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()
    group: str | None = None

    def spec(self, arch: Arch) -> Spec | None:
        """The spec that a concrete arch picks; None where it skips the block."""
        if self.alive is not None and not self.alive.static(arch):
            return None
        return self.specs[self.index.static(arch)]


def elastic(
    module: Callable[[Spec], nn.Module],
    spec: Callable[..., Spec],
    *,
    menu: Menu,
    decisions: Sequence[Path] = (),
    depth: tuple[Path, int] | None = None,
    **options: Any,
) -> ElasticBlock:
    """Builds an `ElasticBlock` by listing what a few decisions make of it.

    Args:
        module: `spec -> nn.Module`.
        spec: `(*values) -> Spec`, called with every combination of the values of `decisions`.
        menu: the space's menu.
        decisions: where the block's decisions stand in the menu.
        depth: `(path, i)`: the block is there only in archs whose value at `path` exceeds `i`.
        **options: further fields of `ElasticBlock`. `union` defaults to the elementwise maximum
            of the specs' fields, which must agree in whatever is not a number.
    """
    table = choices.tabulate(menu, decisions, spec)
    specs = tuple(dict.fromkeys(table.reshape(-1).tolist()))
    index = np.vectorize(specs.index, otypes=[np.int32])(table)
    alive = None
    if depth is not None:
        path, position = depth
        keep = [int(value > position) for value in choices.get(menu, path).values]
        alive = None if all(keep) else Lookup((path,), np.asarray(keep, np.int32))
    if "union" not in options:
        options["union"] = union_spec(specs)
    return ElasticBlock(
        module, specs, index=Lookup(tuple(decisions), index), alive=alive, **options
    )


def union_spec(specs: Sequence[Spec], **fixed: Any) -> Spec:
    """The elementwise maximum of the specs' fields; `fixed` names those that are set instead."""
    merged = dict(fixed)
    for field in dataclasses.fields(specs[0]):
        values = {getattr(spec, field.name) for spec in specs}
        if field.name in fixed:
            continue
        if len(values) > 1 and any(isinstance(value, str) for value in values):
            raise ValueError(f"specs differ in {field.name}: {values}; pass union=...")
        merged[field.name] = max(values) if len(values) > 1 else values.pop()
    return type(specs[0])(**merged)


def kind(block: ElasticBlock, *, rates: bool) -> Hashable:
    """What two blocks share that compute the same from the same arrays for the same arch.

    Args:
        block: the block; whether it is alive does not count.
        rates: whether floats of specs count: they are rates, as of dropout, that decide nothing
            where there is no dropout.
    """
    specs = [*block.specs, block.union]
    return (
        block.module,
        tuple(dataclasses.astuple(spec) if rates else sizes(spec) for spec in specs),
        tuple((*block.channels(spec), *block.gates(spec).items()) for spec in specs),
        block.index.paths,
        block.index.table.tobytes(),
        block.relaxed,
        block.transforms,
    )


def sizes(spec: Spec) -> tuple[Any, ...]:
    """A spec without its rates (floats), which change no shape."""
    values = dataclasses.astuple(spec)
    return (type(spec).__name__, *(value for value in values if not isinstance(value, float)))


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


@functools.cache
def _shapes(
    module: Callable[[Spec], nn.Module], spec: Spec, inputs: tuple[tuple[int, ...], ...]
) -> BlockShapes:
    positions: dict[tuple[str, ...], int] = {}

    def note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        layer = context.module
        if context.method_name == "__call__" and layer.has_variable("params", "kernel"):
            positions[layer.path] = math.prod(output.shape[1:-1])
        return output

    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
    with nn.intercept_methods(note):
        key = jax.random.key(0)
        output, variables = jax.eval_shape(module(spec).init_with_output, key, *args)
    params, moments = variables.get("params", {}), variables.get("moments", {})
    return BlockShapes(params, moments, output, positions)


def shapes(block: ElasticBlock, spec: Spec, inputs: Sequence[tuple[int, ...]]) -> BlockShapes:
    """Shapes of a spec's parameters, statistics and output (cached).

    Args:
        block: the elastic block.
        spec: one of its specs, or its union.
        inputs: shapes of the union's inputs; their channels are replaced by the spec's own.
    """
    own = tuple((*s[:-1], c) for s, c in zip(inputs, block.channels(spec), strict=True))
    return _shapes(block.module, spec, own)


def cut(tree: Tree, target: Shapes) -> Tree:
    """Slices one spec's tree out of a shared tree: leading in channels, centred in kernels.

    Args:
        tree: shared arrays; may hold leaves that the spec lacks.
        target: the spec's tree of shapes.
    """
    return _zip(tree, target, _cut_leaf)


def fill(tree: Tree, target: Shapes) -> Tree:
    """Inverse of `cut`: the spec's tree among zeros, with the shapes of `target`."""

    def one(path: tuple[str, ...], shape: Any, leaf: Array | None) -> Array:
        if leaf is None:
            return jnp.zeros(shape.shape, shape.dtype)
        return _fill_leaf(path, leaf, shape.shape)

    return _outer(target, tree, one)


def cut_channels(x: Array, channels: int) -> Array:
    """The leading channels (last axis) of an activation."""
    return x[..., :channels]


def weights(block: ElasticBlock, shared: Tree, spec: Spec, target: Shapes) -> Tree:
    """The parameters of one spec: cut from the shared ones, then transformed."""
    result = cut(shared, target)
    for transform in block.transforms:
        where = transform.leaf
        full, final = _get(shared, where), _get(target, where).shape
        channels = full[..., : final[-2], : final[-1]]
        own = shared[TRANSFORMS]["/".join(where)]
        result = _put(result, where, transform.apply(own, channels, transform.size(spec)))
    return result


def masked_weights(block: ElasticBlock, shared: Tree, arch: Arch | Code, inputs: Any) -> Tree:
    """The union's parameters with everything outside the arch's box set to zero.

    A code's mask is the expectation of its options' masks. Its spatial axes mix kernels in weight
    space; its channel axes scale only the outputs of the layers in `block.relaxed`.
    """
    chosen = block.index.probabilities(arch, len(block.specs))
    trees = [shapes(block, spec, inputs).params for spec in block.specs]
    union = shapes(block, block.union, inputs).params
    soft = choices.is_code(arch)
    transforms = {t.leaf: t for t in block.transforms}

    def one(path: tuple[str, ...], shape: Any, leaf: Array | None) -> Array:
        assert leaf is not None  # shared parameters hold the whole union
        sizes = [_find(tree, path) for tree in trees]
        if path in transforms:
            axes = _mask_axes(path, shape.shape, soft, block.relaxed, spatial=False)
            leaf = leaf * _mask(path, shape.shape, sizes, chosen, axes).astype(leaf.dtype)
            return _mixed(block, transforms[path], shared, leaf, chosen)
        axes = _mask_axes(path, shape.shape, soft, block.relaxed)
        return leaf * _mask(path, shape.shape, sizes, chosen, axes).astype(leaf.dtype)

    return _outer(union, shared, one)


def _mixed(
    block: ElasticBlock, transform: Transform, shared: Tree, leaf: Array, chosen: Array
) -> Array:
    """Sum over the layer's options of probability x transformed weights, zero-padded."""
    own = shared[TRANSFORMS]["/".join(transform.leaf)]
    options = [transform.size(spec) for spec in block.specs]
    total = jnp.zeros_like(leaf)
    for option in dict.fromkeys(options):
        share = jnp.sum(jnp.where(np.asarray([o == option for o in options]), chosen, 0.0))
        made = transform.apply(own, leaf, option)
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        total = (
            total + share.astype(leaf.dtype) * fill({"kernel": made}, {"kernel": shape})["kernel"]
        )
    return total


def _mask_axes(
    path: tuple[str, ...],
    shape: tuple[int, ...],
    soft: bool,
    relaxed: tuple[str, ...],
    spatial: bool = True,
) -> tuple[int, ...]:
    """Which axes of a leaf a mask touches: all for an arch, see `masked_weights` for a code."""
    kernel_axes = _spatial_axes(path, len(shape))
    axes = kernel_axes if spatial else ()  # they come before the channels
    if not soft:
        return tuple(a for a in range(len(shape)) if spatial or a not in kernel_axes)
    return axes + ((len(shape) - 1,) if path[0] in relaxed else ())


def _mask(
    path: tuple[str, ...],
    shape: tuple[int, ...],
    sizes: Sequence[Any],
    chosen: Array,
    axes: tuple[int, ...],
) -> Array:
    """Expected box over the specs, for the given axes; it broadcasts against the leaf.

    Axes on which all specs agree are left out; a spec without the leaf has an empty box.
    """
    present = np.asarray([float(size is not None) for size in sizes], np.float32)
    boxes: list[np.ndarray] = []
    used: list[int] = []
    for axis in axes:
        box = np.stack([_box(path, shape, size, axis) for size in sizes])
        if not (box[present > 0] == 1).all():
            boxes.append(box)
            used.append(axis)
    if not used and present.all():
        return jnp.ones((1,) * len(shape))
    letters = "abcdefg"[: len(used)]
    terms = ",".join(["s", "s", *(f"s{letter}" for letter in letters)])
    mask = jnp.einsum(
        f"{terms}->{letters}", chosen, present, *boxes, precision=jax.lax.Precision.HIGHEST
    )
    return mask.reshape([n if a in used else 1 for a, n in enumerate(shape)])


def _box(path: tuple[str, ...], shape: tuple[int, ...], size: Any, axis: int) -> np.ndarray:
    n = shape[axis]
    if size is None:
        return np.zeros(n, np.float32)
    start = _starts(path, shape, size.shape)[axis]
    position = np.arange(n)
    return ((position >= start) & (position < start + size.shape[axis])).astype(np.float32)


def _spatial_axes(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """The axes cut at their centre: height and width of a convolution kernel."""
    return (0, 1) if path[-1] == "kernel" and ndim == 4 else ()


def _starts(path: tuple[str, ...], full: tuple[int, ...], part: tuple[int, ...]) -> list[int]:
    centred = _spatial_axes(path, len(full))
    return [
        (n - m) // 2 if a in centred else 0 for a, (n, m) in enumerate(zip(full, part, strict=True))
    ]


def _cut_leaf(path: tuple[str, ...], leaf: Array, target: Any) -> Array:
    starts = _starts(path, leaf.shape, target.shape)
    return jax.lax.slice(leaf, starts, [s + n for s, n in zip(starts, target.shape, strict=True)])


def _fill_leaf(path: tuple[str, ...], leaf: Array, shape: tuple[int, ...]) -> Array:
    starts = _starts(path, shape, leaf.shape)
    ends = [n - s - m for n, s, m in zip(shape, starts, leaf.shape, strict=True)]
    return jnp.pad(leaf, list(zip(starts, ends, strict=True)))


def _zip(tree: Tree, target: Shapes, one: Callable, path: tuple[str, ...] = ()) -> Tree:
    if isinstance(target, Mapping):
        return {k: _zip(tree[k], target[k], one, (*path, k)) for k in target}
    return one(path, tree, target)


def _outer(target: Shapes, tree: Tree, one: Callable, path: tuple[str, ...] = ()) -> Tree:
    """Walks `target`; `one(path, shape, leaf or None)` where `tree` may lack branches."""
    if isinstance(target, Mapping):
        own = tree if isinstance(tree, Mapping) else {}
        return {k: _outer(target[k], own.get(k), one, (*path, k)) for k in target}
    return one(path, target, tree)


def _find(tree: Tree, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _get(tree: Tree, path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda node, key: node[key], path, tree)


def _put(tree: Tree, path: tuple[str, ...], leaf: Array) -> Tree:
    if not path:
        return leaf
    return {**tree, path[0]: _put(tree[path[0]], path[1:], leaf)}
