"""The training loop: batches in, checkpoints and metrics out, and nothing lost on the way.

The loop holds no state of its own. Killed at any moment and started again, it ends with bitwise the
parameters of the uninterrupted run on the same machine; at most the steps since the last checkpoint
are computed again.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.errors import UserError
from supernet_jax.runtime import cache, hardware, progress, sharding, stopping
from supernet_jax.storage import checkpoint
from supernet_jax.training import train_step
from supernet_jax.training.batches import Batches
from supernet_jax.training.job import Job
from supernet_jax.training.metrics_log import MetricsLog
from supernet_jax.training.recipe import Recipe, State

PATIENCE = 5  # refused steps in a row before going back to the last checkpoint
ROLLBACKS = 3  # times that is tried before giving up
COPY_SECONDS = 2.0  # a step that takes longer leaves a copy of the state on the host


def fit(job: Job) -> tuple[State, bool]:
    """Trains, from the last checkpoint if there is one.

    Returns:
        The state, and whether training is finished; it is not where a signal asked to stop (see
        `stopping`), in which case the state has been saved.

    Raises:
        UserError: training keeps diverging after `ROLLBACKS` returns to the last checkpoint.
        Stopped: a signal asked to stop before there was anything to save.
    """
    cache.enable()
    hardware.collect_rarely()
    hardware.keep_memory()
    sharding.check_divides("train.batch", job.batch, job.mesh)
    train_step.check_parts(job.recipe, job.batch, job.mesh)
    state = restore(job)
    start = int(state.step)
    log = MetricsLog(job, start, int(state.rollbacks))
    step_function = job.step or train_step.Step(job.recipe, mesh=job.mesh, rules=job.rules)
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
            resolutions = train_step.step_resolutions(
                job.recipe, step=step, rollbacks=log.rollbacks
            )
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
        train_step.shapes(job.recipe),
        train_step.places(job.recipe, job.mesh, job.rules),
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
    made = functools.partial(train_step.create, recipe._replace(seed=0))  # the key is data
    where = train_step.places(recipe, mesh, rules)
    run = jax.jit(made, out_shardings=where, compiler_options=hardware.runs_once())
    key = sharding.replicate(mesh, jax.random.key_data(jax.random.key(recipe.seed)))
    return functools.partial(run, key)


def _keep(job: Job, step: int, state: State, log: "MetricsLog") -> None:
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


def _go_back(job: Job, log: "MetricsLog") -> State:
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
