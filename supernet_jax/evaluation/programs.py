"""The compiled programs that calibrate and score many subnets at once."""

import functools
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
from supernet_jax.runtime.program_cache import Kept, identity

WHOLE, ARCHS, IMAGES = PartitionSpec(), PartitionSpec("candidates"), PartitionSpec(None, "data")
Prepare = Callable[[Array], Array]  # uint8 images -> the network's float input


class Scores(NamedTuple):
    """What was measured of each arch, image by image.

    Attributes:
        right: bool `[N, E, B]`, classified correctly; False where not scored or filled up.
        loss: float32 `[N, E, B]`, cross-entropy in nats; 0 where not scored or filled up.
    """

    right: Array | np.ndarray
    loss: Array | np.ndarray


class Program(NamedTuple):
    """What a program is compiled for.

    Attributes:
        space, prepare, strategy, dtype: as in `How`.
        resolution: of the input.
        mesh: candidates x data, None for one device.
    """

    space: Space
    prepare: Prepare
    strategy: Any
    dtype: Any
    resolution: int
    mesh: Mesh | None


@functools.cache
def calibrator(program: Program) -> Kept:
    """`(params, archs [G*n], counts [G], reuse, calibration) -> stats [G*n, S]`.

    Of the archs of a group the first `counts` are calibrated; the rows of the others are zero.
    """

    def calibrate(
        params: Tree, archs: Arch, counts: Array, reuse: Array, calibration: Array
    ) -> Array:
        fresh = _fresh(program, archs, {}, reuse)

        def one(
            _: Array, i: Array, images: Array, total: Array, memory: Tree
        ) -> tuple[Array, Tree]:
            again = Reuse(_at(fresh, i), memory)
            output = _run(program, params, _at(archs, i), images, reuse=again)
            return total.at[i].add(ravel_pytree(output.moments)[0]), output.memory

        total = _each(
            (0, len(calibration)),
            counts[0],
            load=lambda a: _prepared(program, calibration[a]),
            one=one,
            results=jnp.zeros((len(jax.tree.leaves(archs)[0]), _size(program.space))),
            memory=_empty_memory(program, calibration.shape[1], moments=True),
        )
        return total / len(calibration)

    return _mapped(calibrate, program, (WHOLE, ARCHS, ARCHS, WHOLE, IMAGES))


@functools.cache
def scorer(program: Program) -> Kept:
    """`(params, archs [G*n], counts [G], reuse, stats [G*n, S], images, labels, batches [2])`.

    Returns `Scores` of the first `counts` archs of each group, in the batches from the first to
    before the second of `batches`; the rest is False and zero.
    """

    def score(
        params: Tree,
        archs: Arch,
        counts: Array,
        reuse: Array,
        stats: Array,
        images: Array,
        labels: Array,
        batches: Array,
    ) -> Scores:
        trees = jax.vmap(ravel_pytree(zero_stats(program.space))[1])(stats)
        fresh = _fresh(program, archs, trees, reuse)

        def one(
            e: Array, i: Array, batch: tuple[Array, Array], scores: Scores, memory: Tree
        ) -> tuple[Scores, Tree]:
            images, labels = batch
            again = Reuse(_at(fresh, i), memory)
            arch, own = _at(archs, i), _at(trees, i)
            output = _run(program, params, arch, images, stats=own, reuse=again)
            found = _score(output.logits, labels)
            put = lambda all, own: all.at[i, e].set(own)  # noqa: E731
            return jax.tree.map(put, scores, found), output.memory

        n = len(stats)
        return _each(
            (batches[0], batches[1]),
            counts[0],
            load=lambda e: (_prepared(program, images[e]), labels[e]),
            one=one,
            results=Scores(jnp.zeros((n, *labels.shape), bool), jnp.zeros((n, *labels.shape))),
            memory=_empty_memory(program, labels.shape[1], moments=False),
        )

    places = (WHOLE, ARCHS, ARCHS, WHOLE, ARCHS, IMAGES, IMAGES, WHOLE)
    return _mapped(score, program, places)


