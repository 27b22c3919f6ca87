"""Calibration of BatchNorm and evaluation of many subnets, by two compiled programs.

No accuracy is reported without BatchNorm statistics of the subnet itself: the means, over a few
batches of training inputs, of the batch mean and of the unbiased batch variance. All batches run
through the network as it trains, each normalised by its own statistics.

`evaluate` does both jobs of a subnet, one after the other. `calibrated` and `scored` do one each,
so that a subnet can be calibrated once and scored on more and more batches. All three run the same
two programs per size, and so find the same to the bit.

Subnets are sorted, so that neighbours begin alike, and go through batch by batch: what a subnet
shares with the one before it, from the input up to the first block that differs, is not computed
again. A search, whose candidates are mutants of a few parents, spares much of its work so. How they
are sorted is in `chunks`, what runs then in `programs`.

On several devices, subnets are split over them; where there are fewer subnets than devices, each
has several devices, over which the examples of a batch are split. Parameters that are split over
devices stay so: those that hold a copy together evaluate the same subnet, and gather the weights of
one block at a time.

Shape letters: `N` archs, `S` statistics of an arch, `A` calibration batches, `E` evaluation
batches, `B` examples of a batch.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.shared_params import zero_stats
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy, switched
from supernet_jax.errors import UserError
from supernet_jax.evaluation.chunks import EvaluationData as EvaluationData
from supernet_jax.evaluation.chunks import Wanted, chunks, host
from supernet_jax.evaluation.programs import How as How
from supernet_jax.evaluation.programs import Prepare
from supernet_jax.tasks.task import Scores, Size, Task


class Result(NamedTuple):
    """What was measured of each arch.

    Attributes:
        value: float64 `[N]`, the task's metric.
        loss: float32 `[N]`, mean over examples in nats.
        total: number of examples.
    """

    value: np.ndarray
    loss: np.ndarray
    total: int


def calibrate(
    space: Space,
    params: Tree,
    arch: Arch,
    calibration: Tree,
    *,
    size: Size,
    strategy: Strategy = switched,
    prepare: Prepare,
    dtype: Any = jnp.float32,
) -> Tree:
    """Calibrated statistics of one subnet at the union's shapes; works inside jit.

    Args:
        space: the space.
        params: shared parameters.
        arch: no batch axes; traced or concrete, as the strategy takes it.
        calibration: `[A, B, ...]`, as the data has them.
        size: static.
        strategy: how the subnet runs.
        prepare: makes the task's inputs of what the data has.
        dtype: of weights and activations; statistics are float32.
    """

    def add(total: Tree, inputs: Tree) -> tuple[Tree, None]:
        output = strategy(space, params, arch, prepare(inputs), size=size, dtype=dtype)
        return jax.tree.map(jnp.add, total, output.moments), None

    total, _ = jax.lax.scan(add, zero_stats(space), calibration)
    return jax.tree.map(lambda t: t / len(jax.tree.leaves(calibration)[0]), total)


def evaluate(
    how: How, params: Tree, archs: Arch, data: EvaluationData, *, wanted: Wanted | None = None
) -> Iterator[tuple[np.ndarray, Result]]:
    """Calibrates and evaluates archs, two programs per size however many they are.

    Archs go through in chunks of one fixed size, those of one size together, sorted, the last
    chunk filled up, so that nothing is compiled twice. Only the number of groups of devices changes
    a program; see `sharding.candidates_mesh`.

    Args:
        how: how.
        params: shared parameters.
        archs: `[N]`.
        data: what they are calibrated and evaluated on.
        wanted: asked before each call with the positions that are left of a size, in their
            order; what it returns of them is left then, in its order.

    Yields:
        Positions in `archs` (at most `how.chunk` for each group of devices), and the result of
        those.
    """
    real = np.asarray(host(data.real))
    batches = np.array([0, len(real)], np.int32)
    for chunk in chunks(how, params, archs, data, wanted):
        stats = chunk.calibrate(params)
        scores = chunk.fetch(chunk.score(params, stats, batches))
        yield chunk.where, _result(how.space.task, scores, real)


def calibrated(
    how: How, params: Tree, archs: Arch, data: EvaluationData
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first half of `evaluate`, with the same arguments.

    Yields:
        Positions in `archs`, and the calibrated statistics of those on the host, float32 `[., S]`,
        for `scored`.
    """
    for chunk in chunks(how, params, archs, data):
        yield chunk.where, chunk.fetch(chunk.calibrate(params))


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
        data: whose examples are scored.
        batches: the first, and the one after the last; any range runs through the same program.

    Yields:
        Positions in `archs`, and the scores of those in these batches, on the host.
    """
    for chunk in chunks(how, params, archs, data):
        scores = chunk.score(params, chunk.rows(stats), np.array(batches, np.int32))
        yield chunk.where, chunk.fetch(scores)


def _result(task: Task, scores: Scores, real: np.ndarray) -> Result:
    loss = np.asarray(scores["loss"]).sum((1, 2), dtype=np.float32)
    values = [
        _value(task, {name: np.asarray(score[i])[real] for name, score in scores.items()})
        for i in range(len(loss))
    ]
    total = int(real.sum())
    return Result(np.array(values), loss / np.float32(total), total)


def _value(task: Task, scores: Scores) -> float:
    """The metric of one subnet, of the scores of all examples.

    Raises:
        UserError: it, or the score of an example, is not a number where losses are numbers. (That a
            loss is none is said of the subnet, whose weights have diverged.)
    """
    value = float(task.value(scores))
    if np.isnan(scores["loss"]).any():
        return value
    for name, score in scores.items():
        if np.isnan(where := np.asarray(score, np.float32)).any():
            raise UserError(
                f"the task {task.name} gives example {int(np.argwhere(np.isnan(where))[0, 0])} a "
                f"score {name!r} that is not a number, though its loss is one; give each example a "
                "number, and let `value` leave out what does not count"
            )
    if np.isnan(value):
        raise UserError(
            f"the task {task.name} gives a {task.metric.name} that is not a number for scores that "
            "are numbers; mend its `value`"
        )
    return value
