"""Elastic blocks: one set of shared parameters, and every smaller block inside it.

An `ElasticBlock` is an ordinary Flax module and the few specs (static sizes) it can take. Its
shared parameters are the *union* of its specs' parameters, each leaf at the largest shape.
`cut` takes one spec's slice out of a shared tree: leading in channels, centred on spatial
axes; `fill` puts it back among zeros. The mask of a spec is the box that `cut` would keep.
Both read the same description, the shapes that `jax.eval_shape` gives for the spec's module, so
there is nothing that could drift.

Shape letters: `S` number of specs of a block.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Lookup, Menu, Path
from supernet_jax.errors import UserError
from supernet_jax.nn import block_shapes
from supernet_jax.nn.block_shapes import BlockShapes
from supernet_jax.nn.blocks.choice import ChoiceSpec
from supernet_jax.runtime import owned

Tree = Any  # nested dicts of arrays, as Flax keeps parameters
Spec = Any  # a frozen dataclass of plain numbers and strings, made by whoever defines the block
TRANSFORMS = "transforms"  # where a block's weight-transform parameters live, beside its layers


class Transform(NamedTuple):
    """Learned (or fixed) computation of a layer's weights from the shared ones.

    It sees the shared leaf after its channels were cut, at its full spatial size, and what the
    transforms of the same leaf before it have made of it; after the last of them, the leaf has the
    spatial size of the spec, or still the full one: then, as without a transform, the spec has its
    centre.

    Attributes:
        leaf: which parameter, as ("depthwise", "kernel"), of any rank.
        size: the layer's own option in a spec, e.g. `lambda spec: spec.kernel`.
        init: `(key, full_shape) -> params`, the transform's own parameters; `{}` for none.
        apply: `(params, weights, size) -> weights`, static in `size`. In a masked subnet the
            weights have channels that the spec lacks, as zeros; whatever is made of those is
            masked again.
        name: tells several transforms of one leaf apart.
    """

    leaf: tuple[str, ...]
    size: Callable[[Spec], Any]
    init: Callable[[Array, tuple[int, ...]], Tree]
    apply: Callable[[Tree, Array, Any], Array]
    name: str = ""

    @property
    def key(self) -> str:
        """Under which its own parameters lie among those of the block."""
        return "/".join(self.leaf) + (f":{self.name}" if self.name else "")


class Deployed(NamedTuple):
    """A block as it is taken out, where another of its forms computes the same at a lower price.

    Costs are those of this form; a supernet, whose subnets share weights, never runs it.

    Attributes:
        spec: `spec -> spec` of the same module, with the same inputs, outputs and statistics; the
            same one where it is the cheapest.
        params: `(spec, params) -> params` of what `spec` gives, of NumPy or traced arrays.
    """

    spec: Callable[[Spec], Spec]
    params: Callable[[Spec, Tree], Tree]


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
        channels: number of channels (last axis) of each of the block's inputs, for a spec; None
            for one that has no such axis, as ids of tokens.
        gates: constants of a spec that the union module reads from its `gates` collection where a
            spec's module decides statically, e.g. which kind of shortcut it has.
        relaxed: names of the layers whose outputs a *soft* mask scales (the last normalisation
            of each group of channels). A scale before a normalisation would be cancelled by it.
        gated: whether gates alone weigh what only some specs have, so that a soft mask leaves it.
        transforms: weight transforms of single leaves, those of one leaf in their order.
        group: name of the parameters; two blocks with one name share them.
        deployed: another form of its specs in which networks are taken out, or None.
    """

    module: Callable[[Spec], nn.Module]
    specs: tuple[Spec, ...]
    union: Spec
    index: Lookup
    alive: Lookup | None = None
    channels: Callable[[Spec], tuple[int | None, ...]] = lambda spec: (spec.c_in,)
    gates: Callable[[Spec], Mapping[str, float]] = lambda spec: {}
    relaxed: tuple[str, ...] = ()
    gated: bool = False
    transforms: tuple[Transform, ...] = ()
    group: str | None = None
    deployed: Deployed | None = None

    def __post_init__(self) -> None:
        keys = [transform.key for transform in self.transforms]
        if len(set(keys)) < len(keys):
            raise UserError(
                f"transforms of a block are {', '.join(keys)}; give those of one leaf names of "
                "their own, as Transform(..., name='adapter')"
            )

    def spec(self, arch: Arch) -> Spec | None:
        """The spec that a concrete arch picks; None where it skips the block."""
        if self.alive is not None and not self.alive.static(arch):
            return None
        return self.specs[self.index.static(arch)]

    def taken_out(self, spec: Spec) -> Spec:
        """The spec as which one of this block is taken out."""
        return spec if self.deployed is None else self.deployed.spec(spec)

    def ordinary(self, spec: Spec) -> "Ordinary":
        """What one of this block is in a network that has been taken out."""
        spec = self.taken_out(spec)
        if isinstance(spec, ChoiceSpec):
            (option,) = spec.options
            return Ordinary(option.module, option.spec, option.name)
        return Ordinary(self.module, spec, None)


