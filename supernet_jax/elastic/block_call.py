"""One block of a subnet about to run: at its own size, masked at the largest, or not at all."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import elastic_block, masks, slicing, taps
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import ElasticBlock, Spec, Tree
from supernet_jax.nn.block_shapes import BlockShapes


@dataclasses.dataclass(frozen=True, eq=False)
class Static:
    """Holds a tree of shapes as static metadata (dicts do not hash)."""

    value: Any

    def get(self) -> Any:
        """The tree."""
        return self.value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
    """One block about to run: its arrays, and (static) what they belong to.

    `keep` says whether a traced arch has the block at all (of a code: how much of it); None where
    every arch has it. `which` of its specs the arch picks, where the strategy switches. `where`
    says how the shared parameters are split over devices, if they are; then `has_rows` says whether
    they are all rows of a bank. `taps` are those wanted. `otherwise` is what the topology has in
    the block's place where an arch skips it, None for the block's first input.
    """

    shared: Tree
    stats: Tree | None
    key: Array | None
    keep: Array | None
    which: Array | None
    block: ElasticBlock = dataclasses.field(metadata={"static": True})
    inputs: tuple[jax.ShapeDtypeStruct, ...] = dataclasses.field(metadata={"static": True})
    union: Any = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})
    where: Static | None = dataclasses.field(default=None, metadata={"static": True})
    has_rows: bool = dataclasses.field(default=False, metadata={"static": True})
    taps: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    otherwise: Array | None = None

    @property
    def out_channels(self) -> int:
        """Channels of the union's output."""
        return self.union.get().output.shape[-1]

    def no_moments(self) -> Tree:
        """Zeros where the block's statistics would be."""
        if self.stats is not None:
            return {}
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.union.get().moments)

    def skip(self, *inputs: Array) -> tuple[Array, Tree]:
        """What a block that is not there gives: `otherwise`, or its first input, with as many
        channels as it would put out.
        """
        instead = inputs[0] if self.otherwise is None else self.otherwise
        return slicing.fit_channels(instead, self.out_channels), self.no_moments()

    def at(self, spec: Spec, *inputs: Array) -> tuple[Array, Tree]:
        """The block at its own size; inputs and statistics may be wider than it."""
        which = self.block.specs.index(spec)
        return _at(self.shared, self.stats, self.key, inputs, kind=self._kind(), which=which)

    def masked(self, arch: Arch | Code, *inputs: Array) -> tuple[Array, Tree]:
        """The largest block on masked weights."""
        chosen, likely, soft = masks.picked(self.block, arch)
        arrays = (self.shared, self.stats, self.key, chosen, likely, inputs)
        return _masked(*arrays, kind=self._kind(), soft=soft)

    def _kind(self) -> "Kind":
        rates = self.key is not None
        about = self.inputs, self.union.get(), self.dtype
        return Kind.of(self.block, *about, rates=rates, taps=self.taps)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A block without its place in a space. Blocks that are alike are equal, and so traced once;
    their derivatives too, which cost more.

    Attributes:
        alike: what makes them so: of the block, the shapes of its union's inputs, the dtype, and
            the taps that are wanted.
        block: one of them.
        union: its shapes.
    """

    alike: Any
    block: ElasticBlock = dataclasses.field(compare=False)
    union: BlockShapes = dataclasses.field(compare=False)

    @classmethod
    def of(
        cls,
        block: ElasticBlock,
        inputs: tuple[jax.ShapeDtypeStruct, ...],
        union: BlockShapes,
        dtype: Any,
        *,
        rates: bool,
        taps: tuple[str, ...] = (),
    ) -> "Kind":
        """The kind of a block; `rates` as in `elastic_block.kind`."""
        return cls((elastic_block.kind(block, rates), inputs, dtype, taps), block, union)

    def at(
        self, which: int, shared: Tree, stats: Tree | None, key: Array | None, inputs: Any
    ) -> tuple[Array, Tree]:
        """One of the block's specs, at its own size, and the statistics of the batch; statistics
        may be wider than it, and inputs wider or, behind a skipped block, narrower.
        """
        block, spec = self.block, self.block.specs[which]
        shapes = elastic_block.shapes(block, spec, self.alike[1])
        weights = slicing.weights(block, shared, spec, shapes.params)
        widths = block.channels(spec)
        own = [slicing.fit_channels(x, c) for x, c in zip(inputs, widths, strict=True)]
        stats = None if stats is None else slicing.cut(stats, shapes.moments)
        y, moments = self.run(spec, weights, stats, key, own)
        moments, inside = taps.split(moments)
        # A spec without any norm has statistics too, all zero, where the union has some.
        moments = {} if stats is not None else slicing.fill(moments, self.union.moments)
        return y, {**moments, taps.BESIDE: inside} if inside else moments

    def tap_shapes(self, which: int, inputs: Sequence[jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Shapes of the wanted taps that one of the block's specs has; inputs may be wider."""
        block, spec = self.block, self.block.specs[which]
        own = [
            jax.ShapeDtypeStruct((*x.shape[:-1], c), x.dtype)
            for x, c in zip(inputs, block.channels(spec), strict=True)
        ]
        params = elastic_block.shapes(block, spec, self.alike[1]).params
        run = functools.partial(self.run, spec)
        return taps.split(jax.eval_shape(lambda p, x: run(p, None, None, x)[1], params, own))[1]

    def run(
        self, spec: Spec, weights: Tree, stats: Tree | None, key: Any, inputs: Any, **given: Tree
    ) -> tuple[Array, Tree]:
        """A module of the block, and its statistics of the batch."""
        variables = {"params": jax.tree.map(lambda w: w.astype(self.alike[2]), weights), **given}
        if stats is not None:
            variables["stats"] = stats
        rngs = None if key is None else {"dropout": key}
        module = self.block.module(spec)
        names = self.alike[3]
        mutable = ["moments", taps.COLLECTION] if names else ["moments"]
        y, made = cast(tuple, module.apply(variables, *inputs, rngs=rngs, mutable=mutable))
        inside = taps.found(made.get(taps.COLLECTION, {}), names)
        return cast(Array, y), {**made.get("moments", {}), **inside}


