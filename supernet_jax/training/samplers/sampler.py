"""The door of samplers.

A `Sampler` names the fixed members of a step, which are concrete and run sliced, and draws the
random ones, which are traced. A role is any name; if the sampler gives none, roles follow from
position: the first fixed member is the "largest" and teaches, further fixed ones are "smallest",
drawn ones are "random".

Shape letters: `M` random members of a step, `D` decisions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.errors import UserError, near, require

SamplerState = Any  # pytree of arrays, saved in the checkpoint
Score = Callable[[Arch], Array]  # mini-batch loss of one arch, without gradient


class CodeScore(Protocol):
    """Mini-batch losses of codes on a second batch, differentiable in the code."""

    def __call__(self, code: Code, *, paths: Arch | None = None) -> Array:
        """The loss of the shared weights as they are.

        Args:
            code: no batch axes.
            paths: archs `[P]`: only what these pick is run; see `elastic.mixed`.
        """
        ...

    def ahead(self, code: Code, *, rate: float) -> Array:
        """The loss of the weights one plain step of gradient descent on the step's own batch from
        here, by the same code (DARTS, arXiv 1806.09055, equation 6).

        Args:
            code: no batch axes.
            rate: of that step.
        """
        ...


class Learn(NamedTuple):
    """How architecture parameters learn, and what they have learned.

    Attributes:
        update: `(state, key, step, score) -> (state, loss)`, traced, before the members of each
            step. The loss is a metric, `loss/codes`. None where they are no state of the sampler
            but shared parameters, which learn with the others; then there is no second batch.
        code: `(state, params) -> code`: how likely each option is.
    """

    update: Callable[[SamplerState, Array, Array, CodeScore], tuple[SamplerState, Array]] | None
    code: Callable[[SamplerState, Tree], Code]


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
        sample: `(state, key, step, score) -> archs [n_random]`, or codes, traced. Static decisions
            of what it returns are replaced by the step's, which are shapes and drawn on the host.
        update: `(state, metrics) -> state`, traced, after the step. Metrics hold the losses of the
            members that trained.
        members: `step -> count`, on the host: only so many members train in a step, fixed ones
            first; None for all of them. Each count is a program of its own.
        reorder: what is done once to the shared weights, or None.
        roles: of all members, the fixed ones first; empty for those that follow from position.
        regularised: roles of the members that get dropout and drop path.
        learn: how its architecture parameters learn; None for a sampler that has none.
    """

    fixed: tuple[Arch, ...]
    n_random: int
    init: Callable[[Array], SamplerState]
    sample: Callable[[SamplerState, Array, Array, Score], Arch]
    update: Callable[[SamplerState, dict[str, Array]], SamplerState]
    members: Callable[[int], int] | None = None
    reorder: Reorder | None = None
    roles: tuple[str, ...] = ()
    regularised: tuple[str, ...] = ("largest",)
    learn: Learn | None = None


def draws_codes(sampler: Sampler) -> bool:
    """Whether its random members are codes."""
    if sampler.n_random == 0:
        return False

    def drawn() -> Arch | Code:
        key = jax.random.key(0)
        return sampler.sample(sampler.init(key), key, jnp.int32(0), lambda arch: jnp.zeros(()))

    return choices.is_code(jax.eval_shape(drawn))


def learns_apart(sampler: Sampler) -> bool:
    """Whether it has architecture parameters that learn on a second batch."""
    return sampler.learn is not None and sampler.learn.update is not None


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
    """Role of each member, fixed ones first."""
    if sampler.roles:
        return sampler.roles
    fixed = ("largest", *("smallest",) * (len(sampler.fixed) - 1))[: len(sampler.fixed)]
    return (*fixed, *("random",) * sampler.n_random)


def names(sampler: Sampler) -> tuple[str, ...]:
    """What metrics call each member, fixed ones first: `loss/NAME`.

    It is the role. Random members, and others whose role several have, are numbered from 1.
    """
    every = roles(sampler)
    found = []
    for i, role in enumerate(every):
        alone = every.count(role) == 1 or role in ("largest", "smallest")
        number = every[: i + 1].count(role)
        found.append(role if alone and role != "random" else f"{role}_{number}")
    return tuple(found)


def metric_names(sampler: Sampler, count: int, metric: str) -> tuple[str, ...]:
    """The metrics of the first members of a step.

    All have a loss, and all but those in the role "random" the task's metric on the batch.

    Args:
        sampler: whose members.
        count: how many train.
        metric: its name.
    """
    each = zip(roles(sampler)[:count], names(sampler), strict=False)
    return tuple(
        f"{what}/{name}"
        for role, name in each
        for what in (("loss",) if role == "random" else ("loss", metric))
    )


def check(sampler: Sampler) -> None:
    """Makes sure that a sampler's roles name its members.

    Raises:
        UserError: there is not one for each, one is no name, two members would have one name in
            metrics, or a role that is regularised is nobody's.
    """
    given, members = sampler.roles, len(sampler.fixed) + sampler.n_random
    if given and len(given) != members:
        raise UserError(
            f"the sampler has {members} members and roles {', '.join(given)}; name one for each "
            "member, the fixed ones first, or none"
        )
    for role in given:
        require(
            isinstance(role, str) and role.replace("-", "_").isidentifier(),
            f"a role of the sampler is {role!r}; a role is a word of letters, digits, - and _",
        )
    called = names(sampler)
    twice = [name for name in called if given and called.count(name) > 1]
    require(not twice, f"two members of the sampler are called {twice[:1]}; rename one's role")
    known = roles(sampler)
    for role in sampler.regularised:
        require(
            role in known or role == "largest",  # which not every sampler has
            f"the sampler regularises {role!r}, but its members are {', '.join(sorted(set(known)))}"
            f"{near(role, known)}",
        )


def require_members(n_random: int, low: int) -> None:
    """Raises a `UserError` unless there are so many random members."""
    require(n_random >= low, f"sampler.n-random is {n_random}, must be {low} or more")


def require_share(name: str, value: float) -> None:
    """Raises a `UserError` unless a setting is a share."""
    require(0 <= value <= 1, f"sampler.{name} is {value}, must be from 0 to 1")
