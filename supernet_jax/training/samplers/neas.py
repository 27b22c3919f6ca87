"""Ensembles beside their members, and options that leave as training goes on (NEAS).

Shape letters: `E` ensembles of a step, `K` members of an ensemble, `D` decisions of a member, `O`
options of the decision that has most, `C` numbers that a network puts out.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, ensembles
from supernet_jax.elastic.choices import Arch, Array, Code, Menu
from supernet_jax.elastic.ensembles import MEMBERS, SPLIT
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.training.samplers import sampler
from supernet_jax.training.samplers.sampler import Learn, Sampler, Score


def diversity(logits: Array) -> Array:
    """How far the members of an ensemble are from it: the mean over members of KL(p || p_k).

    p_k is the softmax of a member's logits and p that of their mean, which is the ensemble. For any
    labels it is what the ensemble's cross-entropy lies below the mean of its members', exactly
    (Heskes, Selecting Weighting Factors in Logarithmic Opinion Pools, NIPS 1997): 0 for members
    that are equal, never negative.

    Args:
        logits: `[K, ..., C]`.

    Returns:
        `[...]`, in nats.
    """
    one = jax.nn.log_softmax(logits)
    whole = jax.nn.log_softmax(jnp.mean(logits, axis=0, keepdims=True))
    return jnp.mean(jnp.sum(jnp.exp(whole) * (whole - one), axis=-1), axis=0)


class NeasState(NamedTuple):
    """What is known of the options.

    Attributes:
        key: of the ensembles that are drawn.
        taken: int32 `[]`, steps taken.
        open: bool `[D, O]`, which options remain.
        losses: float32 `[D, O]`, sum of the mean losses of members, over the ensembles since the
            last option left in which a member has the option.
        diversities: the same of their diversities.
        seen: how many these are.
    """

    key: Array
    taken: Array
    open: Array
    losses: Array
    diversities: Array
    seen: Array


def neas(
    space: Space,
    *,
    n_random: int = 1,
    drops: int = 0,
    start: int = 0,
    every: int = 1,
    keep: int = 2,
    weight: float = 1.0,
) -> Sampler:
    """Diversity-guided shrinking of a space of ensembles (NEAS, arXiv 2104.00597).

    A step trains `n_random` uniform ensembles, and each of their members alone, on hard labels. The
    score of an option is the mean over the ensembles in which a member has it of

        -(mean loss of the members alone) + weight * (diversity of the ensemble),

    where the diversity is the mean loss of the members less that of the ensemble; see `diversity`.
    With weight 1 that is minus the loss of the ensemble. The options that are farthest below the
    best one of their decision leave, and are drawn no more. All members have one set of options, as
    they are subnets of one supernet.

    That the potential and the diversity of options decide is the paper's; this score, for which no
    further pass through a network is needed, is ours.

    Args:
        space: of ensembles with shared weights, with an arch in which all blocks are shared.
        n_random: E, ensembles per step; each is 1 + K subnets.
        drops: how many options leave in all, one at a time.
        start: the first step after which one leaves.
        every: steps between two of them.
        keep: options that each decision keeps at least.
        weight: of the diversity.
    """
    about, menu = ensembles.parts(space), space.menu
    k, d, most = about.members, len(about.paths), int(about.options.max())
    ensembles.alone(space, choices.smallest(menu), 1)  # raises, where there is no such arch
    places = np.flatnonzero(about.splits < about.blocks)  # of splits behind which there is more
    require(len(places) > 0, f"members of the space {space.name} never part; give it more splits")
    there = np.arange(most) < about.options[:, None]

    def init(key: Array) -> NeasState:
        zeros = jnp.zeros((d, most))
        return NeasState(key, jnp.int32(0), jnp.asarray(there), zeros, zeros, zeros)

    def drawn(state: NeasState) -> Arch:
        """The ensembles of the step, `[E]`; `update` draws the same again, for it is not told."""
        rows, split = jax.random.split(jax.random.fold_in(state.key, state.taken))
        logits = jnp.where(state.open, 0.0, -jnp.inf)
        packed = jax.random.categorical(rows, logits, shape=(n_random, k, d)).astype(jnp.int32)
        which = jax.random.randint(split, (n_random,), 0, len(places))
        archs = jax.tree.map(lambda _: jnp.zeros((n_random,), jnp.int32), menu)
        for member in range(k):
            for i, path in enumerate(about.paths):
                archs = choices.replace(archs, (MEMBERS, member, *path), packed[:, member, i])
        return choices.replace(archs, (SPLIT,), jnp.asarray(places, jnp.int32)[which])

    def sample(state: NeasState, key: Array, step: Array, score: Score) -> Arch:
        whole = drawn(state)
        each = [whole, *(ensembles.alone(space, whole, i + 1) for i in range(k))]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)

    def update(state: NeasState, metrics: dict[str, Array]) -> NeasState:
        wanted = [f"loss/{name}" for name in sampler.names(made)]
        if not set(wanted) <= set(metrics):  # of a step without them
            return state._replace(taken=state.taken + 1)
        rows = jnp.stack([metrics[name] for name in wanted]).reshape(1 + k, n_random)
        loss, alone = rows[0], jnp.mean(rows[1:], axis=0)
        picked = ensembles.decisions(space, drawn(state))  # [E, K, D]
        used = jnp.any(jax.nn.one_hot(picked, most, dtype=bool), axis=1)  # [E, D, O]
        state = state._replace(
            taken=state.taken + 1,
            losses=state.losses + jnp.einsum("e,edo->do", alone, used),
            diversities=state.diversities + jnp.einsum("e,edo->do", alone - loss, used),
            seen=state.seen + jnp.sum(used, axis=0),
        )
        since = state.taken - start
        leaves = (drops > 0) & (since >= 0) & (since % every == 0) & (since // every < drops)
        shrink = lambda s: _shrunk(s, keep=keep, weight=weight)  # noqa: E731
        return jax.lax.cond(leaves, shrink, lambda s: s, state)

    made = Sampler(
        (),
        n_random * (1 + k),
        init,
        sample,
        update,
        roles=("ensemble",) * n_random + ("alone",) * (n_random * k),
        regularised=(),
        learn=Learn(None, lambda state, params: _code(space, state)),
    )
    return made


def option_scores(state: NeasState, *, weight: float) -> Array:
    """The scores of options, `[D, O]`, higher is better; NaN where none was seen."""
    return (weight * state.diversities - state.losses) / jnp.where(state.seen, state.seen, jnp.nan)


def _shrunk(state: NeasState, *, keep: int, weight: float) -> NeasState:
    """The state without the option farthest below the best one of its decision; sums begin anew."""
    scores = jnp.where(state.open, option_scores(state, weight=weight), jnp.nan)
    behind = jnp.nanmax(scores, axis=1, keepdims=True) - scores
    may = (jnp.sum(state.open, axis=1, keepdims=True) > keep) & (behind > 0)  # and no NaN
    worst = jnp.argmax(jnp.where(may, behind, -1.0))
    left = state.open.at[jnp.unravel_index(worst, scores.shape)].set(False)
    zeros = jnp.zeros_like(state.losses)
    return state._replace(
        open=jnp.where(jnp.any(may), left, state.open), losses=zeros, diversities=zeros, seen=zeros
    )


def _code(space: Space, state: NeasState) -> Code:
    """Each option that remains is equally likely."""
    about, menu = ensembles.parts(space), space.menu
    code = jax.tree.map(lambda choice: jnp.full((len(choice),), 1 / len(choice)), menu)
    for i, path in enumerate(about.paths):
        remain = state.open[i, : about.options[i]].astype(jnp.float32)
        for member in range(about.members):
            likely = remain / jnp.sum(remain)
            code = choices.replace(code, (MEMBERS, member, *path), likely)
    return code


@dataclasses.dataclass(frozen=True)
class Neas:
    """Ensembles and their members alone; options that make neither good nor diverse ones leave."""

    n_random: int = 1
    """ensembles per step, each with its members alone; more take longer"""
    drops: int = 0
    """options that leave in all, one at a time; 0 keeps the space whole"""
    start: float = 0.3
    """share of the run's steps after which the first option leaves"""
    end: float = 0.8
    """share of the run's steps after which the last option has left"""
    keep: int = 2
    """options that each decision keeps at least; with 1, members may become equal there"""
    weight: float = 1.0
    """of the diversity of ensembles beside the loss of their members; more keeps options that are
    worse but different"""

    def build(self, *, menu: Menu, space: Space, steps: int) -> Sampler:
        """The sampler for a space of ensembles and a run of so many steps."""
        sampler.require_members(self.n_random, 1)
        sampler.require_share("start", self.start)
        sampler.require_share("end", self.end)
        for name, value, low in (("drops", self.drops, 0), ("keep", self.keep, 1)):
            require(value >= low, f"sampler.{name} is {value}, must be {low} or more")
        require(self.weight >= 0, f"sampler.weight is {self.weight}, must be 0 or more")
        require(
            self.start <= self.end,
            f"sampler.start is {self.start} and sampler.end {self.end}; the start comes first",
        )
        most = int(sum(max(0, n - self.keep) for n in ensembles.parts(space).options))
        require(
            self.drops <= most,
            f"sampler.drops is {self.drops}, but with {self.keep} options kept in each decision at "
            f"most {most} can leave",
        )
        start = max(1, round(steps * self.start))
        every = max(1, round(steps * (self.end - self.start) / max(1, self.drops - 1)))
        return neas(
            space,
            n_random=self.n_random,
            drops=self.drops,
            start=start,
            every=every,
            keep=self.keep,
            weight=self.weight,
        )
