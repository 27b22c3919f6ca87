"""Calibration and evaluation of many subnets by one compiled program.

No accuracy is reported without BatchNorm statistics of the subnet itself: the means, over a few
batches of training images, of the batch mean and of the unbiased batch variance. All batches run
through the network as it trains, each normalised by its own statistics.

Shape letters: `N` archs, `A` calibration batches, `E` evaluation batches, `B` images of a batch.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    """Calibrates and evaluates archs, one program per resolution however many they are.

    Archs are grouped by resolution and go through in chunks of one fixed size, the last one filled
    up, so that nothing is compiled twice.

    Args:
        space: the space.
        params: shared parameters.
        archs: `[N]`.
        data: what they are calibrated and evaluated on.
        prepare: makes the network's input of uint8 images.
        strategy: how subnets run; it must take traced archs.
        chunk: archs per call of the program, hence per result.
        dtype: of weights and activations.

    Yields:
        Positions in `archs` (int `[n]`, n <= chunk), and the result of those.
    """
    how: Any = strategy  # a function, hence hashable, which a Protocol does not say
    packed = np.asarray(choices.pack(archs))
    resolutions = np.asarray(choices.get(archs, space.resolution))
    total = int(np.sum(np.asarray(data.labels) >= 0))
    for index in np.unique(resolutions):
        run = program(space, how, prepare, space.resolutions[index], dtype)
        group = np.flatnonzero(resolutions == index)
        for start in range(0, len(group), chunk):
            where = group[start : start + chunk]
            filled = np.resize(where, chunk)
            batch = jax.tree.map(jnp.asarray, choices.unpack(space.menu, packed[filled]))
            correct, loss = jax.device_get(run(params, batch, data, jnp.int32(len(where))))
            yield where, Result(correct[: len(where)], loss[: len(where)] / total, total)


@functools.cache
def program(
    space: Space, strategy: Any, prepare: Prepare, resolution: int, dtype: Any
) -> Callable[[Tree, Arch, EvaluationData, Array], tuple[Array, Array]]:
    """The jitted function that `evaluate` calls, one for each resolution.

    `(params, archs [n], data, count) -> (correct [n], summed loss [n])` of the first `count` archs.
    """

    def one(params: Tree, data: EvaluationData, arch: Arch) -> tuple[Array, Array]:
        calibration, images, labels = (jnp.asarray(part) for part in data)
        run = functools.partial(strategy, space, params, arch, resolution=resolution, dtype=dtype)
        stats = calibrate(
            space,
            params,
            arch,
            calibration,
            resolution=resolution,
            strategy=strategy,
            prepare=prepare,
            dtype=dtype,
        )

        def add(total: tuple[Array, Array], batch: tuple[Array, Array]) -> Any:
            images, labels = batch
            logits = run(prepare(images), stats=stats).logits
            return jax.tree.map(jnp.add, total, _score(logits, labels)), None

        zero = (jnp.int32(0), jnp.float32(0.0))
        return jax.lax.scan(add, zero, (images, labels))[0]

    def many(params: Tree, archs: Arch, data: EvaluationData, count: Array) -> tuple[Array, Array]:
        # A loop, not vmap: under vmap a switch would compute every branch. Up to a traced count,
        # so that a chunk that is not full costs only what is in it.
        def body(i: Array, results: tuple[Array, Array]) -> tuple[Array, Array]:
            result = one(params, data, jax.tree.map(lambda leaf: leaf[i], archs))
            return jax.tree.map(lambda all_, new: all_.at[i].set(new), results, result)

        n = len(jax.tree.leaves(archs)[0])
        return jax.lax.fori_loop(0, count, body, (jnp.zeros(n, jnp.int32), jnp.zeros(n)))

    return jax.jit(many)


def _score(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Number of correct images and summed cross-entropy of a batch; label -1 does not count."""
    real = labels >= 0
    correct = jnp.sum(real & (jnp.argmax(logits, -1) == labels), dtype=jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return correct, jnp.sum(jnp.where(real, losses, 0.0))
