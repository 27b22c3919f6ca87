"""The strategy for archs that the host knows: each block is a compiled program of its own.

A program is one of a *kind* of block: blocks that are alike share it, and so do members of a step,
candidates and runs. Each subnet pays its own cost, nothing is masked, and programs are small. The
host walks an arch's operations forwards, and for a gradient backwards; it cannot be traced.

Shape letters: `B` examples, `K` numbers that a network puts out.
"""

import collections
import dataclasses
import functools
import threading
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, shared_params, strategies, taps, wiring
from supernet_jax.elastic.block_call import Kind
from supernet_jax.elastic.block_programs import Places, Program, Request, Results
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space, geometry, group, has_rows
from supernet_jax.elastic.strategies import How, Output, Strategy
from supernet_jax.elastic.wiring import Aval, Operation, Wiring
from supernet_jax.runtime import compile_ahead, owned, sharding
from supernet_jax.tasks import task
from supernet_jax.tasks.task import Size, Task

KEPT = 256  # plans of archs that came last; of random ones few come again
Leaves = Mapping[str, list[Array]]  # by group, the parameters as a flat list


@dataclasses.dataclass(frozen=True)
class Mode:
    """What is run and what is wanted of it.

    Attributes:
        size: of the inputs, and of the arch.
        examples: B.
        gradient: whether there will be a backward pass.
        dropout: whether a key is given.
        stats: whether statistics are given; otherwise they are those of the batch.
        moments: whether the statistics of the batch are wanted.
        features: that are wanted; programs differ by the taps among them alone.
    """

    size: Size
    examples: int
    gradient: bool = True
    dropout: bool = False
    stats: bool = False
    moments: bool = False
    features: tuple[str, ...] = ()


def blockwise(space: Space, params: Tree, arch: Arch, inputs: Tree, **given: Any) -> Output:
    """Runs a concrete arch, block by block; see `strategies.Strategy`. It cannot be traced.

    For gradients see `Blockwise`; this makes one for each dtype and keeps it with the space.

    Raises:
        TypeError: the arch or an array is traced, something was to be taken over (`reuse`), or
            parameters are split (`where`; a `Blockwise` takes them).
    """
    how = How(**given)
    traced = [x for x in jax.tree.leaves((arch, inputs, params)) if isinstance(x, jax.core.Tracer)]
    if traced or how.reuse is not None or how.where is not None:
        raise TypeError(
            "blockwise needs concrete archs and whole arrays, outside jit, and takes nothing over; "
            "use sliced or masked inside"
        )
    mode = Mode(
        how.size,
        len(jax.tree.leaves(inputs)[0]),
        gradient=False,
        dropout=how.dropout_key is not None,
        stats=how.stats is not None,
        moments=how.stats is None,
        features=how.features,
    )
    run = kept(space, how.dtype)
    passed = run.forward(
        run.plan(jax.tree.map(np.asarray, arch), mode),
        run.leaves(params),
        prepare(inputs, space.task, how.size, how.dtype),
        key=how.dropout_key,
        stats=how.stats,
    )
    about = geometry(space, how.size)
    moments: Tree = {name: {} for name in about}
    if mode.moments:
        moments = {
            name: passed.moments.get(name, jax.tree.map(_zeros, shapes.shapes.moments))
            for name, shapes in about.items()
        }
    return Output(passed.logits.astype(jnp.float32), moments, passed.features, {})


def traceable(strategy: Strategy) -> Strategy:
    """A strategy that takes traced archs: itself, or `masked` in the place of `blockwise`."""
    return strategies.masked if strategy is blockwise else strategy


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def prepare(inputs: Tree, what: Task, size: Size, dtype: Any) -> Tree:
    """`task.ready` as a program of its own."""
    return task.ready(what, inputs, size, dtype)


@owned.by(owned.first)
def kept(space: Space, dtype: Any) -> "Blockwise":
    """What runs a space's subnets on one device without gradients; its programs lie with the space.

    Args:
        space: the space.
        dtype: of weights and activations.
    """
    return Blockwise(space, dtype=dtype)


def _zeros(shape: Aval) -> Array:
    return jnp.zeros(shape.shape, shape.dtype)


class Plan(NamedTuple):
    """An arch as programs: one for each operation of its wiring."""

    arch: Arch
    mode: Mode
    wiring: Wiring
    requests: tuple[Request, ...]


class Ran(NamedTuple):
    """An operation that ran, and what its backward pass needs."""

    operation: Operation
    program: Program
    weights: list[Array]
    given: list[Array]
    inputs: list[Array]
    kept: list[Array]


