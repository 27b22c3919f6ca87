"""Calibration and evaluation of many subnets by two compiled programs.

No accuracy is reported without BatchNorm statistics of the subnet itself: the means, over a few
batches of training images, of the batch mean and of the unbiased batch variance. All batches run
through the network as it trains, each normalised by its own statistics.

`evaluate` does both jobs of a subnet, one after the other. `calibrated` and `scored` do one each,
so that a subnet can be calibrated once and scored on more and more batches. All three run the same
two programs per resolution, and so find the same to the bit.

Shape letters: `N` archs, `S` statistics of an arch, `A` calibration batches, `E` evaluation
batches, `B` images of a batch.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree

from supernet_jax import choices
from supernet_jax.choices import Arch, Array
from supernet_jax.elastic import Tree
from supernet_jax.network import Space, Strategy, switched, zero_stats

Prepare = Callable[[Array], Array]  # uint8 images -> the network's float input


class EvaluationData(NamedTuple):
    """What candidates are calibrated and evaluated on.

    Attributes:
        calibration: uint8 `[A, B, H, W, C]`, training images.
        images: uint8 `[E, B, H, W, C]`.
        labels: int32 `[E, B]`, -1 where a batch was filled up.
    """

    calibration: Array | np.ndarray
    images: Array | np.ndarray
    labels: Array | np.ndarray


class Result(NamedTuple):
    """What was measured of each arch.

    Attributes:
        correct: int32 `[N]`, images classified correctly.
        loss: float32 `[N]`, mean cross-entropy in nats.
        total: number of images.
    """

    correct: np.ndarray
    loss: np.ndarray
    total: int

    @property
    def accuracy(self) -> np.ndarray:
        """Share of images classified correctly, float64 `[N]` in [0, 1]."""
        return self.correct / self.total


class Scores(NamedTuple):
    """What was measured of each arch, image by image.

    Attributes:
        right: bool `[N, E, B]`, classified correctly; False where not scored or filled up.
        loss: float32 `[N, E]`, summed cross-entropy of each batch in nats; 0 where not scored.
    """

    right: Array | np.ndarray
    loss: Array | np.ndarray


def calibrate(
    space: Space,
    params: Tree,
    arch: Arch,
    calibration: Array,
    *,
    resolution: int,
    strategy: Strategy = switched,
    prepare: Prepare,
    dtype: Any = jnp.float32,
) -> Tree:
    """Calibrated statistics of one subnet at the union's shapes; works inside jit.

    Args:
        space: the space.
        params: shared parameters.
        arch: no batch axes; traced or concrete, as the strategy takes it.
        calibration: uint8 `[A, B, H, W, C]`.
        resolution: static.
        strategy: how the subnet runs.
        prepare: makes the network's input of uint8 images.
        dtype: of weights and activations; statistics are float32.
    """

    def add(total: Tree, images: Array) -> tuple[Tree, None]:
        output = strategy(space, params, arch, prepare(images), resolution=resolution, dtype=dtype)
        return jax.tree.map(jnp.add, total, output.moments), None

    total, _ = jax.lax.scan(add, zero_stats(space), calibration)
    return jax.tree.map(lambda t: t / calibration.shape[0], total)


def evaluate(
    space: Space,
    params: Tree,
    archs: Arch,
    data: EvaluationData,
    *,
    prepare: Prepare,
    strategy: Strategy = switched,
    chunk: int = 16,
    dtype: Any = jnp.float32,
) -> Iterator[tuple[np.ndarray, Result]]:
    """Calibrates and evaluates archs, two programs per resolution however many they are.

    Archs are grouped by resolution and go through in chunks of one fixed size, the last one filled
    up, so that nothing is compiled twice.

    Args:
        space: the space.
        params: shared parameters.
        archs: `[N]`.
        data: what they are calibrated and evaluated on.
        prepare: makes the network's input of uint8 images.
        strategy: how subnets run; it must take traced archs.
        chunk: archs per call of a program, hence per result.
        dtype: of weights and activations.

    Yields:
        Positions in `archs` (int `[n]`, n <= chunk), and the result of those.
    """
    total = int(np.sum(np.asarray(data.labels) >= 0))
    batches = np.array([0, len(data.labels)], np.int32)
    for resolution, where, rows in _chunks(space, archs, chunk):
        how = How(space, strategy, prepare, resolution, dtype)
        count = np.int32(len(where))
        stats = calibrator(how)(params, rows, data.calibration, count)
        scores = scorer(how)(params, rows, stats, data.images, data.labels, batches, count)
        yield where, _result(_fetch(scores, len(where)), total)


def calibrated(
    space: Space,
    params: Tree,
    archs: Arch,
    data: EvaluationData,
    *,
    prepare: Prepare,
    strategy: Strategy = switched,
    chunk: int = 16,
    dtype: Any = jnp.float32,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first half of `evaluate`, with the same arguments.

    Yields:
        Positions in `archs` (int `[n]`, n <= chunk), and the calibrated statistics of those on the
        host, float32 `[n, S]`, for `scored`.
    """
    for resolution, where, rows in _chunks(space, archs, chunk):
        how = How(space, strategy, prepare, resolution, dtype)
        count = np.int32(len(where))
        yield where, _fetch(calibrator(how)(params, rows, data.calibration, count), len(where))