class Ordinary(NamedTuple):
    """A block of an extracted network.

    Attributes:
        module: `spec -> nn.Module`.
        spec: its sizes.
        name: under which its variables lie in those of the elastic block; None where they are all.
    """

    module: Callable[[Spec], nn.Module]
    spec: Spec
    name: str | None

    def inside(self, tree: Tree) -> Tree:
        """Its own of the elastic block's parameters or statistics."""
        return tree if self.name is None else tree.get(self.name, {})


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
            of the specs' fields, which must agree in whatever is not a number; `alive` is another
            way to say when the block is there, where `depth` does not fit.
    """
    table = choices.tabulate(menu, decisions, spec)
    specs = tuple(dict.fromkeys(table.reshape(-1).tolist()))
    places = {spec: place for place, spec in enumerate(specs)}
    index = np.vectorize(places.__getitem__, otypes=[np.int32])(table)
    if depth is not None:
        path, position = depth
        keep = [int(value > position) for value in choices.get(menu, path).values]
        options["alive"] = None if all(keep) else Lookup((path,), np.asarray(keep, np.int32))
    if "union" not in options:
        options["union"] = union_spec(specs)
    return ElasticBlock(module, specs, index=Lookup(tuple(decisions), index), **options)


@owned.by(owned.first)
def at_static(block: ElasticBlock, static: tuple[tuple[Path, int], ...]) -> ElasticBlock:
    """The block with the specs that it can have where some decisions are made.

    Args:
        block: the block; if the decisions are none of its own it comes back itself.
        static: where decisions stand in the menu, and which option was taken.
    """
    made = {path: option for path, option in static if path in block.index.paths}
    if not made:
        return block
    table = block.index.table[tuple(made.get(path, slice(None)) for path in block.index.paths)]
    kept = np.unique(table)
    specs = tuple(block.specs[i] for i in kept)
    own = {}
    for field in dataclasses.fields(block.union):
        largest, every, some = (
            {dataclasses.asdict(spec)[field.name] for spec in group}
            for group in ([block.union], block.specs, specs)
        )
        # What the union has of its own, as a kind that stands for several, it keeps.
        if largest != {max(every)} or (len(some) > 1 and isinstance(max(some), str)):
            own[field.name] = max(largest)
    paths = tuple(path for path in block.index.paths if path not in made)
    index = Lookup(paths, np.searchsorted(kept, table).astype(np.int32))
    return dataclasses.replace(block, specs=specs, union=union_spec(specs, **own), index=index)


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


@owned.by(owned.first)
def kind(block: ElasticBlock, rates: bool) -> Hashable:
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
    """A spec without its rates (floats), which change no shape.

    A field whose metadata say `later` came to the spec when there were runs with it already: at its
    default, which means what was done before, it does not count either.
    """
    return (type(spec).__name__, *_without_floats(_counted(spec)))


def _counted(spec: Any) -> list[Any]:
    return [
        getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if not (field.metadata.get("later") and getattr(spec, field.name) == field.default)
    ]


def _without_floats(values: Sequence[Any]) -> tuple[Any, ...]:
    """Of nested tuples; a spec within a spec is one."""
    found: list[Any] = []
    for value in values:
        is_spec = dataclasses.is_dataclass(value) and not isinstance(value, type)
        plain = tuple(_counted(value)) if is_spec else value
        plain = plain.__qualname__ if isinstance(plain, type) else plain
        if not isinstance(plain, float):
            found.append(_without_floats(plain) if isinstance(plain, tuple) else plain)
    return tuple(found)


def own_inputs(
    block: ElasticBlock, spec: Spec, inputs: Sequence[jax.ShapeDtypeStruct]
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes of a spec's inputs: those of the union's, with the spec's own channels."""
    return tuple(
        x if c is None else jax.ShapeDtypeStruct((*x.shape[:-1], c), x.dtype)
        for x, c in zip(inputs, block.channels(spec), strict=True)
    )


def shapes(block: ElasticBlock, spec: Spec, inputs: Sequence[jax.ShapeDtypeStruct]) -> BlockShapes:
    """Shapes of a spec's parameters, statistics and output (cached).

    Args:
        block: the elastic block.
        spec: one of its specs, or its union.
        inputs: shapes of the union's inputs; their channels are replaced by the spec's own.

    Raises:
        UserError: it puts out something of another shape than the union, beyond channels.
    """
    found = block_shapes.describe(block.module, spec, own_inputs(block, spec, inputs))
    if spec != block.union:
        largest = shapes(block, block.union, inputs).output
        if found.output.shape[:-1] != largest.shape[:-1]:
            raise UserError(
                f"specs of a block put out different shapes: {spec} gives "
                f"{list(found.output.shape)}, the largest, {block.union}, "
                f"{list(largest.shape)}; only the last axis may differ, or the decision must be "
                "among the static ones of the space: Space(static=...)"
            )
    return found
