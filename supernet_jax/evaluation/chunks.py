"""Archs in chunks of one size, each of which goes through both compiled programs.

Archs of one size go together, sorted, so that neighbours begin alike and one takes over what
it shares with the one before it. The last chunk is filled up, so that nothing is compiled twice.

Shape letters: `N` archs, `S` statistics of an arch, `G` groups of devices, `n` archs of a group.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from supernet_jax.elastic import blockwise, choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.shared_params import zero_stats
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import prefix_tree, programs
from supernet_jax.evaluation.programs import How, Program
from supernet_jax.runtime import cache, hardware, sharding
from supernet_jax.tasks.task import Scores, Size

Wanted = Callable[[np.ndarray], np.ndarray]  # positions of archs -> some of them


class EvaluationData(NamedTuple):
    """What candidates are calibrated and evaluated on.

    Arrays that lie on a mesh are evaluated on all of its devices, others on one.

    Attributes:
        calibration: inputs of training examples `[A, B, ...]`, as the data has them.
        inputs: `[E, B, ...]`.
        targets: `[E, B, ...]`.
        real: bool `[E, B]`, False where a batch was filled up.
    """

    calibration: Tree
    inputs: Tree
    targets: Tree
    real: Array | np.ndarray


class Chunk(NamedTuple):
    """One call of each program.

    Attributes:
        program: what is called.
        where: positions of the archs, those of each group of devices together.
        places: the same, filled up to equal numbers where a program needs that: `[G*n]`.
        counts: how many archs of each group are real: `[G]`.
        archs: `[G*n]`, NumPy.
        data: on the program's mesh.
    """

    program: Program
    where: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    archs: Arch
    data: EvaluationData

    def calibrate(self, params: Tree) -> Array | np.ndarray:
        """Statistics `[G*n, S]`, on the devices; S is 0 where the space has none."""
        if not jax.tree.leaves(zero_stats(self.program.how.space)):
            return self._placed(np.zeros((len(self.places), 0), np.float32))
        if self.program.how.strategy is blockwise.blockwise:
            scored = self.data.real.shape[1]
            return prefix_tree.calibrate(
                self.program, params, self.archs, self.data.calibration, scored=scored
            )
        archs, counts = self._placed((self.archs, self.counts))
        run = programs.calibrator(self.program)
        return run(params, archs, counts, self.program.how.reuse, self.data.calibration)

    def score(self, params: Tree, stats: Array | np.ndarray, batches: np.ndarray) -> Scores:
        """Scores `[G*n, E, B]` in the batches from the first to before the second, on the
        devices.
        """
        scored = self.data.inputs, self.data.targets, self.data.real
        if self.program.how.strategy is blockwise.blockwise:
            rows = np.asarray(stats)
            return prefix_tree.score(self.program, params, self.archs, rows, scored, batches)
        archs, counts = self._placed((self.archs, self.counts))
        run = programs.scorer(self.program)
        return run(params, archs, counts, self.program.how.reuse, stats, scored, batches)

    def rows(self, per_arch: np.ndarray) -> Array | np.ndarray:
        """What belongs to each of all archs, for the rows of this call."""
        return self._placed(per_arch[self.places])

    def fetch(self, results: Any) -> Any:
        """The results of the real rows, in the order of `where`, on the host of every process."""
        real = np.arange(len(self.places) // len(self.counts)) < self.counts[:, None]
        return jax.tree.map(lambda x: host(x)[real.reshape(-1)], results)

    def _placed(self, tree: Any) -> Any:
        mesh = self.program.mesh
        return tree if mesh is None else sharding.split(mesh, tree, over="candidates")


def chunks(
    how: How, params: Tree, archs: Arch, data: EvaluationData, wanted: Wanted | None = None
) -> Iterator[Chunk]:
    """The chunks that all archs make, size after size.

    Args:
        how: how subnets are evaluated.
        params: shared parameters; see `sharding.candidates_mesh`.
        archs: `[N]`.
        data: what they are evaluated on; it is moved to the mesh that fits the number of archs.
        wanted: asked before each chunk with the positions that are left of a size, in their
            order; what it returns of them is left then, in its order.
    """
    cache.enable()
    if how.strategy is blockwise.blockwise:
        hardware.keep_memory()  # the host asks for each block's memory anew
    packed = np.asarray(choices.pack(archs))
    devices, splits = sharding.devices_of(data.real), sharding.splits_of(params)
    for size, group in in_order(how.space, archs):
        mesh = sharding.candidates_mesh(devices, len(group), params=params)
        if mesh is not None:
            how = dataclasses.replace(how, strategy=blockwise.traceable(how.strategy))
        placed = data if mesh is None else sharding.moved(mesh, data, axis=1)
        program = Program(how, size, mesh, () if mesh is None else splits)
        groups = 1 if mesh is None else mesh.shape["candidates"]
        while len(group := group if wanted is None else wanted(group)):
            where, group = np.split(group, [groups * how.chunk])
            parts = np.array_split(where, groups)
            filled = [np.resize(part if len(part) else where, how.chunk) for part in parts]
            # Block by block no program depends on their number.
            places = where if how.strategy is blockwise.blockwise else np.concatenate(filled)
            counts = np.array([len(part) for part in parts], np.int32)
            rows = choices.unpack(how.space.menu, packed[places])
            yield Chunk(program, where, places, counts, rows, placed)


def in_order(space: Space, archs: Arch) -> Iterator[tuple[Size, np.ndarray]]:
    """The positions of archs `[N]`, size after size, such that neighbours begin alike."""
    packed = np.asarray(choices.pack(archs))
    sizes = np.asarray(space.which_size(archs))
    for index in np.unique(sizes):
        size = space.sizes[index]
        group = np.flatnonzero(sizes == index)
        identity = elastic_space.identity(space, size, choices.unpack(space.menu, packed[group]))
        yield size, group[np.lexsort(np.asarray(identity).T[::-1])]


def host(x: Array | np.ndarray) -> np.ndarray:
    """A whole array on the host of every process."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
