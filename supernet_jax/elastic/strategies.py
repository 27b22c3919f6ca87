"""The three ways to run a subnet of a space: sliced, masked and switched.

A space's topology is a plain function `forward(run, x)` in which `run(name, *inputs)` executes one
block under the current strategy; a block that the subnet skips gives its first input, or `value` of
`run(name, *inputs, otherwise=value)`. All strategies have one signature and one meaning; they
differ in what may be traced and in what is paid:

- `sliced`: the arch is concrete; each block is built at its own size.
- `masked`: the arch may be traced, or a relaxed code; the largest block runs on masked weights.
- `switched`: the arch may be traced; `lax.switch` runs the block of its own size.

Statistics go in and come out at the union's shapes, zero where a subnet is not.

Shape letters: `B` examples, `K` numbers that a network puts out, `N` rows of a parameter bank.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from supernet_jax.elastic import banks, choices, elastic_block, shared_params, taps
from supernet_jax.elastic.block_call import Call, Static
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Spec, Tree
from supernet_jax.elastic.space import Run, Space, Topology, geometry, group, has_rows
from supernet_jax.nn import resize
from supernet_jax.runtime import sharding
from supernet_jax.tasks import task
from supernet_jax.tasks.task import Size

LOOP = 3  # so many blocks that are alike run in a loop; for fewer it costs more than it saves


class Reuse(NamedTuple):
    """What a subnet may take over from the one before it, on the same inputs.

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
        logits: what the network puts out, float32 `[B, ..., K]`.
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
        inputs: Tree,
        *,
        size: Size,
        stats: Tree | None = None,
        dropout_key: Array | None = None,
        features: tuple[str, ...] = (),
        dtype: jnp.dtype = jnp.float32,
        remat: bool = False,
        reuse: Reuse | None = None,
        where: Tree | None = None,
    ) -> Output:
        """Runs the subnet `arch` of `space` on `inputs`.

        Args:
            space: the space.
            params: shared parameters, as `init` makes them.
            arch: which subnet (no batch axes; use `vmap` or `lax.map`).
            inputs: what the space's task takes, `[B, ...]`, of any size.
            size: to which the task brings them; static: for a concrete arch its own, for a traced
                one the caller's.
            stats: calibrated statistics at the union's shapes, as `moments` comes out; None uses
                those of the batch.
            dropout_key: turns dropout and drop-connect on.
            features: names of the blocks whose outputs are wanted, and of taps (BLOCK/NAME). A
                tap of a block that the arch skips is left out where the arch is concrete, and
                zeros where it is traced.
            dtype: of weights and activations; statistics and logits are float32 at least.
            remat: whether a gradient keeps only what goes from block to block, and computes their
                insides again; `switched` always does.
            reuse: what may be taken over from the subnet before; without dropout and taps only.
            where: shardings of parameters that are split over devices, whose gradients come back
                split: each block's are gathered where it runs. None for whole ones.
        """
        ...


def chain(names: tuple[str, ...]) -> Topology:
    """The simplest topology: the blocks of these names, one after another.

    Under `switched`, neighbours that are alike run in a loop, which compiles faster.
    """

    def forward(run: Run, x: Array) -> Array:
        if isinstance(run, _Walk) and run.loops:
            return _in_loops(run, names, x)
        return functools.reduce(lambda value, name: run(name, value), names, x)

    return forward


def sliced(space: Space, params: Tree, arch: Arch, inputs: Tree, **how: Any) -> Output:
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
            instead = inputs[0] if call.otherwise is None else call.otherwise
            return instead, call.no_moments()
        return call.at(spec, *inputs)

    return walked(space, run, params, arch, inputs, How(**how))


def masked(space: Space, params: Tree, arch: Arch | Code, inputs: Tree, **how: Any) -> Output:
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
        (y, moments), (skipped, _) = compute(call, *inputs), call.skip(*inputs)
        if choices.is_code(arch):
            g = keep.astype(y.dtype)
            own, inside = taps.split(taps.scaled(moments, g))
            own = jax.tree.map(lambda m: jnp.where(keep > 0, m, 0.0), own)
            return g * y + (1 - g) * skipped, {**own, taps.BESIDE: inside} if inside else own
        zero = jax.tree.map(lambda m: jnp.where(keep, m, 0.0), moments)
        return jnp.where(keep, y, skipped), zero

    return walked(space, run, params, arch, inputs, How(**how))


