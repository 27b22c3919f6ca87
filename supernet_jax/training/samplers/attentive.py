"""Attention to the Pareto front: the best or the worst of a few candidates that cost alike."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.evaluation.costs import Cost
from supernet_jax.training.samplers import macs_table, sampler
from supernet_jax.training.samplers.macs_table import Bins
from supernet_jax.training.samplers.sampler import Sampler, Score, stateless


def attentive(
    menu: Menu,
    *,
    bins: Bins,
    macs: Cost,
    n_random: int = 2,
    trials: int = 3,
    best: bool = True,
    rank: Callable[[Arch], Array] | None = None,
) -> Sampler:
    """Best-up and worst-up sampling (AttentiveNAS, arXiv 2011.09011, section 3), in a sandwich.

    For each random member a target is drawn from how MACs are distributed over the space, then
    `trials` archs of that bin; of these the one with the lowest mini-batch loss trains (best-up) or
    the one with the highest (worst-up). Scoring is a forward pass per candidate.

    Args:
        menu: what may be chosen.
        bins: of the space's table.
        macs: `macs_table.reference_macs` of the space.
        n_random: members drawn per step.
        trials: k, candidates for each.
        best: best-up; otherwise worst-up.
        rank: `arch -> scalar`, lower is better: a predictor in place of the mini-batch loss.
    """

    def sample(key: Array, step: Array, score: Score) -> Arch:
        target_key, arch_key = jax.random.split(key)
        targets = jax.random.categorical(target_key, jnp.asarray(bins.logits), shape=(n_random,))
        keys = jax.random.split(arch_key, (n_random, trials))
        some = jax.vmap(jax.vmap(lambda k, b: macs_table.draw(bins, menu, macs, k, b), (0, None)))
        archs = some(keys, targets)  # [M, trials]
        if trials == 1:
            return jax.tree.map(lambda leaf: leaf[:, 0], archs)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1), archs)
        scores = jax.lax.map(score if rank is None else rank, flat).reshape(n_random, trials)
        chosen = _best(scores if best else -scores)
        return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, chosen, axis=1)[:, 0], archs)

    return stateless((choices.largest(menu), choices.smallest(menu)), n_random, sample)


def _best(scores: Array) -> Array:
    """The place of each row's lowest score, `[M, 1]`; what is not a number is never it."""
    return jnp.argmin(jnp.where(jnp.isnan(scores), jnp.inf, scores), axis=1)[:, None]


@dataclasses.dataclass(frozen=True)
class Attentive:
    """Best-up or worst-up of a few subnets of equal MACs (AttentiveNAS), in a sandwich."""

    n_random: int = 2
    """random subnets per step; more take longer"""
    trials: int = 3
    """candidates for each random subnet, scored on the batch; more take longer"""
    choose: Literal["best", "worst"] = "best"
    """which of the candidates trains"""
    table: str | None = dataclasses.field(default=None, metadata={"path": True})
    """file of `supernet table`; if not given, a table of 20,000 archs is made at the start"""
    bins: int = 40
    """ranges of MACs of the table that is made at the start; more are narrower"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        sampler.require_members(self.n_random, 1)
        require(self.trials >= 1, f"sampler.trials is {self.trials}, must be 1 or more")
        return attentive(
            menu,
            bins=macs_table.read_or_build(self.table, self.bins, space),
            macs=macs_table.reference_macs(space),
            n_random=self.n_random,
            trials=self.trials,
            best=self.choose == "best",
        )
