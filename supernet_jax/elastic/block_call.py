"""One block of a subnet about to run: at its own size, masked at the largest, or not at all."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import elastic_block, masks, slicing
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import ElasticBlock, Spec, Tree


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
    every arch has it. `which` of its specs the arch picks, where the strategy switches.
    """

    shared: Tree
    stats: Tree | None
    key: Array | None
    keep: Array | None
    which: Array | None
    block: ElasticBlock = dataclasses.field(metadata={"static": True})
    inputs: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    union: Any = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})

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
        """What a block that is not there gives."""
        return inputs[0], self.no_moments()

    def at(self, spec: Spec, *inputs: Array) -> tuple[Array, Tree]:
        """The block at its own size; inputs and statistics may be wider than it."""
        shapes = elastic_block.shapes(self.block, spec, self.inputs)
        weights = slicing.weights(self.block, self.shared, spec, shapes.params)
        channels = self.block.channels(spec)
        own = [slicing.cut_channels(x, c) for x, c in zip(inputs, channels, strict=True)]
        stats = None if self.stats is None else slicing.cut(self.stats, shapes.moments)
        y, moments = self._apply(spec, weights, stats, {}, own)
        # A spec without any norm has statistics too, all zero, where the union has some.
        return y, {} if stats is not None else slicing.fill(moments, self.union.get().moments)

    def masked(self, arch: Arch | Code, *inputs: Array) -> tuple[Array, Tree]:
        """The largest block on masked weights."""
        block = self.block
        weights = masks.masked_weights(block, self.shared, arch, self.inputs)
        chosen = block.index.probabilities(arch, len(block.specs))
        options = [block.gates(spec) for spec in block.specs]
        gates = {k: np.asarray([o[k] for o in options], np.float32) @ chosen for k in options[0]}
        return self._apply(block.union, weights, self.stats, gates, inputs)

    def _apply(
        self, spec: Spec, weights: Tree, stats: Tree | None, gates: Any, inputs: Any
    ) -> tuple[Array, Tree]:
        variables: dict[str, Any] = {
            "params": jax.tree.map(lambda w: w.astype(self.dtype), weights)
        }
        if gates:
            variables["gates"] = gates
        if stats is not None:
            variables["stats"] = stats
        return _run(variables, self.key, tuple(inputs), make=self.block.module, spec=spec)


@functools.partial(jax.jit, static_argnames=("make", "spec"))
def _run(
    variables: dict[str, Tree],
    key: Array | None,
    inputs: tuple[Array, ...],
    *,
    make: Callable[[Spec], nn.Module],
    spec: Spec,
) -> tuple[Array, Tree]:
    """Runs a module. Jitted by itself so that blocks that are alike are traced once.

    So are their derivatives, which cost more; the compiler puts it all in one program again.
    """
    rngs = None if key is None else {"dropout": key}
    y, updated = make(spec).apply(variables, *inputs, rngs=rngs, mutable=["moments"])
    return cast(Array, y), cast(dict, updated).get("moments", {})


@functools.partial(jax.jit, static_argnames=("make", "spec", "inputs"))
def init_module(
    key: Array,
    *,
    make: Callable[[Spec], nn.Module],
    spec: Spec,
    inputs: tuple[tuple[int, ...], ...],
) -> Tree:
    """A module's first parameters; jitted by itself so that like blocks are traced once."""
    return make(spec).init(key, *map(jnp.zeros, inputs)).get("params", {})