def switched(space: Space, params: Tree, arch: Arch, inputs: Tree, **how: Any) -> Output:
    """Runs a traced arch, each block at its own size under `lax.switch`; see `Strategy`."""

    def run(call: Call, *inputs: Array) -> tuple[Array, Tree]:
        block = call.block
        wide: Any = {}  # shapes of the largest block's taps
        if call.taps:
            largest = jax.eval_shape(lambda c, *x: c.masked(arch, *x)[1], call, *inputs)
            wide = taps.split(largest)[1]

        def skip(operands: Call, *inputs: Array) -> tuple[Array, Tree]:
            y, moments = operands.skip(*inputs)
            return y, taps.padded(moments, wide)

        def branch(spec: Spec) -> Callable[..., tuple[Array, Tree]]:
            def compute(operands: Call, *inputs: Array) -> tuple[Array, Tree]:
                y, moments = operands.at(spec, *inputs)
                return resize.pad_channels(y, call.out_channels), taps.padded(moments, wide)

            # Without checkpoint a differentiated switch keeps the residuals of every branch.
            return jax.checkpoint(compute)

        branches = [branch(spec) for spec in block.specs]
        assert call.which is not None  # with `loops`
        which = call.which
        if call.keep is not None:
            branches = [skip, *branches]
            which = jnp.where(call.keep, which + 1, 0)
        if len(branches) == 1:
            return branches[0](call, *inputs)
        return lax.switch(which, branches, call, *inputs)

    how["remat"] = False  # its branches are rematerialised already
    return walked(space, run, params, arch, inputs, How(**how), loops=True)


@dataclasses.dataclass(frozen=True)
class How:
    """How a subnet runs: the keyword arguments of a `Strategy`."""

    size: Size
    stats: Tree | None = None
    dropout_key: Array | None = None
    features: tuple[str, ...] = ()
    dtype: Any = jnp.float32
    remat: bool = False
    reuse: Reuse | None = None
    where: Tree | None = None


_RunBlock = Callable[..., tuple[Array, Tree]]  # `(call, *inputs) -> (output, moments)`
_Before = tuple[Array, tuple[Array, Tree]]  # of one block: whether it has to run, and its memory


def walked(
    space: Space,
    run_block: _RunBlock,
    params: Tree,
    arch: Arch | Code,
    inputs: Tree,
    how: How,
    *,
    loops: bool = False,
) -> Output:
    """Walks a subnet from its inputs to what it puts out, block by block."""
    taps.check(space, how.features)
    if how.reuse is not None and any("/" in feature for feature in how.features):
        raise TypeError("taps are not taken over; leave out reuse, or the features BLOCK/NAME")
    run = run_block
    if how.where is None:
        params = banks.used_by(space, params, arch)
    else:

        def run(call: Call, *inputs: Array) -> tuple[Array, Tree]:
            assert call.where is not None
            shared = sharding.gathered(call.shared, call.where.get())
            if call.has_rows and space.bank is not None:
                shared = banks.row_of(space.bank, shared, arch)
            return run_block(dataclasses.replace(call, shared=shared), *inputs)

    walk = _Walk(space, jax.checkpoint(run) if how.remat else run, params, arch, how, loops)
    x = task.ready(space.task, inputs, how.size, how.dtype)
    y = space.forward(walk, x)
    logits = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    moments, features = {}, {n: y for n, (y, _) in walk.found.items() if n in how.features}
    for name, (_, beside) in walk.found.items():
        moments[name], inside = taps.split(beside)
        features |= {f"{name}/{tap}": value for tap, value in inside.items()}
    return Output(
        logits,
        moments=moments,
        features=features,
        memory={} if how.reuse is None else walk.found,
    )


