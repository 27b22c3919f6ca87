"""The training loop: batches in, checkpoints and metrics out, and nothing lost on the way.

The loop holds no state of its own. Killed at any moment and started again, it ends with bitwise the
parameters of the uninterrupted run on the same machine; at most the steps since the last checkpoint
are computed again.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from supernet_jax import data, progress, sharding, train
from supernet_jax.checkpoint import Checkpoints
from supernet_jax.errors import UserError
from supernet_jax.train import Batch, Recipe, State

PATIENCE = 5  # refused steps in a row before going back to the last checkpoint
ROLLBACKS = 3  # times that is tried before giving up


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


def fit(job: Job) -> tuple[State, bool]:
    """Trains, from the last checkpoint if there is one.

    Returns:
        The state, and whether training is finished; it is not where SIGTERM asked to stop, in
        which case the state has been saved.

    Raises:
        UserError: training keeps diverging after `ROLLBACKS` returns to the last checkpoint.
    """
    sharding.check_divides("train.batch", job.batch, job.mesh)
    state = restore(job)
    start = int(state.step)
    log = _Log(job, start, int(state.rollbacks))
    step_function = train.make_step(job.recipe, mesh=job.mesh)
    with (
        _StopRequested() as stop,
        log,
        progress.bar("training", job.steps, done=start) as advance,
    ):
        step = start
        while step < job.steps:
            resolutions = train.step_resolutions(job.recipe, step=step, rollbacks=log.rollbacks)
            batch = _batch(job, step, log.rollbacks)
            state, metrics = step_function(state, batch, resolutions=resolutions)
            step += 1
            log.add(step, metrics)
            last = step == job.steps or stop(step)
            if step % job.log_every == 0 or step % job.checkpoint_every == 0 or last:
                note, refused = log.flush()
                advance(step - log.shown, note)
                log.shown = step
                if refused >= PATIENCE:
                    state = _go_back(job, log)
                    step = log.shown = int(state.step)
                    continue
                if (step % job.checkpoint_every == 0 and refused == 0) or last:
                    job.checkpoints.save(step, state, job.meta)
            if last:
                break
    job.checkpoints.wait()
    return state, step >= job.steps


def restore(job: Job) -> State:
    """The state of the last checkpoint, or the first state where there is none."""
    place = sharding.replicated(job.mesh)
    create = jax.jit(
        functools.partial(train.create, job.recipe),
        out_shardings=place,
        compiler_options={"xla_backend_optimization_level": 0},  # it runs once: compiling is all
    )
    if job.checkpoints.latest() is None:
        return create()
    shapes = jax.eval_shape(create)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    return job.checkpoints.restore(target)


def _batch(job: Job, step: int, rollbacks: int) -> Batch:
    # After a rollback the order of the data is another one, as are archs and augmentation.
    seed = job.recipe.seed + 1_000_003 * rollbacks
    ids = data.batch_indices(len(job.images.labels), job.batch, seed=seed, step=step)
    host = Batch(job.images.images[ids], job.images.labels[ids], ids.astype(np.int32))
    return sharding.split(job.mesh, host)


def _go_back(job: Job, log: "_Log") -> State:
    """The last good state, with another future."""
    if job.checkpoints.latest() is None or log.rollbacks >= ROLLBACKS:
        raise UserError(
            f"training diverges: {PATIENCE} steps in a row before step {log.shown} had a "
            f"non-finite or collapsed loss, after {log.rollbacks} returns to an earlier "
            "checkpoint; lower --optimizer.learning-rate or lengthen --optimizer.warmup"
        )
    job.checkpoints.wait()
    state = restore(job)
    log.rollbacks += 1
    log.event({"event": "rollback", "from": log.shown, "to": int(state.step)})
    rollbacks = sharding.replicate(job.mesh, np.int32(log.rollbacks))
    return dataclasses.replace(state, rollbacks=rollbacks)


class _Log:
    """Metrics on their way from the device to the file, and what the guard saw."""

    def __init__(self, job: Job, start: int, rollbacks: int):
        self.shown = start
        self.rollbacks = rollbacks
        self._job = job
        self._pending: collections.deque[tuple[int, train.Metrics]] = collections.deque()
        self._file: TextIO | None = None
        self._keep_until(start)

    def __enter__(self) -> "_Log":
        if jax.process_index() == 0:
            self._file = self._job.metrics.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: int, metrics: train.Metrics) -> None:
        """Remembers a step's metrics without waiting for them."""
        self._pending.append((step, metrics))

    def flush(self) -> tuple[str, int]:
        """Waits for the pending steps. Returns a line to show, and how many were refused last."""
        host = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
        self._pending.clear()
        for step, metrics in host:
            values = {name: float(value) for name, value in metrics.items()}
            if step % self._job.log_every == 0:
                self.event({"step": step, **values})
            elif not values["applied"]:
                self.event({"event": "refused", "step": step, **values})
        refused = max(int(metrics["refused"]) for _, metrics in host)
        losses = {k: v for k, v in host[-1][1].items() if k.startswith("loss/")}
        return ", ".join(f"{k[5:]} {float(v):.3f}" for k, v in losses.items()), refused

    def event(self, value: dict[str, Any]) -> None:
        """Writes one JSON line."""
        if self._file is not None:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def _keep_until(self, step: int) -> None:
        """Drops lines of steps that a resumed run is going to repeat, or that were cut off."""
        path = self._job.metrics
        if jax.process_index() != 0 or not path.exists():
            return
        kept = [line for line in path.read_text().splitlines() if _before(line, step)]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(path)


def _before(line: str, step: int) -> bool:
    try:
        return json.loads(line).get("step", 0) <= step
    except ValueError:  # the last line of a killed process
        return False


class _StopRequested:
    """While entered, SIGTERM asks to stop at the end of a step instead of ending the process."""

    def __enter__(self) -> Callable[[int], bool]:
        self._asked = False
        self._old: Any = None
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._old = signal.signal(signal.SIGTERM, self._ask)
        return self._stop

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _stop(self, step: int) -> bool:
        if jax.process_count() > 1:  # all processes must agree on the step
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._asked
