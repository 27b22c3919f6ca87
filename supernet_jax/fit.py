"""The training loop: batches in, checkpoints and metrics out, and nothing lost on the way.

The loop holds no state of its own. Killed at any moment and started again, it ends with bitwise the
parameters of the uninterrupted run on the same machine; at most the steps since the last checkpoint
are computed again.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shlex
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax import __version__, data, train
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.errors import UserError
from supernet_jax.runtime import hardware, progress, sharding, stopping
from supernet_jax.runtime.program_cache import Kept, identity
from supernet_jax.storage import checkpoint, files
from supernet_jax.storage.checkpoint import Checkpoints
from supernet_jax.train import Batch, Recipe, State

TIMES = "times.jsonl"  # beside the metrics: when steps were done, and what did them
PATIENCE = 5  # refused steps in a row before going back to the last checkpoint
ROLLBACKS = 3  # times that is tried before giving up
COPY_SECONDS = 2.0  # a step that takes longer leaves a copy of the state on the host
SLOW_SECONDS = 0.5  # a step that takes longer is waited for before the next is begun


class Job(NamedTuple):
    """One training run.

    Attributes:
        recipe: what to train and how.
        images: the training images.
        steps: in all.
        batch: images per step over all devices.
        mesh: the devices.
        checkpoints: where the state is kept.
        meta: JSON values written beside each checkpoint.
        metrics: path of a file of JSON lines.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of metrics.
        reading: who decodes images that are not in memory.
        rules: how the state is split over the devices.
        step: that of a recipe which differs in the seed or the first state alone, so that nothing
            is compiled again; None to make it.
    """

    recipe: Recipe
    images: data.Images
    steps: int
    batch: int
    mesh: Mesh
    checkpoints: Checkpoints
    meta: dict[str, Any]
    metrics: pathlib.Path
    checkpoint_every: int
    log_every: int
    reading: data.Reading = data.Reading()
    rules: sharding.Rules = sharding.REPLICATED
    step: train.Step | None = None


def fit(job: Job) -> tuple[State, bool]:
    """Trains, from the last checkpoint if there is one.

    Returns:
        The state, and whether training is finished; it is not where a signal asked to stop (see
        `stopping`), in which case the state has been saved.

    Raises:
        UserError: training keeps diverging after `ROLLBACKS` returns to the last checkpoint.
        Stopped: a signal asked to stop before there was anything to save.
    """
    sharding.check_divides("train.batch", job.batch, job.mesh)
    train.check_parts(job.recipe, job.batch, job.mesh)
    state = restore(job)
    start = int(state.step)
    log = _Log(job, start, int(state.rollbacks))
    step_function = job.step or train.Step(job.recipe, mesh=job.mesh, rules=job.rules)
    asked = _asked_anywhere(job.mesh)
    copy = _Copy(job)
    with (
        stopping.listening(),
        stopping.rescued(stopping.Rescue(copy.is_taken, copy.save)),
        contextlib.ExitStack() as until_saved,
        Batches(
            job.images,
            batch=job.batch,
            mesh=job.mesh,
            seed=job.recipe.seed,
            stop=job.steps,
            reading=job.reading,
        ) as batches,
        progress.bar("training", job.steps, done=start) as advance,
    ):
        step = start
        batches.go_to(step, log.rollbacks)
        while step < job.steps:
            resolutions = train.step_resolutions(job.recipe, step=step, rollbacks=log.rollbacks)
            try:
                batch = batches.next()
            except Exception:  # images that do not decode, or workers that a signal ended
                _keep(job, step, state, log)
                if stopping.asked():
                    break
                raise
            state, metrics = step_function(state, batch, resolutions=resolutions)
            if step == start:  # from here on, until it is saved, there is something to lose
                until_saved.enter_context(stopping.held())
            step += 1
            log.add(step, metrics)
            if log.settle() > COPY_SECONDS:
                copy.take(step, state)
            else:
                copy.drop()
            last = step == job.steps or asked()
            if step % job.log_every == 0 or step % job.checkpoint_every == 0 or last:
                note, refused, worst = log.flush()
                advance(step - log.shown, note)
                log.shown = step
                if worst >= PATIENCE:
                    copy.drop()
                    state = _go_back(job, log)
                    step = int(state.step)
                    batches.go_to(step, log.rollbacks)
                    advance(step - log.shown)
                    log.shown = step
                    continue
                if (step % job.checkpoint_every == 0 and refused == 0) or last:
                    with stopping.held(patient=True), copy.saving:
                        job.checkpoints.save(step, state, job.meta, wait=last)
            if last:
                break
    job.checkpoints.wait()
    return state, step >= job.steps


def _asked_anywhere(mesh: Mesh) -> Callable[[], bool]:
    """Whether any process of the job was asked to stop, to be called after each step.

    Processes must agree on the step after which they stop. So each adds its word to a sum over all
    devices, and hears what the sum was one step before, which does not make anybody wait.
    """
    if jax.process_count() == 1:
        return lambda: bool(stopping.asked())
    where = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    total = jax.jit(jnp.sum, out_shardings=sharding.replicated(mesh))
    sums: collections.deque[jax.Array] = collections.deque()

    def asked() -> bool:
        own = np.full(1, stopping.asked() != 0, np.int32)
        words = jax.make_array_from_callback((mesh.size,), where, lambda _: own)
        sums.append(total(words))
        return len(sums) > 1 and int(sums.popleft()) > 0

    return asked


def restore(job: Job) -> State:
    """The state of the last checkpoint, or the first state where there is none."""
    if job.checkpoints.latest() is None:
        return creator(job.recipe, job.mesh, rules=job.rules)()
    target = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        train.shapes(job.recipe),
        train.places(job.recipe, job.mesh, job.rules),
    )
    return job.checkpoints.restore(target)


def begin(job: Job, params: Tree) -> None:
    """Saves the state before the first step, with these parameters; `fit` goes on from there.

    Raises:
        UserError: it cannot be written.
    """
    create = creator(job.recipe, job.mesh, rules=job.rules)
    job.checkpoints.save(0, create(params), job.meta, wait=True)


def creator(recipe: Recipe, mesh: Mesh, *, rules: sharding.Rules) -> Callable[..., State]:
    """The compiled function that makes the first state, where the rules want it; of random
    parameters, or of those that it is given.
    """
    made = functools.partial(train.create, recipe._replace(seed=0))  # the key is data
    where = train.places(recipe, mesh, rules)
    run = jax.jit(made, out_shardings=where, compiler_options=hardware.runs_once())
    key = sharding.replicate(mesh, jax.random.key_data(jax.random.key(recipe.seed)))
    return functools.partial(Kept(run, identity(made, where)), key)


def _keep(job: Job, step: int, state: State, log: "_Log") -> None:
    """Saves what was trained before an error; several processes need not all have met it."""
    if jax.process_count() == 1 and step > log.start:
        with stopping.held(patient=True):
            if step > log.shown:
                log.flush()
            job.checkpoints.save(step, state, job.meta, wait=True)


class _Copy:
    """The state after the last step, on the host, where steps take so long that a signal to stop
    cannot wait for the next. The arrays of the state itself are given away to that step.

    Attributes:
        saving: held while somebody saves.
    """

    def __init__(self, job: Job):
        self.saving = threading.Lock()
        self._job = job
        self._taken: tuple[int, State] | None = None

    def take(self, step: int, state: State) -> None:
        """Copies the state; several processes would have to agree on when to use it."""
        if jax.process_count() == 1:
            self._taken = step, jax.tree.map(lambda x: np.array(x, copy=True), state)

    def drop(self) -> None:
        """Forgets the copy: the next step is quick, or starts from another state."""
        self._taken = None

    def is_taken(self) -> bool:
        """Whether there is a copy."""
        return self._taken is not None

    def save(self) -> None:
        """Saves the copy, for a process that is about to leave; nobody saves after it."""
        self.saving.acquire()
        taken = self._taken
        if taken is None:  # dropped just now, so the main thread has gone on
            return
        step, state = taken
        self._job.checkpoints.save(step, state, self._job.meta, wait=True)
        os.write(1, f"stopped at step {step} of {self._job.steps} and saved\n".encode())


class Batches:
    """The batches of a run, from any step on; those to come are read ahead."""

    def __init__(
        self,
        images: data.Images,
        *,
        batch: int,
        mesh: Mesh,
        seed: int,
        stop: int,
        reading: data.Reading,
    ):
        self._mesh, self._batch, self._seed = mesh, batch, seed
        self._rows = sharding.own_rows(mesh, batch)
        self._from = functools.partial(
            data.feed, images, batch, stop=stop, rows=self._rows, reading=reading
        )
        self._feed: Generator[data.Examples, None, None] | None = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        if self._feed is not None:
            self._feed.close()

    def go_to(self, step: int, rollbacks: int) -> None:
        """The next batch will be that of this step."""
        self.__exit__()
        # After a rollback the order of the data is another one, as are archs and augmentation.
        self._feed = self._from(seed=self._seed + 1_000_003 * rollbacks, start=step)

    def next(self) -> Batch:
        """The batch of the next step, on the mesh."""
        assert self._feed is not None
        host = Batch(*next(self._feed))
        return sharding.split_rows(self._mesh, host, rows=self._rows, count=self._batch)


def _go_back(job: Job, log: "_Log") -> State:
    """The last good state, with another future; one that did not help is taken for bad."""
    latest = job.checkpoints.latest()
    if latest is None or log.rollbacks >= ROLLBACKS:
        raise UserError(
            f"training diverges: {PATIENCE} steps in a row before step {log.shown} had a "
            f"non-finite or collapsed loss, after {log.rollbacks} returns to an earlier "
            "checkpoint; lower --optimizer.learning-rate or lengthen --optimizer.warmup"
        )
    earlier = [s for s in checkpoint.steps(job.checkpoints.folder) if s < latest]
    if latest == log.returned and earlier:
        job.checkpoints.rewind(earlier[-1])
    state = restore(job)
    log.rollbacks += 1
    log.returned = int(state.step)
    log.event({"event": "rollback", "from": log.shown, "to": log.returned})
    rollbacks, refused = sharding.replicate(job.mesh, (np.int32(log.rollbacks), np.int32(0)))
    return dataclasses.replace(state, rollbacks=rollbacks, refused=refused)


class _Log:
    """Metrics on their way from the device to the file, and what the guard saw."""

    def __init__(self, job: Job, start: int, rollbacks: int):
        self.start = self.shown = start
        self.rollbacks = rollbacks
        self.returned: int | None = None  # to which step, the last time
        self._job = job
        self._pending: collections.deque[tuple[int, train.Metrics]] = collections.deque()
        self._times = job.metrics.with_name(TIMES)
        self._start: dict[str, Any] | None = {"event": "start", "step": start, "time": time.time()}
        self._writes = jax.process_index() == 0
        self._settled, self._seconds = time.monotonic(), 0.0
        if self._writes:
            kept = [x for x in files.lines(job.metrics) if _before(x, start, rollbacks)]
            files.write_text(job.metrics, "".join(f"{line}\n" for line in kept))

    def add(self, step: int, metrics: train.Metrics) -> None:
        """Remembers a step's metrics without waiting for them."""
        self._pending.append((step, metrics))

    def settle(self) -> float:
        """Waits until no more than one step is under way, and none if they are slow: what was
        given to the device cannot be taken back when a signal asks to stop. Returns what a step
        takes, in seconds.
        """
        under_way = 0 if self._seconds > SLOW_SECONDS else 1
        if len(self._pending) > under_way:
            jax.block_until_ready(self._pending[-1 - under_way][1])
        now = time.monotonic()
        self._seconds, self._settled = now - self._settled, now
        return self._seconds

    def flush(self) -> tuple[str, int, int]:
        """Waits for the pending steps. Returns a line to show, how many steps in a row are refused
        now, and how many were at worst.
        """
        host = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
        self._pending.clear()
        for step, metrics in host:
            values = {name: float(value) for name, value in metrics.items()}
            if step % self._job.log_every == 0:
                self.event({"step": step, **values})
            elif not values["applied"]:
                self.event({"event": "refused", "step": step, **values})
        self._time(host[-1][0])
        refused = [int(metrics["refused"]) for _, metrics in host]
        losses = {k: v for k, v in host[-1][1].items() if k.startswith("loss/")}
        note = ", ".join(f"{k[5:]} {float(v):.3f}" for k, v in losses.items())
        return note, refused[-1], max(refused)

    def event(self, value: dict[str, Any]) -> None:
        """Writes one JSON line, which says after how many rollbacks it was."""
        if self._writes:
            files.append_lines(self._job.metrics, [{**value, "rollbacks": self.rollbacks}])

    def _time(self, step: int) -> None:
        """Writes when a step was done; at first also what does them. Not in the metrics, which
        are the same whenever and wherever a run is trained.
        """
        if not self._writes:
            return
        lines: list[dict[str, Any]] = [{"step": step, "time": time.time()}]
        if self._start is not None:
            made_by = {"command": shlex.join(sys.argv), "supernet_jax": __version__}
            lines.insert(0, {**self._start, **made_by, **hardware.describe()})
            self._start = None
        files.append_lines(self._times, lines)


def _before(line: str, step: int, rollbacks: int) -> bool:
    """Whether a line is history for a run at this step, after so many rollbacks."""
    try:
        value = json.loads(line)
    except ValueError:  # of a disk that lost a part of it
        return False
    if not isinstance(value, dict):
        return False
    then = value.get("rollbacks", 0)
    return then < rollbacks or (then == rollbacks and value.get("step", 0) <= step)
