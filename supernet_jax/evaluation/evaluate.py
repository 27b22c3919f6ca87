"""Calibration and evaluation of many subnets by two compiled programs.

No accuracy is reported without BatchNorm statistics of the subnet itself: the means, over a few
batches of training images, of the batch mean and of the unbiased batch variance. All batches run
through the network as it trains, each normalised by its own statistics.

`evaluate` does both jobs of a subnet, one after the other. `calibrated` and `scored` do one each,
so that a subnet can be calibrated once and scored on more and more batches. All three run the same
two programs per resolution, and so find the same to the bit.

Subnets are sorted, so that neighbours begin alike, and go through batch by batch: what a subnet
shares with the one before it, from the image up to the first block that differs, is not computed
again. A search, whose candidates are mutants of a few parents, spares much of its work so.

On several devices, subnets are split over them; where there are fewer subnets than devices, each
has several devices, over which the images of a batch are split.

Shape letters: `N` archs, `S` statistics of an arch, `A` calibration batches, `E` evaluation
batches, `B` images of a batch; in a program `G` groups of devices, `n` archs of a group.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.shared_params import zero_stats
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy, switched
from supernet_jax.evaluation import programs
from supernet_jax.evaluation.programs import Prepare, Program, Scores
from supernet_jax.runtime import sharding

Wanted = Callable[[np.ndarray], np.ndarray]  # positions of archs -> some of them


class How(NamedTuple):
    """How subnets are evaluated.

    Attributes:
        space: the space.
        prepare: makes the network's input of uint8 images.
        strategy: how subnets run; it must take traced archs.
        dtype: of weights and activations; statistics are float32.
        chunk: archs per call of a program and group of devices. No result depends on it.
        reuse: whether a subnet takes over what it shares with the one before it. No result depends
            on it.
    """

    space: Space
    prepare: Prepare
    strategy: Any = switched  # a `Strategy`: functions hash, which a Protocol does not say
    dtype: Any = jnp.float32
    chunk: int = 16
    reuse: bool = True


class EvaluationData(NamedTuple):
    """What candidates are calibrated and evaluated on.

    Arrays that lie on a mesh are evaluated on all of its devices, others on one.

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
    how: How, params: Tree, archs: Arch, data: EvaluationData, *, wanted: Wanted | None = None
) -> Iterator[tuple[np.ndarray, Result]]:
    """Calibrates and evaluates archs, two programs per resolution however many they are.

    Archs go through in chunks of one fixed size, those of one resolution together, sorted, the last
    chunk filled up, so that nothing is compiled twice. Only the number of groups of devices changes
    a program; see `sharding.candidates_mesh`.

    Args:
        how: how.
        params: shared parameters.
        archs: `[N]`.
        data: what they are calibrated and evaluated on.
        wanted: asked before each call with the positions that are left of a resolution, in their
            order; what it returns of them is left then, in its order.

    Yields:
        Positions in `archs` (at most `how.chunk` for each group of devices), and the result of
        those.
    """
    total = int(np.sum(np.asarray(_host(data.labels)) >= 0))
    batches = np.array([0, len(data.labels)], np.int32)
    for work in _works(how, archs, data, wanted):
        stats = work.calibrate(params)
        yield work.where, _result(work.fetch(work.score(params, stats, batches)), total)


