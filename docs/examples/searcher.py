"""A searcher of one's own: aging evolution, in which the oldest die."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.searching import (
    Costs,
    Searcher,
    SearchState,
    begin,
    generation_key,
    remember,
)

TRIES = 64  # archs drawn at once, of which those within the budgets are asked for
BROOD = 4  # mutants of a generation


def aging(menu: Menu, costs: Costs, *, population: int = 64, tournament: int = 16) -> Searcher:
    """Mutants of the best of a few living archs (Real et al. 2019, arXiv:1802.01548).

    The last `population` archs that were scored are alive. In each generation, `tournament` of them
    are drawn, and up to `BROOD` mutants of the best of these are scored; the paper has one. An arch
    that is good by luck dies, too. At first there are uniform archs.

    Args:
        menu: what may be chosen.
        costs: and their budgets.
        population: archs that are alive.
        tournament: of how many the best is a parent.
    """

    def ask(state: SearchState) -> tuple[Arch, SearchState]:
        key, told = generation_key(state), state.told
        if len(told.scores) < population:
            rows = fitting(lambda key: choices.sample(menu, key, (TRIES,)), key)
        else:
            pick, change = jax.random.split(key)
            alive = np.arange(len(told.scores) - population, len(told.scores))
            some = np.asarray(jax.random.choice(pick, alive, (tournament,), replace=False))
            scores = np.nan_to_num(told.scores[some, 0], nan=-np.inf)  # NaN: it could not be scored
            parent = told.archs[some[np.argmax(scores)]]
            parents = choices.unpack(menu, np.tile(parent, (TRIES, 1)))
            rows = fitting(lambda key: choices.mutate(menu, key, parents, rate=0.2), change)[:BROOD]
        return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)

    def fitting(draw: Callable[[Array], Arch], key: Array) -> np.ndarray:
        """Packed archs within the budgets; none if 100 draws have none, which ends the search."""
        for i in range(100):
            archs = jax.tree.map(np.asarray, draw(jax.random.fold_in(key, i)))
            rows = np.asarray(choices.pack(archs))[costs.allows(costs(archs))]
            if len(rows):
                return rows
        return np.zeros((0, len(jax.tree.leaves(menu))), np.int32)

    return Searcher(lambda key: begin(menu, key), ask, remember)


@dataclasses.dataclass(frozen=True)
class Aging:
    """Mutants of the best of a few living subnets, of which the oldest die."""

    name = "aging"
    population: int = 64
    """subnets that are alive; more forget more slowly"""
    tournament: int = 16
    """of how many the best is a parent; more follow the best sooner"""

    def build(self, space: sj.Space, costs: Costs) -> Searcher:
        """The searcher of a space."""
        return aging(space.menu, costs, population=self.population, tournament=self.tournament)


config = sj.Config(searcher=Aging(population=32))
