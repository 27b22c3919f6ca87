"""The compiled programs that calibrate and score many subnets at once.

Subnets go through in a loop, not by vmap: under vmap a switch would compute every branch. The loop
ends at a traced count, so that a chunk that is not full costs only what is in it. Batches are the
outer loop, since a subnet takes over what the one before it made of the same inputs.

Shape letters: `G` groups of devices, `n` archs of a group, `S` statistics of an arch, `A`
calibration batches, `E` evaluation batches, `B` examples of a batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax.elastic import shared_params, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.shared_params import zero_stats
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Reuse
from supernet_jax.runtime import owned, sharding
from supernet_jax.tasks.task import Scores, Size

WHOLE, ARCHS = PartitionSpec(), PartitionSpec("candidates")
EXAMPLES = PartitionSpec(None, sharding.EXAMPLES)
Prepare = Callable[[Tree], Tree]  # inputs as the data has them -> those of the task


@dataclasses.dataclass(frozen=True)
class How:
    """How subnets are evaluated. Those that differ in `chunk` and `reuse` alone are equal, and
    share what is compiled.

    Attributes:
        space: the space.
        prepare: makes the task's inputs of what the data has.
        strategy: how subnets run; it must take traced archs.
        dtype: of weights and activations; statistics are float32.
        chunk: archs per call of a program and group of devices. No result depends on it.
        reuse: whether a subnet takes over what it shares with the one before it. No result depends
            on it.
    """

    space: Space
    prepare: Prepare
    strategy: Any = strategies.switched  # a `Strategy`: functions hash, which a Protocol hides
    dtype: Any = jnp.float32
    chunk: int = dataclasses.field(default=16, compare=False)
    reuse: bool = dataclasses.field(default=True, compare=False)


class Program(NamedTuple):
    """What a program is compiled for.

    Attributes:
        how: how subnets are evaluated.
        size: of the inputs.
        mesh: candidates x data x model, None for one device.
        splits: how each leaf of the parameters is split over the devices of a group; nothing where
            each has all of them. Those of a block are gathered where it runs.
    """

    how: How
    size: Size
    mesh: Mesh | None
    splits: tuple[PartitionSpec, ...] = ()


@owned.by(lambda program: program.how.space)
def calibrator(program: Program) -> Callable[..., Array]:
    """`(params, archs [G*n], counts [G], reuse, calibration) -> stats [G*n, S]`.

    Of the archs of a group the first `counts` are calibrated; the rows of the others are zero.
    """

    def calibrate(
        params: Tree, archs: Arch, counts: Array, reuse: Array, calibration: Tree
    ) -> Array:
        fresh = _fresh(program, archs, {}, reuse)

        def add_batch(a: Array, carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
            inputs = prepared(program, _at(calibration, a))

            def add(i: Array, carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
                total, memory = carry
                again = Reuse(_at(fresh, i), memory)
                output = _run(program, params, _at(archs, i), inputs, reuse=again)
                return total.at[i].add(ravel_pytree(output.moments)[0]), output.memory

            return jax.lax.fori_loop(0, counts[0], add, carry)

        statistics = ravel_pytree(zero_stats(program.how.space))[0].size
        total = jnp.zeros((len(jax.tree.leaves(archs)[0]), statistics))
        batches, examples = jax.tree.leaves(calibration)[0].shape[:2]
        memory = _empty_memory(program, examples, moments=True)
        total, _ = jax.lax.fori_loop(0, batches, add_batch, (total, memory))
        return total / batches

    return _mapped(calibrate, program, (ARCHS, ARCHS, WHOLE, EXAMPLES))


@owned.by(lambda program: program.how.space)
def scorer(program: Program) -> Callable[..., Scores]:
    """`(params, archs [G*n], counts [G], reuse, stats [G*n, S], data, batches [2])`.

    `data` are inputs, targets and which examples are real, of `EvaluationData`. Returns what the
    task measures of the first `counts` archs of each group, `[G*n, E, B, ...]`, in the batches from
    the first to before the second of `batches`; the rest is zero.
    """

    def score(
        params: Tree,
        archs: Arch,
        counts: Array,
        reuse: Array,
        stats: Array,
        data: tuple[Tree, Tree, Array],
        batches: Array,
    ) -> Scores:
        inputs, targets, real = data
        trees = jax.vmap(ravel_pytree(zero_stats(program.how.space))[1])(stats)
        fresh = _fresh(program, archs, trees, reuse)

        def score_batch(e: Array, carry: tuple[Scores, Tree]) -> tuple[Scores, Tree]:
            ready, own, there = prepared(program, _at(inputs, e)), _at(targets, e), real[e]

            def score_one(i: Array, carry: tuple[Scores, Tree]) -> tuple[Scores, Tree]:
                scores, memory = carry
                how = {"stats": _at(trees, i), "reuse": Reuse(_at(fresh, i), memory)}
                output = _run(program, params, _at(archs, i), ready, **how)
                found = scores_of(program, output.logits, own, there)
                scores = jax.tree.map(lambda all, own: all.at[i, e].set(own), scores, found)
                return scores, output.memory

            return jax.lax.fori_loop(0, counts[0], score_one, carry)

        nothing = jax.tree.map(
            lambda s: jnp.zeros((len(stats), len(real), *s.shape), s.dtype),
            score_shapes(program, _at(targets, 0), real[0]),
        )
        memory = _empty_memory(program, real.shape[1], moments=False)
        return jax.lax.fori_loop(batches[0], batches[1], score_batch, (nothing, memory))[0]

    return _mapped(score, program, (ARCHS, ARCHS, WHOLE, ARCHS, EXAMPLES, WHOLE))


def _mapped(run: Callable[..., Any], program: Program, places: tuple[PartitionSpec, ...]) -> Any:
    """Compiled: archs split over groups of devices by hand, inputs within a group by the compiler.

    Args:
        run: of the archs of one group; what it returns has them first.
        program: for which mesh, and parameters split how.
        places: where each argument after the parameters lives.
    """
    mesh = program.mesh
    if mesh is None:
        return jax.jit(run)
    grouped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(WHOLE, *(ARCHS if place == ARCHS else WHOLE for place in places)),
        out_specs=ARCHS,
        axis_names={"candidates"},
        check_vma=False,
    )
    params = _where(program) if program.splits else NamedSharding(mesh, WHOLE)
    given = params, *(NamedSharding(mesh, place) for place in places)
    return jax.jit(grouped, in_shardings=given, out_shardings=NamedSharding(mesh, ARCHS))


def _fresh(program: Program, archs: Arch, stats: Tree, reuse: Array) -> dict[str, Array]:
    """Whether each arch has to run a block, or may take it over from the arch before: bool `[n]`.

    Args:
        program: of which space.
        archs: `[n]`.
        stats: those of each block, `[n, ...]`, or nothing where they are the batch's.
        reuse: bool; False makes everything fresh.
    """
    identity = jnp.asarray(elastic_space.identity(program.how.space, program.size, archs))
    changed = [identity[1:, i] != identity[:-1, i] for i in range(identity.shape[1])]
    names = list(elastic_space.geometry(program.how.space, program.size))
    for i, name in enumerate(names, start=1):
        for leaf in jax.tree.leaves(stats.get(name, {})):
            # Equal archs may have been calibrated elsewhere, and not be equal to the last bit.
            changed[i] |= jnp.any(leaf[1:] != leaf[:-1], axis=tuple(range(1, leaf.ndim)))
    since = jnp.cumsum(jnp.stack(changed, axis=1), axis=1) > 0
    first = jnp.ones((1, since.shape[1]), bool)
    fresh = jnp.concatenate([first, since]) | ~jnp.asarray(reuse)
    return {name: fresh[:, i] for i, name in enumerate(names, start=1)}


def _run(
    program: Program, params: Tree, arch: Arch, inputs: Tree, **given: Any
) -> strategies.Output:
    how: dict[str, Any] = {"size": program.size, "dtype": program.how.dtype}
    if program.splits:
        how["where"] = _where(program)
    return program.how.strategy(program.how.space, params, arch, inputs, **how, **given)


def _where(program: Program) -> Tree:
    """The shardings of parameters that are split."""
    assert program.mesh is not None
    structure = jax.tree.structure(shared_params.parameter_shapes(program.how.space))
    places = [NamedSharding(program.mesh, spec) for spec in program.splits]
    return jax.tree.unflatten(structure, places)


def prepared(program: Program, inputs: Tree) -> Tree:
    """One batch, as the data has it, as the network takes it."""
    how = program.how
    return how.space.task.fit(how.prepare(inputs), program.size)


def scores_of(program: Program, outputs: Array, targets: Tree, real: Array) -> Scores:
    """What the task measures of a batch, `[B, ...]`; 0 of examples that are not real."""
    return {
        name: jnp.where(real.reshape(-1, *(1,) * (score.ndim - 1)), score, jnp.zeros_like(score))
        for name, score in program.how.space.task.score(outputs, targets).items()
    }


def score_shapes(program: Program, targets: Tree, real: Array) -> Any:
    """Shapes of what `scores_of` gives; nothing is computed."""
    put_out = elastic_space.output_shape(program.how.space, program.size)
    outputs = jax.ShapeDtypeStruct((len(real), *put_out.shape[1:]), jnp.float32)
    return jax.eval_shape(functools.partial(scores_of, program), outputs, targets, real)


def _empty_memory(program: Program, examples: int, *, moments: bool) -> Tree:
    memory = shared_params.empty_memory(
        program.how.space, program.size, examples, dtype=program.how.dtype, moments=moments
    )
    if program.mesh is None:
        return memory
    split = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec(sharding.EXAMPLES))
    return {
        name: (jax.lax.with_sharding_constraint(output, split), stats)
        for name, (output, stats) in memory.items()
    }


def _at(tree: Any, i: Array | int) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], tree)