def calibrated(
    how: How, params: Tree, archs: Arch, data: EvaluationData
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first half of `evaluate`, with the same arguments.

    Yields:
        Positions in `archs`, and the calibrated statistics of those on the host, float32 `[., S]`,
        for `scored`.
    """
    for work in _works(how, archs, data):
        yield work.where, work.fetch(work.calibrate(params))


def scored(
    how: How,
    params: Tree,
    archs: Arch,
    stats: np.ndarray,
    data: EvaluationData,
    *,
    batches: tuple[int, int],
) -> Iterator[tuple[np.ndarray, Scores]]:
    """The second half of `evaluate`, on some of the batches, with the same other arguments.

    Args:
        how: how.
        params: shared parameters.
        archs: `[N]`.
        stats: `[N, S]`, what `calibrated` gave for them.
        data: whose images are classified.
        batches: the first, and the one after the last; any range runs through the same program.

    Yields:
        Positions in `archs`, and the scores of those in these batches, on the host.
    """
    for work in _works(how, archs, data):
        scores = work.score(params, work.rows(stats), np.array(batches, np.int32))
        yield work.where, work.fetch(scores)


class _Work(NamedTuple):
    """One call of each program.

    Attributes:
        program: what is called.
        where: positions of the archs, those of each group of devices together.
        places: the same, filled up to equal numbers: `[G*n]`.
        counts: how many archs of each group are real: `[G]`.
        archs: `[G*n]`, NumPy.
        data: on the program's mesh.
        reuse: as in `How`.
    """

    program: Program
    where: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    archs: Arch
    data: EvaluationData
    reuse: bool

    def calibrate(self, params: Tree) -> Array:
        archs, counts = self._placed((self.archs, self.counts))
        run = programs.calibrator(self.program)
        return run(params, archs, counts, self.reuse, self.data.calibration)

    def score(self, params: Tree, stats: Array | np.ndarray, batches: np.ndarray) -> Scores:
        archs, counts = self._placed((self.archs, self.counts))
        images, labels = self.data.images, self.data.labels
        run = programs.scorer(self.program)
        return run(params, archs, counts, self.reuse, stats, images, labels, batches)

    def rows(self, per_arch: np.ndarray) -> Array | np.ndarray:
        """What belongs to each of all archs, for the rows of this call."""
        return self._placed(per_arch[self.places])

    def _placed(self, tree: Any) -> Any:
        mesh = self.program.mesh
        return tree if mesh is None else sharding.split(mesh, tree, over="candidates")

    def fetch(self, results: Any) -> Any:
        """The results of the real rows, in the order of `where`, on the host of every process."""
        real = np.arange(len(self.places) // len(self.counts)) < self.counts[:, None]
        return jax.tree.map(lambda x: _host(x)[real.reshape(-1)], results)


def _works(how: How, archs: Arch, data: EvaluationData, wanted: Any = None) -> Iterator[_Work]:
    space = how.space
    packed = np.asarray(choices.pack(archs))
    resolutions = np.asarray(choices.get(archs, space.resolution))
    devices = sharding.devices_of(data.images)
    for index in np.unique(resolutions):
        size = space.resolutions[index]
        group = np.flatnonzero(resolutions == index)
        identity = elastic_space.identity(space, size, choices.unpack(space.menu, packed[group]))
        group = group[np.lexsort(np.asarray(identity).T[::-1])]
        mesh = sharding.candidates_mesh(devices, len(group))
        program = Program(space, how.prepare, how.strategy, how.dtype, size, mesh)
        placed = data if mesh is None else sharding.moved(mesh, data, axis=1)
        groups = 1 if mesh is None else mesh.shape["candidates"]
        while len(group := group if wanted is None else wanted(group)):
            where, group = np.split(group, [groups * how.chunk])
            parts = np.array_split(where, groups)
            filled = [np.resize(part if len(part) else where, how.chunk) for part in parts]
            places = np.concatenate(filled)
            counts = np.array([len(part) for part in parts], np.int32)
            rows = choices.unpack(space.menu, packed[places])
            yield _Work(program, where, places, counts, rows, placed, how.reuse)


def _host(x: Array | np.ndarray) -> np.ndarray:
    """A whole array on the host of every process."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def _result(scores: Scores, total: int) -> Result:
    right, loss = np.asarray(scores.right), np.asarray(scores.loss)
    correct = right.sum((1, 2), dtype=np.int32)
    return Result(correct, loss.sum((1, 2), dtype=np.float32) / np.float32(total), total)
