"""Evolutionary search over the accuracy/cost front, as published with AlphaNet.

Shape letters: `F` archs on the front, `D` decisions.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation.costs import span
from supernet_jax.searching import proposals
from supernet_jax.searching.pareto import front_per_bin
from supernet_jax.searching.proposals import CHUNK, Normal, Propose
from supernet_jax.searching.searcher import (
    Costs,
    Searcher,
    SearchState,
    begin,
    generation_key,
    remember,
)

CROSSOVER_RATE = 0.5  # each decision comes from either parent


def evolution(
    menu: Menu,
    costs: Costs,
    *,
    step: float,
    population: int = 512,
    mutations: int = 128,
    crossovers: int = 128,
    mutation_rate: float = 0.2,
    normal: Normal | None = None,
) -> Searcher:
    """Mutants and crossings of the best arch of each bin of the first cost, by the first score.

    The search of AttentiveNAS (arXiv 2011.09011) and AlphaNet (arXiv 2102.07954), whose defaults
    these are; they ran 20 generations (5,376 archs) from 200 to 1,200 M MACs with bins of 10 M.
    The first generation is the smallest arch and uniform ones. Every later one has `mutations`
    mutants and `crossovers` crossings, their parents drawn uniformly from the bins of all archs
    scored so far, and drawn anew until the child is within the budgets.

    Three things differ from the publication: no network is asked for twice; the smallest arch is
    left out where it is not within the budgets; and where the operators find too few new archs the
    generation is filled up with uniform ones (see `proposals.drawer`).

    Args:
        menu: what may be chosen.
        costs: and their budgets, at least one; those after the first have no bins.
        step: width of a bin, in units of the first cost.
        population: archs of the first generation.
        mutations: mutants of a later generation.
        crossovers: crossings of a later generation.
        mutation_rate: probability with which each decision of a mutant takes another option.
        normal: `archs [N] -> archs [N]`, equal ones for the same network, as `space.normal` of a
            space; None where every arch is another network.

    Raises:
        UserError: for a setting out of range; `init` raises it if no arch meets the budgets.
    """
    _check(step, population, mutations, crossovers, mutation_rate)
    if not costs.of:
        raise UserError("evolution has bins of a cost; give it one, or another searcher")
    region = proposals.Region(menu, costs, normal)
    using = proposals.operators(menu)
    draw = proposals.drawer(region, using)

    def init(key: Array) -> SearchState:
        check, search = jax.random.split(key)
        proposals.require_any(region, using, check)
        return begin(menu, search)

    def first(key: Array, known: np.ndarray) -> np.ndarray:
        smallest = proposals.smallest_row(menu)
        rows = proposals.collect(region, lambda _: smallest, key, 1, known, rounds=1)
        rest = draw(key, population - len(rows), np.concatenate([known, rows]))
        return np.concatenate([rows, rest])

    def later(key: Array, known: np.ndarray, parents: np.ndarray) -> np.ndarray:
        def mutants(key: Array) -> np.ndarray:
            pick, change = jax.random.split(key)
            return using.mutate(change, _drawn(pick, parents), mutation_rate)

        def crossings(key: Array) -> np.ndarray:
            pick, other, mix = jax.random.split(key, 3)
            return using.cross(mix, _drawn(pick, parents), _drawn(other, parents), CROSSOVER_RATE)

        wanted: tuple[tuple[Propose, int], ...] = ((mutants, mutations), (crossings, crossovers))
        *keys, last = jax.random.split(key, 3)
        taken = known
        for (propose, n), k in zip(wanted, keys, strict=True):
            taken = np.concatenate([taken, proposals.collect(region, propose, k, n, taken)])
        missing = len(known) + mutations + crossovers - len(taken)
        return np.concatenate([taken, draw(last, missing, taken)])[len(known) :]

    def ask(state: SearchState) -> tuple[Arch, SearchState]:
        key, told = generation_key(state), state.told
        known = told.archs
        best = front_per_bin(told.scores[:, 0], told.costs[:, 0], step=step) if len(known) else ()
        rows = later(key, known, known[best]) if len(best) else first(key, known)
        return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)

    return Searcher(init, ask, remember)


def _drawn(key: Array, parents: np.ndarray) -> np.ndarray:
    """Uniform parents with replacement, `[CHUNK, D]`."""
    return parents[np.asarray(jax.random.randint(key, (CHUNK,), 0, len(parents)))]


def _check(step: float, population: int, mutations: int, crossovers: int, rate: float) -> None:
    if not step > 0:
        raise UserError(f"step is {step}; the width of a cost bin must be above 0")
    at_least("population", population, 1)
    at_least("mutations", mutations, 0)
    at_least("crossovers", crossovers, 0)
    at_least("mutations + crossovers", mutations + crossovers, 1)
    if not 0 < rate <= 1:
        raise UserError(f"mutation_rate is {rate}; it must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Mutants and crossings of the best subnets of each range of cost, as AlphaNet searches."""

    name: ClassVar[str] = "evolution"
    population: int = 128
    """random subnets to begin with; more leave fewer evaluations to generations"""
    mutations: int = 32
    """mutated subnets per generation; more make fewer, larger generations"""
    crossovers: int = 32
    """crossed subnets per generation; more make fewer, larger generations"""
    mutation_rate: float = 0.2
    """probability that a decision of a mutant changes; more is a wider search"""
    bins: int = 64
    """ranges of cost; the best subnet of each is a parent, so more keep more parents"""

    def __post_init__(self) -> None:
        _check(1.0, self.population, self.mutations, self.crossovers, self.mutation_rate)
        at_least("bins", self.bins, 1)

    def build(self, space: Space, costs: Costs) -> Searcher:
        """The searcher of a space.

        Raises:
            UserError: there is no cost.
        """
        step = 1.0
        if costs.of:
            (lowest, highest), budget = span(space, costs.of[0]), costs.budgets[0]
            low, high = max(budget.low, lowest), min(budget.high, highest)
            step = (high - low) / self.bins if high > low else step
        return evolution(
            space.menu,
            costs,
            step=step,
            population=self.population,
            mutations=self.mutations,
            crossovers=self.crossovers,
            mutation_rate=self.mutation_rate,
            normal=functools.partial(elastic_space.normal, space),
        )
