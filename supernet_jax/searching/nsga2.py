"""NSGA-II: evolution towards a whole front of any number of objectives.

Shape letters: `N` archs, `D` decisions, `O` objectives, `P` archs of the population.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import at_least
from supernet_jax.searching import pareto, proposals
from supernet_jax.searching.proposals import CHUNK, Normal
from supernet_jax.searching.searcher import Costs, History, Searcher, extend, no_history

CROSSED = 0.9  # share of the children that have two parents
SPREAD_CROSSED = 15.0  # of simulated binary crossover; the higher, the nearer to the parents
SPREAD_MUTATED = 20.0  # of polynomial mutation; the higher, the smaller its steps
FEW_ROUNDS = 2  # batches of children that are proposed where nothing fills a generation up


class Nsga2State(NamedTuple):
    """What NSGA-II remembers.

    Attributes:
        key: of the whole search; a generation draws from `fold_in(key, generation)`.
        generation: how often it was asked.
        told: all archs told of.
        alive: int32 `[P]`, where in `told` the population stands.
    """

    key: Array
    generation: int
    told: History
    alive: np.ndarray


def nsga2(
    menu: Menu,
    costs: Costs,
    *,
    population: int = 64,
    normal: Normal | None = None,
    fills: bool = True,
) -> Searcher:
    """Children of a population that is spread over the front.

    Deb et al. 2002 (doi 10.1109/4235.996017): of parents and children together those of the lowest
    rank survive, of equal rank those farther from their neighbours; parents win tournaments of two
    by the same order. Who is beyond a budget, as one told of from an earlier search may be, is
    beaten by all who are not, and by those who are less so (section VI, constrained domination).
    Children come of simulated binary crossover and polynomial mutation of option numbers, both
    rounded, since the options of a decision are in order; a mutation is at least one option far.

    Two things differ from the publication: children are drawn anew until they are within the
    budgets and no network that was scored; where no more are found, uniform archs fill up.

    Args:
        menu: what may be chosen.
        costs: and their budgets and aims.
        population: archs that are alive, and children of a generation, at least 2.
        normal: `archs [N] -> archs [N]`, equal ones for the same network, as `space.normal` of a
            space; None where every arch is another network.
        fills: whether a generation of too few new children is filled up with uniform archs; without
            them the search ends where it has converged.

    Raises:
        UserError: for a population below 2; `init` raises it if no arch meets the budgets.
    """
    at_least("population", population, 2)
    region = proposals.Region(menu, costs, normal)
    using = proposals.operators(menu)
    draw = proposals.drawer(region, using)
    last = np.array([len(choice) - 1 for choice in jax.tree.leaves(menu)])

    def init(key: Array) -> Nsga2State:
        check, search = jax.random.split(key)
        proposals.require_any(region, using, check)
        return Nsga2State(search, 0, no_history(len(last)), np.zeros(0, np.int32))

    def ask(state: Nsga2State) -> tuple[Arch, Nsga2State]:
        key, known = jax.random.fold_in(state.key, state.generation), state.told.archs
        rows = np.zeros((0, len(last)), np.int32)
        if len(state.alive):
            breed, key = jax.random.split(key)
            parents, order = known[state.alive], _order(costs, state.told, state.alive)
            propose = functools.partial(_children, parents=parents, order=order, last=last)
            rounds = proposals.ROUNDS if fills else FEW_ROUNDS
            rows = proposals.collect(region, propose, breed, population, known, rounds=rounds)
            if not fills:
                return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)
        taken = np.concatenate([known, rows])
        rows = np.concatenate([rows, draw(key, population - len(rows), taken)])
        return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)

    def tell(state: Nsga2State, archs: Arch, scores: np.ndarray, spent: np.ndarray) -> Nsga2State:
        told = extend(state.told, archs, scores, spent)
        new = np.arange(len(state.told.scores), len(told.scores), dtype=np.int32)
        both = np.concatenate([state.alive, new])
        best = np.argsort(_order(costs, told, both), kind="stable")[:population]
        return state._replace(told=told, alive=both[best])

    return Searcher(init, ask, tell)


def survivors(objectives: np.ndarray, excess: np.ndarray, n: int) -> np.ndarray:
    """Who survives, the best first: positions, int `[<= n]`.

    Args:
        objectives: `[N, O]`, to be large; who has a NaN survives last.
        excess: `[N]`, how far each is beyond the budgets; 0 within.
        n: how many.
    """
    return np.argsort(_places(objectives, excess), kind="stable")[:n]


def _order(costs: Costs, told: History, some: np.ndarray) -> np.ndarray:
    """The place of some archs told of among each other, 0 for the best: int `[P]`."""
    objectives = costs.objectives(told.scores[some], told.costs[some])
    return _places(objectives, costs.excess(told.costs[some]))


def _places(objectives: np.ndarray, excess: np.ndarray) -> np.ndarray:
    broken = np.any(np.isnan(objectives), axis=1) | np.isnan(excess)
    beyond = np.where(broken, np.inf, excess)
    inside = np.flatnonzero(beyond == 0)
    rank, apart = np.zeros(len(beyond)), np.zeros(len(beyond))
    rank[inside] = pareto.ranks(objectives[inside])
    for level in np.unique(rank[inside]):
        some = inside[rank[inside] == level]
        apart[some] = _crowding(objectives[some])
    places = np.empty(len(beyond), int)
    places[np.lexsort((-apart, rank, beyond))] = np.arange(len(beyond))
    return places


def _crowding(objectives: np.ndarray) -> np.ndarray:
    """Distance between the two neighbours, in shares of the range, summed over objectives; infinite
    at the ends (section III-B): `[N]`. What is infinite counts as the next finite value.
    """
    apart = np.zeros(len(objectives))
    for column in objectives.T:
        order = np.argsort(column, kind="stable")
        apart[order[[0, -1]]] = np.inf
        finite = column[np.isfinite(column)]
        span = np.ptp(finite) if len(finite) else 0.0
        if span > 0:
            column = np.clip(column, finite.min(), finite.max())
            apart[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return apart


def _children(key: Array, parents: np.ndarray, order: np.ndarray, last: np.ndarray) -> np.ndarray:
    """`CHUNK` children of a population, int32 `[CHUNK, D]`."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    pairs = rng.integers(len(parents), size=(2, CHUNK, 2))
    first, second = parents[np.take_along_axis(pairs, order[pairs].argmin(2)[..., None], 2)[..., 0]]
    # Simulated binary crossover: children stand around the parents' mean as the parents do.
    u = rng.random(first.shape)
    power = 1 / (SPREAD_CROSSED + 1)
    beta = np.where(u < 0.5, (2 * u) ** power, (0.5 / (1 - u)) ** power)
    beta *= rng.choice([-1, 1], first.shape)  # the child near the second parent as often
    crossed = ((1 + beta) * first + (1 - beta) * second) / 2
    both = (rng.random((CHUNK, 1)) < CROSSED) & (rng.random(first.shape) < 0.5)
    rows = np.where(both, crossed, first)
    # Polynomial mutation of one decision on average, where there is another option.
    u = rng.random(first.shape)
    step = np.where(
        u < 0.5,
        (2 * u) ** (1 / (SPREAD_MUTATED + 1)) - 1,
        1 - (2 * (1 - u)) ** (1 / (SPREAD_MUTATED + 1)),
    )
    rows = np.clip(np.rint(rows), 0, last)
    moved = np.sign(step) * np.maximum(np.rint(np.abs(step) * last), 1)
    moved = np.where((rows + moved < 0) | (rows + moved > last), -moved, moved)
    free = max(1, int(np.sum(last > 0)))
    mutated = np.clip(rows + moved, 0, last)
    here = rng.random(first.shape) < 1 / free
    return np.where(here, mutated, rows).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Nsga2:
    """Children of a population that is spread over the front of all objectives."""

    name: ClassVar[str] = "nsga2"
    population: int = 64
    """subnets that are alive, and scored per generation; more cover the front more densely"""

    def __post_init__(self) -> None:
        at_least("population", self.population, 2)

    def build(self, space: Space, costs: Costs) -> Searcher:
        """The searcher of a space."""
        normal = functools.partial(elastic_space.normal, space)
        return nsga2(space.menu, costs, population=self.population, normal=normal)
