"""Candidates block by block: what several of them begin with is computed once, for all of them.

The host walks the tree of a chunk's candidates depth first, batch by batch. A node is an operation
of a subnet together with all that runs before it; candidates go through the same nodes as long as
their blocks are the same, and in scoring their statistics too. Each block runs at its own size, by
the compiled program of its kind.

Of one batch, kept at a time are the inputs, the values of those nodes above the block that runs
from which another branch is still to be walked, and what the last `AHEAD` blocks made. That depends
neither on the number of candidates nor on that of batches.

On CPU the candidates of a chunk go through in `LANES`, each a thread with a tree of its own: while
a small operation of one occupies a core, the others have something of another. It takes their
number of times the memory, runs what all begin with once for each, and finds the same to the bit.

Shape letters: `n` archs, `S` statistics of an arch, `A` calibration batches, `E` evaluation
batches, `B` examples of a batch.
"""

import collections
import concurrent.futures
import contextvars
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from supernet_jax.elastic import blockwise, choices, shared_params
from supernet_jax.elastic.block_programs import Request, Results
from supernet_jax.elastic.blockwise import Blockwise, Mode, Plan
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space, group
from supernet_jax.elastic.wiring import Operation
from supernet_jax.evaluation import programs
from supernet_jax.evaluation.programs import Program
from supernet_jax.runtime import owned
from supernet_jax.tasks import task
from supernet_jax.tasks.task import Scores

AHEAD = 4  # blocks that the host has dispatched and not seen the end of
LANES = 2  # more were no faster on two cores


def calibrate(
    program: Program, params: Tree, archs: Arch, calibration: Tree, *, scored: int
) -> np.ndarray:
    """Calibrated statistics `[n, S]`; see `programs.calibrator`.

    Args:
        program: what is to be done, on one device.
        params: shared parameters.
        archs: `[n]`, concrete; those that begin alike are neighbours.
        calibration: `[A, B, ...]`, as the data has them.
        scored: examples of a batch that is scored afterwards, for which threads compile ahead.
    """
    run, each = blockwise.kept(program.how.space, program.how.dtype), choices.unstack(archs)
    how: dict[str, Any] = {"size": program.size, "gradient": False}
    count, examples = jax.tree.leaves(calibration)[0].shape[:2]
    plans = [run.plan(one, Mode(**how, examples=examples, moments=True)) for one in each]
    later = [run.plan(one, Mode(**how, examples=scored, stats=True)) for one in each]
    run.ahead([*plans, *later])
    leaves = run.leaves(params)
    parts, size = _parts(program.how.space)
    stats = np.zeros((len(each), size), np.float32)

    def work(places: np.ndarray, walk: Walk) -> None:
        tree = CandidateTree(run, [plans[i] for i in places], reuse=program.how.reuse)
        totals: dict[Node, list[np.ndarray]] = {}
        for a in range(count):
            moments = {
                node: jax.tree.leaves(results.moments)
                for node, results, _ in walk(tree, leaves, _prepared(program, calibration, a))
            }
            for node, found in moments.items():
                own = [np.asarray(moment) for moment in found]
                totals[node] = list(map(np.add, totals[node], own)) if node in totals else own
        for place, path in zip(places, tree.paths, strict=True):
            for node in path:
                if node.operation.block is not None:
                    for part, total in zip(parts[node.operation.block], totals[node], strict=True):
                        stats[place, part.start : part.stop] = total.ravel() / np.float32(count)

    _in_lanes(work, len(each))
    return stats


