"""The compiled programs that calibrate and score many subnets at once.

Subnets go through in a loop, not by vmap: under vmap a switch would compute every branch. The loop
ends at a traced count, so that a chunk that is not full costs only what is in it. Batches are the
outer loop, since a subnet takes over what the one before it made of the same inputs.

Shape letters: `G` groups of devices, `n` archs of a group, `S` statistics of an arch, `A`
calibration batches, `E` evaluation batches, `B` inputs of a batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax.elastic import shared_params, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.shared_params import zero_stats
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Reuse
from supernet_jax.nn import resize
from supernet_jax.runtime import owned, sharding

WHOLE, ARCHS = PartitionSpec(), PartitionSpec("candidates")
IMAGES = PartitionSpec(None, sharding.IMAGES)
Prepare = Callable[[Array], Array]  # uint8 inputs -> the network's float input


@dataclasses.dataclass(frozen=True)
class How:
    """How subnets are evaluated. Those that differ in `chunk` and `reuse` alone are equal, and
    share what is compiled.

    Attributes:
        space: the space.
        prepare: makes the network's input of uint8 inputs.
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
        size: of the input.
        mesh: candidates x data x model, None for one device.
        splits: how each leaf of the parameters is split over the devices of a group; nothing where
            each has all of them. Those of a block are gathered where it runs.
    """

    how: How
    size: int
    mesh: Mesh | None
    splits: tuple[PartitionSpec, ...] = ()


class Scores(NamedTuple):
    """What was measured of each arch, example by example.

    Attributes:
        right: bool `[N, E, B]`, classified correctly; False where not scored or filled up.
        loss: float32 `[N, E, B]`, cross-entropy in nats; 0 where not scored or filled up.
    """

    right: Array | np.ndarray
    loss: Array | np.ndarray


@owned.by(lambda program: program.how.space)
def calibrator(program: Program) -> Callable[..., Array]:
    """`(params, archs [G*n], counts [G], reuse, calibration) -> stats [G*n, S]`.

    Of the archs of a group the first `counts` are calibrated; the rows of the others are zero.
    """

    def calibrate(
        params: Tree, archs: Arch, counts: Array, reuse: Array, calibration: Array
    ) -> Array:
        fresh = _fresh(program, archs, {}, reuse)

        def add_batch(a: Array, carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
            inputs = prepared(program, calibration[a])

            def add(i: Array, carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
                total, memory = carry
                again = Reuse(_at(fresh, i), memory)
                output = _run(program, params, _at(archs, i), inputs, reuse=again)
                return total.at[i].add(ravel_pytree(output.moments)[0]), output.memory

            return jax.lax.fori_loop(0, counts[0], add, carry)

        statistics = ravel_pytree(zero_stats(program.how.space))[0].size
        total = jnp.zeros((len(jax.tree.leaves(archs)[0]), statistics))
        memory = _empty_memory(program, calibration.shape[1], moments=True)
        total, _ = jax.lax.fori_loop(0, len(calibration), add_batch, (total, memory))
        return total / len(calibration)

    return _mapped(calibrate, program, (ARCHS, ARCHS, WHOLE, IMAGES))


@owned.by(lambda program: program.how.space)
def scorer(program: Program) -> Callable[..., Scores]:
    """`(params, archs [G*n], counts [G], reuse, stats [G*n, S], inputs, targets, batches [2])`.

    Returns `Scores` of the first `counts` archs of each group, in the batches from the first to
    before the second of `batches`; the rest is False and zero.
    """

    def score(
        params: Tree,
        archs: Arch,
        counts: Array,
        reuse: Array,
        stats: Array,
        inputs: Array,
        targets: Array,
        batches: Array,
    ) -> Scores:
        trees = jax.vmap(ravel_pytree(zero_stats(program.how.space))[1])(stats)
        fresh = _fresh(program, archs, trees, reuse)

        def score_batch(e: Array, carry: tuple[Scores, Tree]) -> tuple[Scores, Tree]:
            ready, own_labels = prepared(program, inputs[e]), targets[e]

            def score_one(i: Array, carry: tuple[Scores, Tree]) -> tuple[Scores, Tree]:
                scores, memory = carry
                how = {"stats": _at(trees, i), "reuse": Reuse(_at(fresh, i), memory)}
                output = _run(program, params, _at(archs, i), ready, **how)
                found = scores_of(output.logits, own_labels)
                scores = jax.tree.map(lambda all, own: all.at[i, e].set(own), scores, found)
                return scores, output.memory

            return jax.lax.fori_loop(0, counts[0], score_one, carry)

        shape = (len(stats), *targets.shape)
        nothing = Scores(jnp.zeros(shape, bool), jnp.zeros(shape))
        memory = _empty_memory(program, targets.shape[1], moments=False)
        return jax.lax.fori_loop(batches[0], batches[1], score_batch, (nothing, memory))[0]

    return _mapped(score, program, (ARCHS, ARCHS, WHOLE, ARCHS, IMAGES, IMAGES, WHOLE))


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
    program: Program, params: Tree, arch: Arch, inputs: Array, **given: Any
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


def prepared(program: Program, inputs: Array) -> Array:
    """One batch as the network takes it."""
    ready = program.how.prepare(inputs).astype(jnp.float32)
    return resize.resize_bicubic(ready, program.size)


def _empty_memory(program: Program, inputs: int, *, moments: bool) -> Tree:
    memory = shared_params.empty_memory(
        program.how.space, program.size, inputs, dtype=program.how.dtype, moments=moments
    )
    if program.mesh is None:
        return memory
    split = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec(sharding.IMAGES))
    return {
        name: (jax.lax.with_sharding_constraint(output, split), stats)
        for name, (output, stats) in memory.items()
    }


def _at(tree: Any, i: Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], tree)


def scores_of(logits: Array, targets: Array) -> Scores:
    """Which inputs of a batch are right, and their losses; target -1 does not count."""
    real = targets >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
    # Of logits that are not numbers the first would be the largest.
    right = real & (jnp.argmax(logits, -1) == targets) & jnp.isfinite(losses)
    return Scores(right, jnp.where(real, losses, 0.0))