@dataclasses.dataclass
class _Walk:
    """The `run` that the topology of a space is given: it runs one block after the other.

    Attributes:
        space: the space.
        run_block: how the strategy runs a block.
        params: shared parameters: of the arch's row of the bank, or split over devices.
        arch: which subnet.
        how: how it runs.
        loops: whether blocks that are alike may run in a loop.
        found: by block that ran, its output and its moments; of one that ran in a loop the output
            only where it may be taken over.
    """

    space: Space
    run_block: _RunBlock
    params: Tree
    arch: Arch | Code
    how: How
    loops: bool
    found: dict[str, tuple[Any, Tree]] = dataclasses.field(default_factory=dict)

    def __call__(self, name: str, *inputs: Array, otherwise: Array | None = None) -> Array:
        call = dataclasses.replace(self.call(name), otherwise=otherwise)
        self.found[name] = self.run_or_reuse(call, self.before(name), *inputs)
        return self.found[name][0]

    def call(self, name: str) -> Call:
        """A block about to run."""
        how = self.how
        shape = geometry(self.space, how.size)[name]
        block = shape.block
        key, keep = how.dropout_key, None
        if key is not None:
            key = shared_params.named_key(key, name)
        if block.alive is not None and choices.is_code(self.arch):
            keep = block.alive.probabilities(self.arch, 2)[1]
        elif block.alive is not None:
            keep = jnp.asarray(block.alive(self.arch) > 0)
        return Call(
            shared=self.params[group(self.space, name)],
            stats=None if how.stats is None else how.stats[name],
            key=key,
            keep=keep,
            which=jnp.asarray(block.index(self.arch)) if self.loops else None,
            block=block,
            inputs=shape.inputs,
            union=Static(shape.shapes),
            dtype=how.dtype,
            where=None if how.where is None else Static(how.where[group(self.space, name)]),
            has_rows=how.where is not None and has_rows(self.space, group(self.space, name)),
            taps=taps.wanted(how.features, name),
        )

    def before(self, name: str) -> _Before | None:
        """What the subnet before makes of a block that may be taken over."""
        reuse = self.how.reuse
        return None if reuse is None else (reuse.fresh[name], reuse.memory[name])

    def run_or_reuse(
        self, call: Call, before: _Before | None, *inputs: Array
    ) -> tuple[Array, Tree]:
        """Output and moments of a block that runs, or what it gave before."""
        if before is None:
            return self.run_block(call, *inputs)
        fresh, memory = before
        run = lambda memory, call, *inputs: self.run_block(call, *inputs)  # noqa: E731
        return lax.cond(fresh, run, lambda memory, *_: memory, memory, call, *inputs)


def _in_loops(walk: _Walk, names: tuple[str, ...], x: Array) -> Array:
    """One block after another; the compiler sees those that are alike once, in a loop."""

    def kind(name: str) -> Any:
        """What blocks must share to be alike; a block by itself has its own name."""
        shape = geometry(walk.space, walk.how.size)[name]
        repeats = len(shape.inputs) == 1 and shape.inputs[0] == shape.shapes.output
        if not repeats or name in {f.partition("/")[0] for f in walk.how.features}:
            return name
        rates = walk.how.dropout_key is not None
        return shape.inputs, elastic_block.kind(shape.block, rates)

    for _, neighbours in itertools.groupby(names, kind):
        alike = tuple(neighbours)
        if len(alike) >= LOOP:
            x = _loop(walk, alike, x)
        else:
            x = functools.reduce(lambda value, name: walk(name, value), alike, x)
    return x


def _loop(walk: _Walk, names: tuple[str, ...], x: Array) -> Array:
    calls = [walk.call(name) for name in names]
    first, skips = calls[0], any(call.keep is not None for call in calls)

    def alike(call: Call) -> Call:
        """The call with what is static of the first; they differ in their arrays alone."""
        keep = jnp.ones((), bool) if skips and call.keep is None else call.keep
        static = {"block": first.block, "union": first.union, "where": first.where}
        return dataclasses.replace(call, keep=keep, **static)

    def body(x: Array, one: tuple[Call, _Before | None]) -> tuple[Array, Any]:
        call, before = one
        y, moments = walk.run_or_reuse(call, before, x)
        return y, (None if before is None else y, moments)

    each = [(alike(call), walk.before(name)) for name, call in zip(names, calls, strict=True)]
    x, results = lax.scan(body, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
    for i, name in enumerate(names):
        walk.found[name] = jax.tree.map(lambda r, i=i: r[i], results)
    return x