def _mapped(run: Callable[..., Any], program: Program, places: tuple[PartitionSpec, ...]) -> Kept:
    """Compiled: archs split over groups of devices by hand, images within a group by the compiler.

    Args:
        run: of the archs of one group; what it returns has them first.
        program: what it is made of.
        places: where each argument lives.
    """
    mesh, made_of = program.mesh, identity(run.__name__, program)
    if mesh is None:
        return Kept(jax.jit(run), made_of)
    grouped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=tuple(ARCHS if place == ARCHS else WHOLE for place in places),
        out_specs=ARCHS,
        axis_names={"candidates"},
        check_vma=False,
    )
    given = tuple(NamedSharding(mesh, place) for place in places)
    split = jax.jit(grouped, in_shardings=given, out_shardings=NamedSharding(mesh, ARCHS))
    return Kept(split, made_of)


def _each(
    batches: tuple[Array | int, Array | int],
    count: Array,
    *,
    load: Callable[[Array], Any],
    one: Callable[..., tuple[Any, Tree]],
    results: Any,
    memory: Tree,
) -> Any:
    """`results, memory = one(e, i, load(e), results, memory)` for every batch e and arch i.

    Loops, not vmap: under vmap a switch would compute every branch. Up to a traced count, so that a
    chunk that is not full costs only what is in it. Batches outside, since a subnet takes over what
    the one before it made of the same images.
    """

    def batch(e: Array, carry: tuple[Any, Tree]) -> tuple[Any, Tree]:
        loaded = load(e)
        return jax.lax.fori_loop(0, count, lambda i, carry: one(e, i, loaded, *carry), carry)

    return jax.lax.fori_loop(*batches, batch, (results, memory))[0]


def _fresh(program: Program, archs: Arch, stats: Tree, reuse: Array) -> dict[str, Array]:
    """Whether each arch has to run a block, or may take it over from the arch before: bool `[n]`.

    Args:
        program: of which space.
        archs: `[n]`.
        stats: those of each block, `[n, ...]`, or nothing where they are the batch's.
        reuse: bool; False makes everything fresh.
    """
    identity = jnp.asarray(elastic_space.identity(program.space, program.resolution, archs))
    changed = [identity[1:, i] != identity[:-1, i] for i in range(identity.shape[1])]
    names = list(elastic_space.geometry(program.space, program.resolution))
    for i, name in enumerate(names, start=1):
        for leaf in jax.tree.leaves(stats.get(name, {})):
            # Equal archs may have been calibrated elsewhere, and not be equal to the last bit.
            changed[i] |= jnp.any(leaf[1:] != leaf[:-1], axis=tuple(range(1, leaf.ndim)))
    since = jnp.cumsum(jnp.stack(changed, axis=1), axis=1) > 0
    first = jnp.ones((1, since.shape[1]), bool)
    fresh = jnp.concatenate([first, since]) | ~jnp.asarray(reuse)
    return {name: fresh[:, i] for i, name in enumerate(names, start=1)}


def _run(
    program: Program, params: Tree, arch: Arch, images: Array, **given: Any
) -> strategies.Output:
    how = {"resolution": program.resolution, "dtype": program.dtype}
    return program.strategy(program.space, params, arch, images, **how, **given)


def _prepared(program: Program, images: Array) -> Array:
    """One batch as the network takes it."""
    ready = program.prepare(images).astype(jnp.float32)
    return resize.resize_bicubic(ready, program.resolution)


def _empty_memory(program: Program, images: int, *, moments: bool) -> Tree:
    memory = shared_params.empty_memory(
        program.space, program.resolution, images, dtype=program.dtype, moments=moments
    )
    if program.mesh is None:
        return memory
    split = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec("data"))
    return {
        name: (jax.lax.with_sharding_constraint(output, split), stats)
        for name, (output, stats) in memory.items()
    }


def _size(space: Space) -> int:
    return ravel_pytree(zero_stats(space))[0].size


def _at(tree: Any, i: Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], tree)


def _score(logits: Array, labels: Array) -> Scores:
    """Which images of a batch are right, and their losses; label -1 does not count."""
    real = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    # Of logits that are not numbers the first would be the largest.
    right = real & (jnp.argmax(logits, -1) == labels) & jnp.isfinite(losses)
    return Scores(right, jnp.where(real, losses, 0.0))