def score(
    program: Program,
    params: Tree,
    archs: Arch,
    stats: np.ndarray,
    data: tuple[Tree, Tree, Array | np.ndarray],
    batches: np.ndarray,
) -> Scores:
    """What the task measures, `[n, E, B, ...]`, on the host; see `programs.scorer`.

    Args:
        program: what is to be done, on one device.
        params: shared parameters.
        archs: `[n]`, concrete; those that begin alike are neighbours.
        stats: `[n, S]`, of `calibrate`.
        data: inputs `[E, B, ...]`, targets `[E, B, ...]`, and which examples are real.
        batches: the first that is scored, and the one after the last.
    """
    run, each = blockwise.kept(program.how.space, program.how.dtype), choices.unstack(archs)
    inputs, targets, real = data
    mode = Mode(program.size, real.shape[1], gradient=False, stats=True)
    plans = [run.plan(one, mode) for one in each]
    run.ahead(plans)
    parts, _ = _parts(program.how.space)
    given = [{name: [part.of(row) for part in own] for name, own in parts.items()} for row in stats]
    leaves, scored = run.leaves(params), _scorer(program)
    scores = jax.tree.map(
        lambda s: np.zeros((len(each), len(real), *s.shape), s.dtype),
        programs.score_shapes(program, jax.tree.map(lambda x: x[0], targets), real[0]),
    )

    def work(places: np.ndarray, walk: Walk) -> None:
        own_plans, own_stats = [plans[i] for i in places], [given[i] for i in places]
        tree = CandidateTree(run, own_plans, own_stats, reuse=program.how.reuse)
        for e in range(*batches):
            found: list[tuple[int, Scores]] = []
            for node, _, values in walk(tree, leaves, _prepared(program, inputs, e)):
                for i, logits in node.ends:
                    found.append((places[i], scored(values[logits], targets, real, np.int32(e))))
            for place, own in found:
                for name, score in own.items():
                    scores[name][place, e] = score

    _in_lanes(work, len(each))
    return scores


Walk = Callable[["CandidateTree", Any, Tree], "Iterator[Step]"]


def _in_lanes(work: Callable[[np.ndarray, Walk], None], count: int) -> None:
    """Calls `work(places, walk)` for parts of the places below `count`, at the same time on CPU.

    `walk` is `CandidateTree.walk`; once any of them fails or this is interrupted, it ends after the
    block that runs.
    """
    lanes = min(LANES if jax.default_backend() == "cpu" else 1, count)
    if lanes == 1:
        work(np.arange(count), CandidateTree.walk)
        return
    stop, config = threading.Event(), cast(Any, jax.config)
    precision = config.jax_default_matmul_precision  # which threads do not inherit

    def walk(tree: "CandidateTree", params: Any, inputs: Tree) -> "Iterator[Step]":
        for step in tree.walk(params, inputs):
            if stop.is_set():
                raise concurrent.futures.CancelledError
            yield step

    def run(places: np.ndarray) -> None:
        with jax.default_matmul_precision(precision):
            work(places, walk)

    with concurrent.futures.ThreadPoolExecutor(lanes, "lane") as threads:
        try:
            each = [
                threads.submit(contextvars.copy_context().run, run, places)
                for places in np.array_split(np.arange(count), lanes)
            ]
            done, _ = concurrent.futures.wait(each, return_when="FIRST_EXCEPTION")
            for lane in done:
                lane.result()
        finally:
            stop.set()


@dataclasses.dataclass(eq=False)
class Node:
    """An operation that candidates have in common, and all that runs before it.

    Attributes:
        operation: what runs.
        request: its program.
        given: what else that is given.
        children: what runs next.
        ends: the candidates that end here, by place, and the number of the value of their logits.
        needed: numbers of the values that are read further down.
    """

    operation: Operation
    request: Request
    given: list[Any]
    children: "dict[Hashable, Node]" = dataclasses.field(default_factory=dict)
    ends: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    needed: set[int] = dataclasses.field(default_factory=set)


Step = tuple[Node, Results, dict[int, Array]]


