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
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices
from supernet_jax.choices import Arch, Array, Code, Lookup, Menu, Path
from supernet_jax.nn import block_shapes
from supernet_jax.nn.block_shapes import BlockShapes, Shapes

Tree = Any  # nested dicts of arrays, as Flax keeps parameters
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
    """What two blocks share that compute the same from the same arrays and the same pick.

    Args:
        block: the block; whether it is alive and which decisions pick its spec do not count.
        rates: whether floats of specs count: they are rates, as of dropout, that decide nothing
            where there is no dropout.
    """
    specs = [*block.specs, block.union]
    return (
        block.module,
        tuple(dataclasses.astuple(spec) if rates else sizes(spec) for spec in specs),
        tuple((*block.channels(spec), *block.gates(spec).items()) for spec in specs),
        block.relaxed,
        block.transforms,
    )


def sizes(spec: Spec) -> tuple[Any, ...]:
    """A spec without its rates (floats), which change no shape."""
    values = dataclasses.astuple(spec)
    return (type(spec).__name__, *(value for value in values if not isinstance(value, float)))


def shapes(block: ElasticBlock, spec: Spec, inputs: Sequence[tuple[int, ...]]) -> BlockShapes:
    """Shapes of a spec's parameters, statistics and output (cached).

    Args:
        block: the elastic block.
        spec: one of its specs, or its union.
        inputs: shapes of the union's inputs; their channels are replaced by the spec's own.
    """
    own = tuple((*s[:-1], c) for s, c in zip(inputs, block.channels(spec), strict=True))
    return block_shapes.describe(block.module, spec, own)


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
        starts = _starts(path, full.shape, part.shape)
        edges = [(s, s + n) for s, n in zip(starts, part.shape, strict=True)]
        for axis in _spatial_axes(path, len(full.shape)):
            # A transform sees all of it; another centre would be found in a lopsided part.
            n = full.shape[axis]
            if path in transformed or (n - part.shape[axis]) % 2:
                edges[axis] = (0, n)
        found[path] = tuple(edges)

    _zip(shared, target, note)
    return found


def masked_weights(block: ElasticBlock, shared: Tree, arch: Arch | Code, inputs: Any) -> Tree:
    """The union's parameters with everything outside the arch's box set to zero.

    A code's mask is the expectation of its options' masks. Its spatial axes mix kernels in weight
    space; its channel axes scale only the outputs of the layers in `block.relaxed`.
    """
    soft = choices.is_code(arch)
    union = shapes(block, block.union, inputs).params
    edges = _edges(block, tuple(inputs), soft)
    chosen = block.index.probabilities(arch, len(block.specs)) if soft else block.index(arch)
    own = _outer(union, shared, lambda path, shape, leaf: leaf)
    result = _masked(own, chosen, edges.table, leaves=edges.leaves, soft=soft)
    for transform in block.transforms:
        likely = block.index.probabilities(arch, len(block.specs))
        mixed = _mixed(block, transform, shared, _get(result, transform.leaf), likely)
        result = _put(result, transform.leaf, mixed)
    return result


class _Edges(NamedTuple):
    """Where the boxes of a block's specs begin and end.

    Attributes:
        leaves: `(path, ((axis, column), ...))` of every leaf that some spec has only a part of,
            with the axes on which that is so.
        table: int32 `[2, S, columns]`, the first index that a spec keeps and the first that it
            does not. Axes that agree share a column. Of a leaf that a spec lacks nothing is kept.
    """

    leaves: tuple[tuple[tuple[str, ...], tuple[tuple[int, int], ...]], ...]
    table: np.ndarray


