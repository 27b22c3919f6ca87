"""The state after a slow step, on the host, for a process that has to stop within the next one."""

import os
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.training.job import Job
from supernet_jax.training.recipe import Metrics, State

SLOW_SECONDS = 0.5  # a step that takes longer is waited for before the next is begun
COPY_SECONDS = 2.0  # a step that takes longer leaves a copy of the state


class StateCopy:
    """The state after the last step, on the host, where steps take so long that a signal to stop
    cannot wait for the next. The arrays of the state itself are given away to that step.

    Attributes:
        saving: held while somebody saves.
    """

    def __init__(self, job: Job):
        self.saving = threading.Lock()
        self._job = job
        self._taken: tuple[int, State] | None = None
        self._metrics: Metrics = {}  # of the step before
        self._seconds, self._settled = 0.0, time.monotonic()

    def after_step(self, step: int, state: State, metrics: Metrics) -> None:
        """Copies the state if steps are slow, and forgets the copy of an earlier one if not."""
        # Several processes would have to agree on when to use a copy.
        if self._settle(metrics) > COPY_SECONDS and jax.process_count() == 1:
            self._taken = step, jax.tree.map(_copied, state)
        else:
            self.drop()

    def _settle(self, metrics: Metrics) -> float:
        """Waits until no more than one step is under way, and none if they are slow: what was
        given to the device cannot be taken back when a signal asks to stop. Returns what a step
        takes, in seconds.
        """
        jax.block_until_ready(metrics if self._seconds > SLOW_SECONDS else self._metrics)
        now = time.monotonic()
        self._metrics, self._seconds, self._settled = metrics, now - self._settled, now
        return self._seconds

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


def _copied(leaf: Any) -> Any:
    """An array on the host; a key of random numbers, as samplers may hold, has no other form."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.array(leaf, copy=True)
    words = jnp.array(jax.random.key_data(leaf), copy=True)
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