class CandidateTree:
    """The tree of a few candidates.

    Args:
        run: runs their blocks.
        plans: of each, all of the same mode, without a gradient and without dropout.
        stats: for each, leaves of the statistics of each block, where the plans have them.
        reuse: whether candidates have nodes in common.

    Attributes:
        paths: the nodes of each candidate, from its inputs to its logits.
    """

    def __init__(
        self,
        run: Blockwise,
        plans: Sequence[Plan],
        stats: Sequence[dict[str, list[np.ndarray]]] | None = None,
        *,
        reuse: bool = True,
    ) -> None:
        self._run = run
        self._first: dict[Hashable, Node] = {}
        self.paths: list[list[Node]] = []
        for place, plan in enumerate(plans):
            own = {} if stats is None else stats[place]
            self.paths.append(self._path(place, plan, own, reuse))

    def _path(
        self, place: int, plan: Plan, stats: dict[str, list[np.ndarray]], reuse: bool
    ) -> list[Node]:
        path: list[Node] = []
        children = self._first
        for operation, request in zip(plan.wiring.operations, plan.requests, strict=True):
            name = operation.block
            given = []
            if name is not None:
                given = [*self._run.row(plan.arch, name), *stats.get(name, [])]
            key = (operation, *(x.tobytes() for x in given), None if reuse else place)
            node = children.setdefault(key, Node(operation, request, given))
            path.append(node)
            children = node.children
        needed = {plan.wiring.logits}
        path[-1].ends.append((place, plan.wiring.logits))
        for node in reversed(path):
            node.needed |= needed
            needed = needed | set(node.operation.inputs)
        return path

    def walk(self, params: Any, inputs: Tree) -> "Iterator[Step]":
        """Runs all nodes, depth first.

        Args:
            params: shared parameters, of `Blockwise.leaves`.
            inputs: of a batch, as the first block takes them.

        Yields:
            A node, what it made, and by their numbers all values that it or those below it need.
        """
        run, space = self._run, self._run.space
        dispatched: collections.deque[Any] = collections.deque()
        first = dict(enumerate(jax.tree.leaves(inputs)))
        waiting = [(node, first) for node in reversed(self._first.values())]
        while waiting:
            node, values = waiting.pop()
            operation, name = node.operation, node.operation.block
            program = run.programs.get(node.request, node.request.compiled)
            weights = [] if name is None else params[group(space, name)]
            own = [values[i] for i in operation.inputs]
            results, _ = program.forward(weights, node.given, own)
            values = values | dict(zip(operation.outputs, results.outputs, strict=True))
            values = {i: x for i, x in values.items() if i in node.needed}
            dispatched.append(results.outputs)
            if len(dispatched) > AHEAD:
                jax.block_until_ready(dispatched.popleft())
            yield node, results, values
            waiting += [(child, values) for child in reversed(node.children.values())]
            del own, results, values


class _Part(NamedTuple):
    """Where one array of statistics lies in the row of an arch."""

    start: int
    stop: int
    shape: tuple[int, ...]

    def of(self, row: np.ndarray) -> np.ndarray:
        return row[self.start : self.stop].reshape(self.shape)


@owned.by(owned.first)
def _parts(space: Space) -> tuple[dict[str, list[_Part]], int]:
    """The parts of each block, in the order of its leaves, and how long a row is: S."""
    shapes = jax.eval_shape(functools.partial(shared_params.zero_stats, space))
    parts: dict[str, list[_Part]] = {name: [] for name in shapes}
    start = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        stop = start + math.prod(leaf.shape)
        parts[path[0].key].append(_Part(start, stop, leaf.shape))
        start = stop
    return parts, start


def _prepared(program: Program, inputs: Tree, batch: int) -> Tree:
    return _preparer(program)(inputs, np.int32(batch))


@owned.by(lambda program: program.how.space)
def _preparer(program: Program) -> Any:
    """`(inputs [E, B, ...] of the data, which batch) -> inputs [B, ...] of the first block`."""

    def prepare(inputs: Tree, batch: Array) -> Tree:
        own = jax.tree.map(lambda x: x[batch], inputs)
        how = program.how
        return task.ready(how.space.task, how.prepare(own), program.size, how.dtype)

    return jax.jit(prepare)


@owned.by(lambda program: program.how.space)
def _scorer(program: Program) -> Any:
    def scored(logits: Array, targets: Tree, real: Array, batch: Array) -> Scores:
        own = jax.tree.map(lambda x: x[batch], targets)
        return programs.scores_of(program, logits.astype(np.float32), own, real[batch])

    return jax.jit(scored)
