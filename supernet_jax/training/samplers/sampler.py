"""The door of samplers.

A `Sampler` names the fixed members of a step, which are concrete and run sliced, and draws the
random ones, which are traced. Roles follow from position: the first fixed member is the "largest"
and teaches, further fixed ones are "smallest", drawn ones are "random".

Shape letters: `M` random members of a step, `D` decisions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.errors import require

SamplerState = Any  # pytree of arrays, saved in the checkpoint
Score = Callable[[Arch], Array]  # mini-batch loss of one arch, without gradient


class Reorder(NamedTuple):
    """Shared channels are put into another order, once.

    Attributes:
        step: before which.
        orders: `params -> orders`, traced; see `channel_order`.
    """

    step: int
    orders: Callable[[Tree], Any]


class Sampler(NamedTuple):
    """A way to draw the members of a step.

    Attributes:
        fixed: concrete archs that train in every step, the largest first.
        n_random: number of archs drawn per step.
        init: `key -> state`.
        sample: `(state, key, step, score) -> archs [n_random]`, traced. Static decisions
            of what it returns are replaced by the step's, which are shapes and drawn on the host.
        update: `(state, metrics) -> state`, traced, after the step. Metrics hold the losses of the
            members that trained.
        members: `step -> count`, on the host: only so many members train in a step, fixed ones
            first; None for all of them. Each count is a program of its own.
        reorder: what is done once to the shared weights, or None.
    """

    fixed: tuple[Arch, ...]
    n_random: int
    init: Callable[[Array], SamplerState]
    sample: Callable[[SamplerState, Array, Array, Score], Arch]
    update: Callable[[SamplerState, dict[str, Array]], SamplerState]
    members: Callable[[int], int] | None = None
    reorder: Reorder | None = None


def stateless(
    fixed: tuple[Arch, ...], n_random: int, sample: Callable[[Array, Array, Score], Arch]
) -> Sampler:
    """A sampler that remembers nothing; `sample` is `(key, step, score) -> archs [n_random]`."""
    return Sampler(
        fixed,
        n_random,
        init=lambda key: (),
        sample=lambda state, key, step, score: sample(key, step, score),
        update=lambda state, metrics: state,
    )


def active(sampler: Sampler, step: int) -> int:
    """Number of members that train in a step."""
    if sampler.members is None:
        return len(sampler.fixed) + sampler.n_random
    return sampler.members(step)


def roles(sampler: Sampler) -> tuple[str, ...]:
    """Role of each fixed member."""
    return tuple("largest" if i == 0 else "smallest" for i in range(len(sampler.fixed)))


def require_members(n_random: int, low: int) -> None:
    """Raises a `UserError` unless there are so many random members."""
    require(n_random >= low, f"sampler.n-random is {n_random}, must be {low} or more")


def require_share(name: str, value: float) -> None:
    """Raises a `UserError` unless a setting is a share."""
    require(0 <= value <= 1, f"sampler.{name} is {value}, must be from 0 to 1")