@functools.cache
def _edges(block: ElasticBlock, inputs: tuple[tuple[int, ...], ...], soft: bool) -> _Edges:
    """See `masked_weights` for what a soft mask leaves aside."""
    trees = [shapes(block, spec, inputs).params for spec in block.specs]
    transformed = {transform.leaf for transform in block.transforms}
    columns: dict[tuple[tuple[int, int], ...], int] = {}
    leaves = []

    def note(path: tuple[str, ...], shape: Any, _: Any) -> None:
        sizes = [_find(tree, path) for tree in trees]
        axes = _mask_axes(path, shape.shape, soft, block.relaxed, path not in transformed)
        kept = {a: tuple(_edge(path, shape.shape, size, a) for size in sizes) for a in axes}
        n = shape.shape[0] if shape.shape else 1
        if not axes:
            kept = {0: tuple((0, 0 if size is None else n) for size in sizes)}
        whole = {a: (0, shape.shape[a]) for a in axes} or {0: (0, n)}
        cut = {a: edges for a, edges in kept.items() if set(edges) != {whole[a]}}
        places = tuple((a, columns.setdefault(e, len(columns))) for a, e in cut.items())
        if places:
            leaves.append((path, places))

    _outer(shapes(block, block.union, inputs).params, {}, note)
    table = np.asarray(list(columns), np.int32).reshape(len(columns), len(trees), 2)
    return _Edges(tuple(leaves), table.transpose(2, 1, 0))


def _edge(path: tuple[str, ...], full: tuple[int, ...], part: Any, axis: int) -> tuple[int, int]:
    """First index of an axis that a spec's leaf keeps, and first that it does not."""
    if part is None:
        return (0, 0)
    start = _starts(path, full, part.shape)[axis]
    return (start, start + part.shape[axis])


@functools.partial(jax.jit, static_argnames=("leaves", "soft"))
def _masked(tree: Tree, chosen: Array, table: Array, *, leaves: Any, soft: bool) -> Tree:
    """The leaves times the expected box; jitted by itself so that like blocks are traced once.

    Args:
        tree: the union's parameters.
        chosen: probabilities `[S]` if `soft`, else which of the specs.
        table: of `_Edges`.
        leaves: of `_Edges`.
        soft: whether this is a code.
    """
    starts, stops = table[..., None]
    sizes = [
        (_get(tree, path).shape or (1,))[axis] for path, places in leaves for axis, _ in places
    ]
    position = jax.lax.broadcasted_iota(jnp.int32, (*starts.shape[:2], max(sizes, default=0)), 2)
    inside = (position >= starts) & (position < stops)  # [S, columns, N]; below [1, ...] of an arch
    if not soft:
        # Reduced, not sliced. A slice the compiler takes for cheap: it computes it again for every
        # leaf, with all that led to the choice, and takes twice as long to compile.
        taken = jax.lax.broadcasted_iota(jnp.int32, (len(inside), 1, 1), 0) == chosen
        inside = jnp.any(inside & taken, 0, keepdims=True)
    for path, places in leaves:
        leaf = _get(tree, path)
        shape = leaf.shape or (1,)
        boxes = [_column(inside, column, shape[axis]) for axis, column in places]
        mask = _expectation(chosen, boxes) if soft else _product([box[0] for box in boxes])
        used = [axis for axis, _ in places]
        mask = mask.reshape([n if a in used else 1 for a, n in enumerate(leaf.shape)])
        tree = _put(tree, path, leaf * mask.astype(leaf.dtype))
    return tree


def _column(inside: Array, column: int, n: int) -> Array:
    """`[S, columns, N]` -> `[S, n]`."""
    box = jax.lax.slice(inside, (0, column, 0), (len(inside), column + 1, n))
    return jax.lax.squeeze(box, (1,))


def _product(boxes: Sequence[Array]) -> Array:
    """`[n]`, `[m]`, ... -> `[n, m, ...]`."""
    spread = [
        box.reshape([-1 if i == axis else 1 for i in range(len(boxes))])
        for axis, box in enumerate(boxes)
    ]
    return functools.reduce(jnp.logical_and, spread)


def _expectation(chosen: Array, boxes: Sequence[Array]) -> Array:
    """`[S]` and `[S, n]`, `[S, m]`, ... -> `[n, m, ...]`."""
    letters = "abcdefg"[: len(boxes)]
    terms = ",".join(["s", *(f"s{letter}" for letter in letters)])
    floats = [box.astype(jnp.float32) for box in boxes]
    return jnp.einsum(f"{terms}->{letters}", chosen, *floats, precision=jax.lax.Precision.HIGHEST)


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
