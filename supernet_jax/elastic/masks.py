"""The weights of a spec as a mask of the shared ones, for specs that are traced or mixed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block, slicing
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import TRANSFORMS, ElasticBlock, Transform, Tree
from supernet_jax.runtime import owned

Mask = Literal["one", "expected", "any"]


def picked(block: ElasticBlock, arch: Arch | Code) -> tuple[Array, Array, bool]:
    """What is picked of a block's S specs: the index `[]` of an arch's, or the weights `[S]` of a
    code's; how likely each is, `[S]`; and whether it is a code.
    """
    soft = choices.is_code(arch)
    likely = block.index.probabilities(arch, len(block.specs))
    return likely if soft else jnp.asarray(block.index(arch)), likely, soft


def masked_weights(
    block: ElasticBlock, shared: Tree, inputs: Any, chosen: Array, likely: Array, soft: bool
) -> Tree:
    """The union's parameters with everything outside the box of what was `picked` set to zero.

    A code's mask is the expectation of its options' masks. Its spatial axes mix kernels in weight
    space; its channel axes scale only the outputs of the layers in `block.relaxed`. Channels that
    no spec has whose probability is above 0 are zero in every layer, so that a one-hot code is its
    arch.
    """
    union = elastic_block.shapes(block, block.union, inputs).params
    by_leaf = slicing.by_leaf(block)
    result = slicing.cut(shared, union, whole=by_leaf)
    if soft and not block.gated:
        edges = _edges(block, tuple(inputs), True)
        result = _masked(result, chosen, edges.table, leaves=edges.leaves, mask="expected")
    mask: Mask = "any" if soft else "one"
    edges = _edges(block, tuple(inputs), False)
    result = _masked(result, chosen, edges.table, leaves=edges.leaves, mask=mask)
    for where, transforms in by_leaf.items():
        trees = (elastic_block.shapes(block, spec, inputs).params for spec in block.specs)
        parts = [slicing.find_leaf(tree, where) for tree in trees]
        leaf, final = slicing.get_leaf(result, where), slicing.get_leaf(union, where)
        mixed = _mixed(block, transforms, shared.get(TRANSFORMS, {}), leaf, final, likely, parts)
        result = slicing.put_leaf(result, where, mixed)
    if by_leaf:  # a transform may add to channels that the spec lacks
        again = tuple((path, places) for path, places in edges.leaves if path in by_leaf)
        result = _masked(result, chosen, edges.table, leaves=again, mask=mask)
    return result


def masked_alive(block: ElasticBlock, inputs: Any, chosen: Array, soft: bool) -> Tree:
    """What of the union is alive in what was `picked`: ones where its specs have channels, zeros
    elsewhere; of a code the expectation. See `nn.layers.alive`.
    """
    ones = jax.tree.map(
        lambda s: np.ones(s.shape, np.float32),
        elastic_block.shapes(block, block.union, inputs).alive,
    )
    edges = _alive_edges(block, tuple(inputs))
    mask: Mask = "expected" if soft else "one"
    return _masked(ones, chosen, edges.table, leaves=edges.leaves, mask=mask)


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


@owned.by(owned.first)
def _edges(block: ElasticBlock, inputs: tuple[jax.ShapeDtypeStruct, ...], soft: bool) -> _Edges:
    """See `masked_weights` for what a soft mask leaves aside."""
    transformed = {transform.leaf for transform in block.transforms}

    def axes(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
        rank, spatial = len(leaf.shape), slicing.spatial_axes(path, leaf)
        masked = () if path in transformed else spatial  # a transform makes kernels of any size
        if soft:
            return (*masked, rank - 1) if path[0] in block.relaxed else masked
        return tuple(a for a in range(rank) if a in masked or a not in spatial)

    union, *specs = [
        elastic_block.shapes(block, spec, inputs).params for spec in (block.union, *block.specs)
    ]
    return _edges_of(union, specs, axes)


@owned.by(owned.first)
def _alive_edges(block: ElasticBlock, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> _Edges:
    union, *specs = [
        elastic_block.shapes(block, spec, inputs).alive for spec in (block.union, *block.specs)
    ]
    return _edges_of(union, specs, lambda path, leaf: tuple(range(len(leaf.shape))))


def _edges_of(
    union: Tree, specs: Sequence[Tree], axes_of: Callable[..., tuple[int, ...]]
) -> _Edges:
    """The boxes of specs within a union.

    Args:
        union: tree of shapes.
        specs: trees of shapes.
        axes_of: `(path, leaf) -> axes` that are masked; a leaf without any is there, or not.
    """
    columns: dict[tuple[tuple[int, int], ...], int] = {}
    leaves = []

    def note(path: tuple[str, ...], shape: Any, _: Any) -> None:
        full, axes = shape.shape, axes_of(path, shape)
        spatial = slicing.spatial_axes(path, shape)
        parts = [slicing.find_leaf(tree, path) for tree in specs]
        boxes = [None if p is None else slicing.box(full, p.shape, spatial) for p in parts]
        kept = {a: tuple((0, 0) if box is None else box[a] for box in boxes) for a in axes}
        whole = {a: (0, full[a]) for a in axes}
        if not axes:  # there, or not there
            n = full[0] if full else 1
            kept = {0: tuple((0, 0 if box is None else n) for box in boxes)}
            whole = {0: (0, n)}
        cut = {a: edges for a, edges in kept.items() if set(edges) != {whole[a]}}
        places = tuple((a, columns.setdefault(e, len(columns))) for a, e in cut.items())
        if places:
            leaves.append((path, places))

    slicing.walk(union, {}, note)
    table = np.asarray(list(columns), np.int32).reshape(len(columns), len(specs), 2)
    return _Edges(tuple(leaves), table.transpose(2, 1, 0))


@functools.partial(jax.jit, static_argnames=("leaves", "mask"))
def _masked(tree: Tree, chosen: Array, table: Array, *, leaves: Any, mask: Mask) -> Tree:
    """The leaves times a mask; jitted by itself so that like blocks are traced once.

    Args:
        tree: the union's parameters.
        chosen: which of the specs for "one", otherwise their probabilities `[S]`.
        table: of `_Edges`.
        leaves: of `_Edges`.
        mask: the box of one spec, the expected box, or whatever lies, on each axis, in the box of
            any spec that has a probability above 0.
    """
    starts, stops = table[..., None]
    sizes = [
        (slicing.get_leaf(tree, path).shape or (1,))[axis]
        for path, places in leaves
        for axis, _ in places
    ]
    position = jax.lax.broadcasted_iota(jnp.int32, (*starts.shape[:2], max(sizes, default=0)), 2)
    inside = (position >= starts) & (position < stops)  # [S, columns, N]; below [1, ...] of an arch
    if mask != "expected":
        # Reduced, not sliced. A slice the compiler takes for cheap: it computes it again for every
        # leaf, with all that led to the choice, and takes twice as long to compile.
        place = jax.lax.broadcasted_iota(jnp.int32, (len(inside), 1, 1), 0)
        taken = place == chosen if mask == "one" else chosen[:, None, None] > 0
        inside = jnp.any(inside & taken, 0, keepdims=True)
    for path, places in leaves:
        leaf = slicing.get_leaf(tree, path)
        shape = leaf.shape or (1,)
        boxes = [  # [S, n] each
            jax.lax.squeeze(
                jax.lax.slice(inside, (0, column, 0), (len(inside), column + 1, shape[axis])), (1,)
            )
            for axis, column in places
        ]
        expected = mask == "expected"
        kept = _expectation(chosen, boxes) if expected else _product([box[0] for box in boxes])
        used = [axis for axis, _ in places]
        kept = kept.reshape([n if a in used else 1 for a, n in enumerate(leaf.shape)])
        tree = slicing.put_leaf(tree, path, leaf * kept.astype(leaf.dtype))
    return tree


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
    block: ElasticBlock,
    transforms: tuple[Transform, ...],
    params: Tree,
    leaf: Array,
    final: jax.ShapeDtypeStruct,
    chosen: Array,
    parts: Sequence[Any],
) -> Array:
    """Sum over the layer's options of probability x transformed weights, zero-padded.

    Args:
        block: the block.
        transforms: of one leaf.
        params: of all transforms of the block.
        leaf: masked, at the full size of its spatial axes.
        final: the leaf's shape in the union.
        chosen: probability of each spec, `[S]`.
        parts: shape of the leaf in each spec; None where a spec lacks it, whose mask is zero.
    """
    name = transforms[0].leaf[-1]
    spatial = slicing.spatial_axes(transforms[0].leaf, final)

    def cropped(part: Any) -> tuple[int, ...]:
        """The leaf with all channels, and the spatial sizes of a spec."""
        kept = leaf.shape if part is None else part.shape
        return tuple(kept[a] if a in spatial else n for a, n in enumerate(leaf.shape))

    options = [
        (tuple(t.size(spec) for t in transforms), cropped(part))
        for spec, part in zip(block.specs, parts, strict=True)
    ]
    total = jnp.zeros(final.shape, leaf.dtype)
    for option in dict.fromkeys(options):
        share = jnp.sum(jnp.where(np.asarray([o == option for o in options]), chosen, 0.0))
        sizes, shape = option
        made = slicing.transformed(transforms, params, leaf, sizes)
        if made.shape == leaf.shape:
            made = slicing.cut_leaf(made, shape, spatial)
        filled = slicing.fill({name: made}, {name: final})[name]
        total = total + share.astype(leaf.dtype) * filled
    return total
