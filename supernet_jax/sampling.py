"""Which subnets train in a step.

A `Sampler` names the fixed members of a step, which are concrete and run sliced, and draws the
random ones, which are traced. Roles follow from position: the first fixed member is the "largest"
and teaches, further fixed ones are "smallest", drawn ones are "random".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from supernet_jax import choices
from supernet_jax.choices import Arch, Array, Menu

SamplerState = Any  # pytree of arrays, saved in the checkpoint
Score = Callable[[Arch], Array]  # mini-batch loss of one arch, without gradient


class Sampler(NamedTuple):
    """A way to draw the members of a step.

    Attributes:
        fixed: concrete archs that train in every step, the largest first.
        n_random: number of archs drawn per step.
        init: `key -> state`.
        sample: `(state, key, step, score) -> archs [n_random]`, traced. The resolution of what it
            returns is replaced by the step's, which is a shape and drawn on the host.
        update: `(state, metrics) -> state`, traced, after the step.
    """

    fixed: tuple[Arch, ...]
    n_random: int
    init: Callable[[Array], SamplerState]
    sample: Callable[[SamplerState, Array, Array, Score], Arch]
    update: Callable[[SamplerState, dict[str, Array]], SamplerState]


def sandwich(menu: Menu, *, n_random: int = 2) -> Sampler:
    """The sandwich rule: the largest, the smallest and `n_random` uniform subnets.

    BigNAS (arXiv 2003.11142), section 3.1; AlphaNet trains with 2 random members.
    """
    return _uniform(menu, (choices.largest(menu), choices.smallest(menu)), n_random)


def uniform(menu: Menu, *, n_random: int = 1) -> Sampler:
    """Uniform single-path sampling (SPOS, arXiv 1904.00420): no fixed member, hence no teacher."""
    return _uniform(menu, (), n_random)


def _uniform(menu: Menu, fixed: tuple[Arch, ...], n_random: int) -> Sampler:
    def init(key: Array) -> SamplerState:
        return ()

    def sample(state: SamplerState, key: Array, step: Array, score: Score) -> Arch:
        return choices.sample(menu, key, (n_random,))

    def update(state: SamplerState, metrics: dict[str, Array]) -> SamplerState:
        return state

    return Sampler(fixed, n_random, init, sample, update)


def roles(sampler: Sampler) -> tuple[str, ...]:
    """Role of each fixed member."""
    return tuple("largest" if i == 0 else "smallest" for i in range(len(sampler.fixed)))