def scored(
    space: Space,
    params: Tree,
    archs: Arch,
    stats: np.ndarray,
    data: EvaluationData,
    *,
    batches: tuple[int, int],
    prepare: Prepare,
    strategy: Strategy = switched,
    chunk: int = 16,
    dtype: Any = jnp.float32,
) -> Iterator[tuple[np.ndarray, Scores]]:
    """The second half of `evaluate`, on some of the batches, with the same other arguments.

    Args:
        space: the space.
        params: shared parameters.
        archs: `[N]`.
        stats: `[N, S]`, what `calibrated` gave for them.
        data: whose images are classified.
        batches: the first, and the one after the last; any range runs through the same program.
        prepare: makes the network's input of uint8 images.
        strategy: how subnets run; it must take traced archs.
        chunk: archs per call of the program, hence per result.
        dtype: of weights and activations.

    Yields:
        Positions in `archs` (int `[n]`, n <= chunk), and the scores of those in these batches, on
        the host.
    """
    for resolution, where, rows in _chunks(space, archs, chunk):
        how = How(space, strategy, prepare, resolution, dtype)
        some = jnp.asarray(stats[np.resize(where, chunk)])
        count = np.int32(len(where))
        scores = scorer(how)(
            params, rows, some, data.images, data.labels, np.array(batches, np.int32), count
        )
        yield where, _fetch(scores, len(where))


class How(NamedTuple):
    """What a program is compiled for."""

    space: Space
    strategy: Any  # a function, hence hashable, which a Protocol does not say
    prepare: Prepare
    resolution: int
    dtype: Any


def _chunks(space: Space, archs: Arch, chunk: int) -> Iterator[tuple[int, np.ndarray, Arch]]:
    """Resolution, positions in `archs`, and those archs filled up to `chunk`."""
    packed = np.asarray(choices.pack(archs))
    resolutions = np.asarray(choices.get(archs, space.resolution))
    for index in np.unique(resolutions):
        group = np.flatnonzero(resolutions == index)
        for start in range(0, len(group), chunk):
            where = group[start : start + chunk]
            filled = packed[np.resize(where, chunk)]
            rows = jax.tree.map(jnp.asarray, choices.unpack(space.menu, filled))
            yield space.resolutions[index], where, rows


def _fetch(results: Any, count: int) -> Any:
    """The first `count` of each array, whole and on the host of every process."""

    def one(x: Array) -> np.ndarray:
        whole = x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(whole)[:count]

    return jax.tree.map(one, results)


def _result(scores: Scores, total: int) -> Result:
    right, loss = np.asarray(scores.right), np.asarray(scores.loss)
    correct = right.sum((1, 2), dtype=np.int32)
    return Result(correct, loss.sum(1, dtype=np.float32) / np.float32(total), total)


@functools.cache
def calibrator(how: How) -> Callable[..., Array]:
    """`(params, archs [n], calibration, count) -> stats [n, S]` of the first `count`."""

    @jax.jit
    def many(params: Tree, archs: Arch, calibration: Array, count: Array) -> Array:
        def one(arch: Arch) -> Array:
            stats = calibrate(
                how.space,
                params,
                arch,
                jnp.asarray(calibration),
                resolution=how.resolution,
                strategy=how.strategy,
                prepare=how.prepare,
                dtype=how.dtype,
            )
            return ravel_pytree(stats)[0]

        n = len(jax.tree.leaves(archs)[0])
        size = ravel_pytree(zero_stats(how.space))[0].size
        return _each(lambda i: one(_at(archs, i)), count, jnp.zeros((n, size)))

    return many


@functools.cache
def scorer(how: How) -> Callable[..., Scores]:
    """`(params, archs [n], stats [n, S], images, labels, batches [2], count) -> scores`."""

    @jax.jit
    def many(
        params: Tree,
        archs: Arch,
        stats: Array,
        images: Array,
        labels: Array,
        batches: Array,
        count: Array,
    ) -> Scores:
        unravel = ravel_pytree(zero_stats(how.space))[1]
        zero = Scores(jnp.zeros(labels.shape, bool), jnp.zeros(labels.shape[0]))

        def one(i: Array) -> Scores:
            def add(e: Array, scores: Scores) -> Scores:
                logits = how.strategy(
                    how.space,
                    params,
                    _at(archs, i),
                    how.prepare(_at(images, e)),
                    resolution=how.resolution,
                    stats=unravel(stats[i]),
                    dtype=how.dtype,
                ).logits
                return _put(scores, e, _score(logits, _at(labels, e)))

            return jax.lax.fori_loop(batches[0], batches[1], add, zero)

        n = len(jax.tree.leaves(archs)[0])
        return _each(one, count, jax.tree.map(lambda z: jnp.zeros((n, *z.shape), z.dtype), zero))

    return many


def _each(one: Callable[[Array], Any], count: Array, zeros: Any) -> Any:
    """`one(i)` at place i of `zeros`, for i below `count`.

    A loop, not vmap: under vmap a switch would compute every branch. Up to a traced count, so that
    a chunk that is not full costs only what is in it.
    """
    return jax.lax.fori_loop(0, count, lambda i, results: _put(results, i, one(i)), zeros)


def _at(tree: Any, i: Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], tree)


def _put(tree: Any, i: Array, values: Any) -> Any:
    return jax.tree.map(lambda leaf, value: leaf.at[i].set(value), tree, values)


def _score(logits: Array, labels: Array) -> Scores:
    """Which images of a batch are right, and their summed loss; label -1 does not count."""
    real = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    right = real & (jnp.argmax(logits, -1) == labels)
    return Scores(right, jnp.sum(jnp.where(real, losses, 0.0)))