class Forward(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: `[B, ..., K]`, of the dtype of activations.
        features: by name, those that the arch has.
        moments: by block, statistics of the batch, where they were wanted.
        plan: that ran.
        ran: operations, in their order; empty without a gradient.
    """

    logits: Array
    features: dict[str, Array]
    moments: dict[str, Tree]
    plan: Plan
    ran: list[Ran]


class Blockwise:
    """Runs subnets of a space block by block; it keeps the programs.

    Args:
        space: the space.
        dtype: of weights and activations.
        remat: whether gradients compute the insides of blocks again, which takes less memory.
        mesh: over which examples are split, None for one device.
        where: shardings of the shared parameters on it, and so of their gradients.
    """

    def __init__(
        self,
        space: Space,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        mesh: jax.sharding.Mesh | None = None,
        where: Tree | None = None,
    ) -> None:
        self.space, self.dtype, self.remat = space, dtype, remat
        self.programs = compile_ahead.Programs()
        is_default = mesh is not None and list(mesh.devices.flat) == jax.local_devices()[:1]
        self._mesh = None if is_default else mesh  # nothing has to be said of the default device
        self._where = where
        shapes = shared_params.parameter_shapes(space)
        self._params = {name: jax.tree.flatten(tree) for name, tree in shapes.items()}
        self._plans: collections.OrderedDict[Any, Plan] = collections.OrderedDict()
        self._lock = threading.Lock()

    def leaves(self, tree: Tree) -> dict[str, list[Array]]:
        """Parameters, or what has their tree, as a flat list for each group."""
        return {name: jax.tree.leaves(tree[name]) for name in self._params}

    def tree(self, leaves: Leaves) -> Tree:
        """Inverse of `leaves`."""
        return {
            name: jax.tree.unflatten(structure, leaves[name])
            for name, (_, structure) in self._params.items()
        }

    def plan(self, arch: Arch, mode: Mode) -> Plan:
        """The programs of a concrete arch without batch axes; nothing is compiled."""
        key = mode, np.asarray(choices.pack(arch)).tobytes(), _precision()
        with self._lock:
            plan = self._plans.pop(key, None) or self._planned(arch, mode)
            self._plans[key] = plan
            if len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        return plan

    def ahead(self, plans: Iterable[Plan]) -> None:
        """Lets threads compile what plans need, in their order."""
        requests = dict.fromkeys(request for plan in plans for request in plan.requests)
        self.programs.ahead((request, request.compiled) for request in requests)

    def held_bytes(self) -> int:
        """Most that a gradient of the plans so far holds on a device, beside parameters and sums:
        what forward passes keep for backward passes, and what the hungriest program needs.
        """
        with self._lock:
            plans = [plan for plan in self._plans.values() if plan.mode.gradient]
        each = [[self.programs.get(r, r.compiled) for r in plan.requests] for plan in plans]
        return max(
            sum(program.kept_bytes for program in programs)
            + max(program.temporary_bytes for program in programs)
            for programs in each
        )

    def forward(
        self,
        plan: Plan,
        params: Leaves,
        examples: Tree,
        *,
        key: Array | None = None,
        stats: Tree | None = None,
    ) -> Forward:
        """Runs a plan.

        Args:
            plan: what runs.
            params: shared parameters, of `leaves`.
            examples: the network's inputs `[B, ...]`, of `prepare`.
            key: of dropout, where the plan has it.
            stats: by block, where the plan has them.
        """
        wires = plan.wiring
        values: dict[int, Array] = dict(enumerate(jax.tree.leaves(examples)))
        last = {i: place for place, op in enumerate(wires.operations) for i in op.inputs}
        features = {n: wires.features[n] for n in plan.mode.features if n in wires.features}
        wanted = {wires.logits, *features.values()}
        ran, moments = [], {}
        for place, (operation, request) in enumerate(
            zip(wires.operations, plan.requests, strict=True)
        ):
            weights, given, name = [], [], operation.block
            if name is not None:
                weights = params[group(self.space, name)]
                given = self.row(plan.arch, name)
                given += [] if key is None else [key, np.uint32(zlib.crc32(name.encode()))]
                given += [] if stats is None else jax.tree.leaves(stats[name])
            inputs = [values[i] for i in operation.inputs]
            program = self.programs.get(request, request.compiled)
            results, kept = program.forward(weights, given, inputs)
            values.update(zip(operation.outputs, results.outputs, strict=True))
            if name is not None and plan.mode.moments:
                moments[name] = results.moments
            if plan.mode.gradient:
                ran.append(Ran(operation, program, weights, given, inputs, kept))
            for i in set(operation.inputs):
                if last[i] == place and i not in wanted:
                    del values[i]
        found = {name: values[place] for name, place in features.items()}
        return Forward(values[wires.logits], found, moments, plan, ran)

    def backward(
        self, passed: Forward, of_logits: Array, of_features: Mapping[str, Array], sums: Leaves
    ) -> dict[str, list[Array]]:
        """Adds the gradients of all parameters to sums; see `forward`.

        Args:
            passed: the forward pass, which can be used once.
            of_logits: gradient of what is minimised, by the logits.
            of_features: the same by features.
            sums: of `leaves`, donated.

        Returns:
            The new sums.
        """
        wires, sums = passed.plan.wiring, dict(sums)
        gradients = {wires.logits: of_logits}
        for name, gradient in of_features.items():
            _add(gradients, wires.features[name], gradient)
        while passed.ran:
            operation, program, weights, given, inputs, kept = passed.ran.pop()
            if not any(i in gradients for i in operation.outputs):
                continue
            of_outputs = [
                gradients.pop(i) if i in gradients else _zeros(wires.values[i])
                for i in operation.outputs
            ]
            owner = None if operation.block is None else group(self.space, operation.block)
            own = [] if owner is None else sums[owner]
            assert program.backward is not None
            own, of_inputs = program.backward(weights, given, inputs, kept, of_outputs, own)
            if owner is not None:
                sums[owner] = own
            learned = [i for i in operation.inputs if wires.learned[i]]
            for i, gradient in zip(learned, of_inputs, strict=True):
                _add(gradients, i, gradient)
        return sums

    def row(self, arch: Arch, name: str) -> list[Any]:
        """Which row an arch uses of a block's parameters; nothing where they have none."""
        bank = self.space.bank
        if bank is None or not bank.has(group(self.space, name)):
            return []
        return [np.int32(bank.row(arch))]

    def _planned(self, arch: Arch, mode: Mode) -> Plan:
        taps.check(self.space, mode.features)
        how = {"size": mode.size, "examples": mode.examples, "dtype": self.dtype}
        wires = wiring.wired(self.space, arch, **how, features=mode.features)
        requests = [self._request(operation, wires, mode) for operation in wires.operations]
        return Plan(arch, mode, wires, tuple(requests))

    def _request(self, operation: Operation, wires: Wiring, mode: Mode) -> Request:
        inputs = tuple(wires.values[i] for i in operation.inputs)
        learned = tuple(wires.learned[i] for i in operation.inputs)
        precision = _precision()
        outputs, name = len(operation.outputs), operation.block
        common: dict[str, Any] = {
            "inputs": inputs,
            "learned": learned,
            "outputs": outputs,
            "gradient": mode.gradient,
            "remat": self.remat,
        }
        between = operation.between
        if between is not None:

            def glue(_: list[Array], __: list[Array], values: list[Array]) -> Results:
                with jax.default_matmul_precision(precision):
                    return Results(between(*values), {})

            return Request((between, precision), places=self._places(None), function=glue, **common)
        assert name is not None
        about = geometry(self.space, mode.size)[name]
        sizes = about.inputs, about.shapes, self.dtype
        wanted = taps.wanted(mode.features, name)
        kind = Kind.of(about.block, *sizes, rates=mode.dropout, taps=wanted)
        leaves, structure = self._params[group(self.space, name)]
        rows = has_rows(self.space, group(self.space, name))
        given: list[Any] = [jax.ShapeDtypeStruct((), np.int32)] if rows else []
        if mode.dropout:
            given += [jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), np.uint32)]
        shapes_of_stats, tree_of_stats = jax.tree.flatten(about.shapes.moments)
        given += shapes_of_stats if mode.stats else []
        where = None if self._where is None else self._where[group(self.space, name)]

        def run(weights: list[Array], rest: list[Array], inputs: list[Array]) -> Results:
            left = iter(rest)
            shared = sharding.gathered(jax.tree.unflatten(structure, weights), where)
            if rows:
                row = next(left)
                shared = jax.tree.map(lambda p: p[row], shared)
            key = jax.random.fold_in(next(left), next(left)) if mode.dropout else None
            stats = jax.tree.unflatten(tree_of_stats, list(left)) if mode.stats else None
            with jax.default_matmul_precision(precision):
                y, moments = kind.at(operation.spec, shared, stats, key, inputs)
            moments, inside = taps.split(moments)
            return Results([y, *inside.values()], moments if mode.moments else {})

        key = (kind, operation.spec, precision, rows, mode.dropout, mode.stats, mode.moments)
        return Request(
            key,
            places=self._places(group(self.space, name)),
            function=run,
            weights=leaves,
            given=given,
            **common,
        )

    def _places(self, owner: str | None) -> Places | None:
        if self._mesh is None:
            return None
        whole = sharding.replicated(self._mesh)
        weights = [] if owner is None else self._params[owner][0]
        where = [whole] * len(weights)
        if owner is not None and self._where is not None:
            where = jax.tree.leaves(self._where[owner])
        return Places(sharding.over_data(self._mesh), whole, tuple(where))


def _precision() -> Any:
    """Of products, as the thread that asks wants it; those that compile ahead do not know."""
    config: Any = jax.config
    return config.jax_default_matmul_precision


def _add(gradients: dict[int, Array], place: int, gradient: Array) -> None:
    gradients[place] = gradient if place not in gradients else gradients[place] + gradient
