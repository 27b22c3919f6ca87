"""The training loop: batches in, checkpoints and metrics out, and nothing lost on the way.

The loop holds no state of its own. Killed at any moment and started again, it ends with bitwise the
parameters of the uninterrupted run on the same machine; at most the steps since the last checkpoint
are computed again.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax.elastic import code_names
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.errors import UserError
from supernet_jax.runtime import (
    bulk_random,
    cache,
    hardware,
    progress,
    sharding,
    stopping,
    watchdog,
)
from supernet_jax.storage import checkpoint
from supernet_jax.training import train_step
from supernet_jax.training.batches import Batches
from supernet_jax.training.job import Job
from supernet_jax.training.metrics_log import MetricsLog
from supernet_jax.training.recipe import Recipe, State
from supernet_jax.training.state_copy import StateCopy
from supernet_jax.training.teachers.largest import largest

PATIENCE = 5  # refused steps in a row before going back to the last checkpoint
ROLLBACKS = 3  # times that is tried before giving up


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
    hardware.keep_memory()
    sharding.check_divides("train.batch", job.batch, job.mesh.size)
    train_step.check_parts(job.recipe, job.batch, job.mesh)
    state = restore(job)
    copy = StateCopy(job)
    with (
        stopping.listening(),
        stopping.rescued(stopping.Rescue(copy.is_taken, copy.save)),
        contextlib.ExitStack() as until_saved,
        Batches(
            job.examples,
            batch=job.batch,
            mesh=job.mesh,
            seed=job.recipe.seed,
            stop=job.steps,
            reading=job.reading,
            second=job.second,
        ) as batches,
        progress.bar("training", job.steps, done=int(state.step)) as advance,
    ):
        state = _train(job, state, batches, copy, until_saved, advance)
    job.checkpoints.wait()
    return state, int(state.step) >= job.steps


def _train(
    job: Job,
    state: State,
    batches: Batches,
    copy: StateCopy,
    until_saved: contextlib.ExitStack,
    advance: progress.Advance,
) -> State:
    """The loop itself: steps up to the last one, or until a signal asks to stop."""
    start = step = shown = int(state.step)
    rollbacks, returned = int(state.rollbacks), None
    log = MetricsLog(
        job.metrics,
        every=job.log_every,
        start=start,
        rollbacks=rollbacks,
        on_metrics=job.on_metrics,
    )
    recipe, mesh, rules = job.recipe, job.mesh, job.rules
    take = job.step or train_step.Step(recipe, mesh=mesh, rules=rules, steps=job.steps)
    asked = _asked_anywhere(job.mesh)
    codes = _codes(job)
    batches.go_to(step, rollbacks)
    while step < job.steps:
        sizes = train_step.step_sizes(job.recipe, step=step, rollbacks=rollbacks)
        try:
            batch = batches.next()
        except Exception:  # examples that do not decode, or workers that a signal ended
            # What was trained is saved; several processes need not all have met the error.
            if jax.process_count() == 1 and step > start:
                with stopping.held(patient=True):
                    if step > shown:
                        log.flush(rollbacks)
                    job.checkpoints.save(step, state, job.meta, wait=True)
            if stopping.asked():
                break
            raise
        state, metrics = take(state, batch, sizes=sizes)
        if step == start:  # from here on, until it is saved, there is something to lose
            until_saved.enter_context(stopping.held())
        step += 1
        watchdog.beat()
        log.add(step, metrics)
        copy.after_step(step, state, metrics)
        last = step == job.steps or asked()
        saves = step % job.checkpoint_every == 0
        if not (saves or last or step % job.log_every == 0):
            continue
        written = log.flush(rollbacks)
        if codes is not None and step % job.log_every == 0:  # whenever it stops, the same lines
            log.event({"event": "codes", "step": step, "codes": codes(state)}, rollbacks)
        losses = [f"{k[5:]} {v:.3f}" for k, v in written[-1].items() if k.startswith("loss/")]
        advance(step - shown, ", ".join(losses))
        shown = step
        if max(metrics["refused"] for metrics in written) >= PATIENCE:
            copy.drop()
            state = _go_back(job, step, rollbacks, returned)
            rollbacks, returned = rollbacks + 1, int(state.step)
            log.event({"event": "rollback", "from": step, "to": returned}, rollbacks)
            batches.go_to(returned, rollbacks)
            advance(returned - step)
            step = shown = returned
        elif last or (saves and written[-1]["refused"] == 0):
            with stopping.held(patient=True), copy.saving:
                job.checkpoints.save(step, state, job.meta, wait=last)
            watchdog.beat()
            if last:
                break
    return state


def _codes(job: Job) -> Callable[[State], dict[str, dict[str, float]]] | None:
    """How likely options are in a state, by their names; None of a sampler that learns no code.

    Every process of the job calls it: parameters may be split over them.
    """
    learn = job.recipe.sampler.learn
    if learn is None:
        return None
    code = jax.jit(learn.code, out_shardings=sharding.replicated(job.mesh))
    return lambda state: code_names.named(
        job.recipe.space, jax.device_get(code(state.sampler, state.params))
    )


def _go_back(job: Job, step: int, rollbacks: int, returned: int | None) -> State:
    """The last good state, with another future; one that did not help is taken for bad.

    Args:
        job: the run.
        step: from which it goes back.
        rollbacks: how often it did before.
        returned: to which step, the last time.
    """
    latest = job.checkpoints.latest()
    if latest is None or rollbacks >= ROLLBACKS:
        raise UserError(
            f"training diverges: {PATIENCE} steps in a row before step {step} had a "
            f"non-finite or collapsed loss, after {rollbacks} returns to an earlier "
            "checkpoint; lower --optimizer.learning-rate or lengthen --optimizer.warmup"
        )
    earlier = [s for s in checkpoint.steps(job.checkpoints.folder) if s < latest]
    if latest == returned and earlier:
        job.checkpoints.rewind(earlier[-1])
    state = restore(job)
    counts = sharding.replicate(job.mesh, (np.int32(rollbacks + 1), np.int32(0)))
    return dataclasses.replace(state, rollbacks=counts[0], refused=counts[1])


def _asked_anywhere(mesh: Mesh) -> Callable[[], bool]:
    """Whether any process of the job was asked to stop, to be called after each step.

    Processes must agree on the step after which they stop. So each adds its word to a sum over all
    devices, and hears what the sum was one step before, which does not make anybody wait.
    """
    if jax.process_count() == 1:
        return lambda: bool(stopping.asked())
    where = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
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
    where = train_step.places(job.recipe, job.mesh, job.rules)
    target = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        train_step.shapes(job.recipe),
        where,
    )
    if jax.tree.leaves(target.teacher) and not job.checkpoints.has("teacher"):
        # Of an import, or written when the weights of a teacher were constants of the step.
        state = job.checkpoints.restore(dataclasses.replace(target, teacher=()))
        return _with_memory(job.recipe, state, where)
    return job.checkpoints.restore(target)


def _with_memory(recipe: Recipe, state: State, where: State) -> State:
    """The state with the memory of a teacher that begins here, where the rules want it."""

    def placed(x: Any, place: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array):
            return jax.device_put(x, place)
        return jax.make_array_from_callback(x.shape, place, lambda index: np.array(x[index]))

    memory = jax.tree.map(placed, recipe.teacher.init(state.params), where.teacher)
    return dataclasses.replace(state, teacher=memory)


def begin(job: Job, params: Tree) -> None:
    """Saves the state before the first step, with these parameters; `fit` goes on from there.

    Raises:
        UserError: it cannot be written.
    """
    create = creator(job.recipe, job.mesh, rules=job.rules)
    job.checkpoints.save(0, create(params), job.meta, wait=True)


def creator(recipe: Recipe, mesh: Mesh, *, rules: sharding.Rules) -> Callable[..., State]:
    """The function that makes the first state, where the rules want it; of random parameters, or of
    those that it is given.

    Where parameters are split, random ones are made group by group: no device ever has all.
    """
    where = train_step.places(recipe, mesh, rules)
    # The key is data, and so is what a teacher remembers.
    plain = recipe._replace(seed=0, teacher=largest())
    made = functools.partial(train_step.create, plain)
    places = dataclasses.replace(where, teacher=())
    how: Any = {"out_shardings": places, "compiler_options": hardware.runs_once()}
    run = jax.jit(made, **how)
    key = sharding.replicate(mesh, jax.random.key_data(jax.random.key(recipe.seed)))

    def create(params: Tree | None = None) -> State:
        if params is not None or not (sharding.any_split(where.params) and bulk_random.has_parts()):
            return _with_memory(recipe, run(key, params), where)
        params = {
            group.owner: group.program(*group.arguments)
            for group in train_step.starters(recipe, key, where.params)
        }
        state = jax.jit(made, donate_argnums=1, **how)(key, params)
        return _with_memory(recipe, state, where)

    return create
