"""The random archs of steps as the host knows them, of this step and of those to come."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.tasks.task import Size
from supernet_jax.training import members
from supernet_jax.training.recipe import Recipe, State


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where training stands: what decides all that is random in a step."""

    step: int
    rollbacks: int
    key: np.ndarray


class Clock:
    """Where training stands, without waiting for the device after each step."""

    def __init__(self) -> None:
        self._seen: Array | None = None
        self._moment: Moment | None = None

    def read(self, state: State) -> Moment:
        """Of a state; quick if it is the one of the last `tick`."""
        if self._moment is None or state.step is not self._seen:
            key = np.asarray(state.key)
            self._moment = Moment(int(state.step), int(state.rollbacks), key)
            self._seen = state.step
        return self._moment

    def tick(self, state: State) -> None:
        """Notes that this is the state one step later."""
        assert self._moment is not None
        self._moment = dataclasses.replace(self._moment, step=self._moment.step + 1)
        self._seen = state.step


class KnownArchs:
    """Draws random archs on the host.

    Args:
        recipe: what is trained.

    Attributes:
        possible: whether it can: the sampler keeps no state, and scores no candidates.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.possible = _depend_on_the_step_alone(recipe)
        self._draw = jax.jit(functools.partial(_drawn, recipe), static_argnames="sizes")

    def of(self, moment: Moment, sizes: tuple[Size, ...]) -> Arch:
        """Those of a step, NumPy `[M]` or `[M, G]`.

        Args:
            moment: which step.
            sizes: of its random members.
        """
        where = jax.local_devices(backend="cpu")[0]  # there it waits for no step
        with jax.default_device(where):
            counters = np.int32(moment.step), np.int32(moment.rollbacks)
            archs = self._draw(moment.key, *counters, sizes=sizes)
        return jax.device_get(archs)


def _drawn(
    recipe: Recipe, key: Array, step: Array, rollbacks: Array, *, sizes: tuple[Size, ...]
) -> Arch:
    _, archs_key, _ = members.step_keys(jax.random.wrap_key_data(key), step, rollbacks)
    return members.drawn(recipe, (), archs_key, step, sizes, _no_score)


def _no_score(arch: Arch) -> Array:
    raise _Scores


class _Scores(Exception):
    """A sampler wants to know how good an arch is."""


def _depend_on_the_step_alone(recipe: Recipe) -> bool:
    """Whether a step's archs follow from the run's key and the step."""
    sampler, space = recipe.sampler, recipe.space
    if sampler.n_random == 0:
        return True
    state = jax.eval_shape(sampler.init, jax.eval_shape(jax.random.key, 0))
    if jax.tree.leaves(state):
        return False
    sizes = (space.sizes[0],) * sampler.n_random
    key: Any = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    counter = jax.ShapeDtypeStruct((), np.int32)
    try:
        jax.eval_shape(functools.partial(_drawn, recipe, sizes=sizes), key, counter, counter)
    except _Scores:
        return False
    return True
