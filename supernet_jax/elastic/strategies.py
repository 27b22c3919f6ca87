"""The three ways to run a subnet of a space: sliced, masked and switched.

A space's topology is a plain function `forward(run, x)` in which `run(name, *inputs)` executes one
block under the current strategy. All strategies have one signature and one meaning; they differ in
what may be traced and in what is paid:

- `sliced`: the arch is concrete; each block is built at its own size.
- `masked`: the arch may be traced, or a relaxed code; the largest block runs on masked weights.
- `switched`: the arch may be traced; `lax.switch` runs the block of its own size.

Statistics go in and come out at the union's shapes, zero where a subnet is not.

Shape letters: `B` images, `R` resolution, `C` channels, `K` classes, `N` rows of a parameter bank.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from supernet_jax.elastic import choices, elastic_block, shared_params
from supernet_jax.elastic.block_call import Call, Static
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import ElasticBlock, Spec, Tree
from supernet_jax.elastic.space import Run, Space, Topology, geometry, group
from supernet_jax.nn import resize

LOOP = 3  # so many blocks that are alike run in a loop; for fewer it costs more than it saves


class Reuse(NamedTuple):
    """What a subnet may take over from the one before it, on the same images.

    Attributes:
        fresh: by block, bool `[]`, whether it has to run. A block may be taken over if it, its
            statistics and all that ran before it are the same in both subnets.
        memory: by block, its output and its moments in the subnet before.
    """

    fresh: dict[str, Array]
    memory: dict[str, tuple[Array, Tree]]


class Output(NamedTuple):
    """What running a subnet gives.

    Attributes:
        logits: float32 `[B, K]`.
        moments: per block, the statistics of this batch (mean, unbiased variance) of every
            normalisation, at the union's shapes; empty trees where `stats` were given.
        features: outputs of the blocks that were asked for.
        memory: what the next subnet may take over; empty without `reuse`.
    """

    logits: Array
    moments: Tree
    features: dict[str, Array]
    memory: dict[str, tuple[Array, Tree]]


class Strategy(Protocol):
    """The signature that `sliced`, `masked` and `switched` share."""

    def __call__(
        self,
        space: Space,
        params: Tree,
        arch: Arch,
        images: Array,
        *,
        resolution: int,
        stats: Tree | None = None,
        dropout_key: Array | None = None,
        features: tuple[str, ...] = (),
        dtype: jnp.dtype = jnp.float32,
        remat: bool = False,
        reuse: Reuse | None = None,
    ) -> Output:
        """Runs the subnet `arch` of `space` on `images`.

        Args:
            space: the space.
            params: shared parameters, as `init` makes them.
            arch: which subnet (no batch axes; use `vmap` or `lax.map`).
            images: float `[B, H, W, C]`, any size; resized to `resolution`.
            resolution: static; for a concrete arch its own, for a traced one the caller's.
            stats: calibrated statistics at the union's shapes, as `moments` comes out; None uses
                those of the batch.
            dropout_key: turns dropout and drop-connect on.
            features: names of the blocks whose outputs are wanted.
            dtype: of weights and activations; statistics and logits stay float32.
            remat: whether a gradient keeps only what goes from block to block, and computes their
                insides again; `switched` always does.
            reuse: what may be taken over from the subnet before; without dropout only.
        """
        ...


def chain(names: tuple[str, ...]) -> Topology:
    """The default topology: one block after another.

    Under `switched`, neighbours that are alike run in a loop, which compiles faster.
    """

    def forward(run: Run, x: Array) -> Array:
        if isinstance(run, _Pass):
            return run.sequence(names, x)
        return functools.reduce(lambda value, name: run(name, value), names, x)

    return forward


def sliced(space: Space, params: Tree, arch: Arch, images: Array, **how: Any) -> Output:
    """Runs a concrete arch at its own size; see `Strategy`."""
    for leaf in jax.tree.leaves(arch):
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(
                "sliced needs a concrete arch, got a traced one; pass NumPy integers from outside "
                "jit, or use switched or masked"
            )

    def run(call: Call, *inputs: Array) -> tuple[Array, Tree]:
        spec = call.block.spec(arch)
        if spec is None:
            return inputs[0], call.no_moments()
        return call.at(spec, *inputs)

    return _forward(space, run, params, arch, images, **how)


def masked(space: Space, params: Tree, arch: Arch | Code, images: Array, **how: Any) -> Output:
    """Runs a traced arch or a relaxed code at the largest size; see `Strategy`."""
    # In a gradient the conditional spares nothing: what the backward pass keeps is written for
    # skipped blocks too.
    conditional = how.get("reuse") is not None and not choices.is_code(arch)

    def compute(call: Call, *inputs: Array) -> tuple[Array, Tree]:
        return call.masked(arch, *inputs)

    def run(call: Call, *inputs: Array) -> tuple[Array, Tree]:
        keep = call.keep
        if keep is None:
            return compute(call, *inputs)
        if conditional:
            return lax.cond(keep, compute, Call.skip, call, *inputs)
        y, moments = compute(call, *inputs)
        if choices.is_code(arch):
            g = keep.astype(y.dtype)
            return g * y + (1 - g) * inputs[0], moments
        zero = jax.tree.map(lambda m: jnp.where(keep, m, 0.0), moments)
        return jnp.where(keep, y, inputs[0]), zero

    return _forward(space, run, params, arch, images, **how)


def switched(space: Space, params: Tree, arch: Arch, images: Array, **how: Any) -> Output:
    """Runs a traced arch, each block at its own size under `lax.switch`; see `Strategy`."""

    def run(call: Call, *inputs: Array) -> tuple[Array, Tree]:
        block = call.block

        def branch(spec: Spec) -> Callable[..., tuple[Array, Tree]]:
            def compute(operands: Call, *inputs: Array) -> tuple[Array, Tree]:
                y, moments = operands.at(spec, *inputs)
                return resize.pad_channels(y, call.out_channels), moments

            # Without checkpoint a differentiated switch keeps the residuals of every branch.
            return jax.checkpoint(compute)

        branches = [branch(spec) for spec in block.specs]
        assert call.which is not None  # with `loops`
        which = call.which
        if call.keep is not None:
            branches = [Call.skip, *branches]
            which = jnp.where(call.keep, which + 1, 0)
        if len(branches) == 1:
            return branches[0](call, *inputs)
        return lax.switch(which, branches, call, *inputs)

    how = {**how, "remat": False, "loops": True}  # its branches are rematerialised already
    return _forward(space, run, params, arch, images, **how)


def _forward(
    space: Space,
    strategy: Callable[..., tuple[Array, Tree]],
    params: Tree,
    arch: Arch | Code,
    images: Array,
    *,
    resolution: int,
    stats: Tree | None = None,
    dropout_key: Array | None = None,
    features: tuple[str, ...] = (),
    dtype: Any = jnp.float32,
    remat: bool = False,
    reuse: Reuse | None = None,
    loops: bool = False,
) -> Output:
    params = shared_params.bank_row(space, params, arch)
    strategy = jax.checkpoint(strategy) if remat else strategy
    run = _Pass(
        space, strategy, params, arch, resolution, stats, dropout_key, features, dtype, reuse, loops
    )
    x = resize.resize_bicubic(images.astype(jnp.float32), resolution).astype(dtype)
    logits = space.forward(run, x).astype(jnp.float32)
    return Output(logits, run.moments, run.kept, run.memory)


_Before = tuple[Array, tuple[Array, Tree]]  # of one block: whether it has to run, and its memory


@dataclasses.dataclass
class _Pass:
    """One pass of a subnet: the `run` that its topology is given."""

    space: Space
    strategy: Callable[..., tuple[Array, Tree]]
    params: Tree
    arch: Arch | Code
    resolution: int
    stats: Tree | None
    key: Array | None
    features: tuple[str, ...]
    dtype: Any
    reuse: Reuse | None
    loops: bool  # whether blocks that are alike may run in a loop
    moments: Tree = dataclasses.field(default_factory=dict)
    kept: dict[str, Array] = dataclasses.field(default_factory=dict)
    memory: dict[str, tuple[Array, Tree]] = dataclasses.field(default_factory=dict)

    def __call__(self, name: str, *inputs: Array) -> Array:
        y, moments = self._run(self._call(name), self._before(name), *inputs)
        self._note(name, y, moments)
        return y

    def _run(self, call: Call, before: _Before | None, *inputs: Array) -> tuple[Array, Tree]:
        """Runs a block, or takes over what it gave before."""
        if before is None:
            return self.strategy(call, *inputs)
        fresh, memory = before
        run = lambda memory, call, *inputs: self.strategy(call, *inputs)  # noqa: E731
        return lax.cond(fresh, run, lambda memory, *_: memory, memory, call, *inputs)

    def _before(self, name: str) -> _Before | None:
        return None if self.reuse is None else (self.reuse.fresh[name], self.reuse.memory[name])

    def _note(self, name: str, y: Array, moments: Tree) -> None:
        self.moments[name] = moments
        if name in self.features:
            self.kept[name] = y
        if self.reuse is not None:
            self.memory[name] = (y, moments)

    def sequence(self, names: tuple[str, ...], x: Array) -> Array:
        """One block after another; the compiler sees those that are alike once, in a loop."""
        for _, neighbours in itertools.groupby(names, self._kind):
            alike = tuple(neighbours)
            if len(alike) >= LOOP:
                x = self._loop(alike, x)
            else:
                for name in alike:
                    x = self(name, x)
        return x

    def _loop(self, names: tuple[str, ...], x: Array) -> Array:
        calls = [self._call(name) for name in names]
        if any(call.keep is not None for call in calls):
            keeps = [jnp.ones((), bool) if c.keep is None else c.keep for c in calls]
            calls = [dataclasses.replace(c, keep=k) for c, k in zip(calls, keeps, strict=True)]
        arrays = [
            ((call.shared, call.stats, call.key, call.keep, call.which), self._before(name))
            for name, call in zip(names, calls, strict=True)
        ]

        def body(x: Array, arrays: Any) -> tuple[Array, tuple[Array | None, Tree]]:
            (shared, stats, key, keep, which), before = arrays
            own = {"shared": shared, "stats": stats, "key": key, "keep": keep, "which": which}
            call = dataclasses.replace(calls[0], **own)
            y, moments = self._run(call, before, x)
            return y, (None if before is None else y, moments)

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
        x, results = lax.scan(body, x, stacked)
        for i, name in enumerate(names):
            self._note(name, *jax.tree.map(lambda r, i=i: r[i], results))
        return x

    def _kind(self, name: str) -> Any:
        """What blocks must share to be alike; a block by itself has its own name."""
        shape = geometry(self.space, self.resolution)[name]
        repeats = len(shape.inputs) == 1 and shape.inputs[0] == shape.shapes.output.shape
        if not (self.loops and repeats) or name in self.features:
            return name
        return shape.inputs, elastic_block.kind(self.space.blocks[name], self.key is not None)

    def _call(self, name: str) -> Call:
        block = self.space.blocks[name]
        shape = geometry(self.space, self.resolution)[name]
        return Call(
            shared=self.params[group(self.space, name)],
            stats=None if self.stats is None else self.stats[name],
            key=None if self.key is None else shared_params.named_key(self.key, name),
            keep=_keep(block, self.arch),
            which=jnp.asarray(block.index(self.arch)) if self.loops else None,
            block=block,
            inputs=shape.inputs,
            union=Static(shape.shapes),
            dtype=self.dtype,
        )


def _keep(block: ElasticBlock, arch: Arch | Code) -> Array | None:
    if block.alive is None:
        return None
    if choices.is_code(arch):
        return block.alive.probabilities(arch, 2)[1]
    return jnp.asarray(block.alive(arch) > 0)