@functools.partial(jax.jit, static_argnames=("kind", "which"))
def _at(
    shared: Tree, stats: Tree | None, key: Array | None, inputs: Any, *, kind: Kind, which: int
) -> tuple[Array, Tree]:
    return kind.at(which, shared, stats, key, inputs)


@functools.partial(jax.jit, static_argnames=("kind", "soft"))
def _masked(
    shared: Tree,
    stats: Tree | None,
    key: Array | None,
    chosen: Array,
    likely: Array,
    inputs: Any,
    *,
    kind: Kind,
    soft: bool,
) -> tuple[Array, Tree]:
    block = kind.block
    weights = masks.masked_weights(block, shared, kind.alike[1], chosen, likely, soft)
    options = [block.gates(spec) for spec in block.specs]
    gates = {k: np.asarray([o[k] for o in options], np.float32) @ likely for k in options[0]}
    given = {"gates": gates} if gates else {}
    if kind.union.alive:
        given["alive"] = masks.masked_alive(block, kind.alike[1], chosen, soft)
    return kind.run(block.union, weights, stats, key, inputs, **given)


@functools.partial(jax.jit, static_argnames=("make", "spec", "inputs"))
def init_module(
    key: Array,
    *,
    make: Callable[[Spec], nn.Module],
    spec: Spec,
    inputs: tuple[jax.ShapeDtypeStruct, ...],
) -> Tree:
    """A module's first parameters; jitted by itself so that like blocks are traced once."""
    zeros = [jnp.zeros(x.shape, x.dtype) for x in inputs]
    return make(spec).init(key, *zeros).get("params", {})
