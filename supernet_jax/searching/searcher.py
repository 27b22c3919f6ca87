"""The door of every search algorithm: ask for archs, tell what they scored.

A `Searcher` is three pure functions over an explicit state, so a search can be saved after any
`tell` and goes on from there exactly. The algorithms of this package keep the same state, a
`SearchState`; one of your own may keep any pytree of arrays, numbers and `jax.random.key`s.

An arch is judged by *scores*, which somebody has to measure, and by *costs*, which are known of
every arch at once. A search looks for archs that no other beats, among those within the budgets.

Shape letters: `N` archs, `D` decisions, `S` scores, `C` costs, `O` objectives.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs import Cost


class Searcher(NamedTuple):
    """A search algorithm.

    Attributes:
        init: `key -> state`. The structure of what it returns is that of every later state; the
            arrays in it may grow. May raise `UserError` for a budget that nothing meets.
        ask: `state -> (archs [N], state)`, archs to score, NumPy. N may differ from call to call;
            none (N = 0) says that the search is over. The same state always gives the same archs.
        tell: `(state, archs [N], scores [N, S], costs [N, C]) -> state`, with the archs and the
            state that `ask` returned. Scores are maximised.
    """

    init: Callable[[Array], Any]
    ask: Callable[[Any], tuple[Arch, Any]]
    tell: Callable[[Any, Arch, np.ndarray, np.ndarray], Any]


class History(NamedTuple):
    """Every arch that was scored, in the order of scoring.

    Attributes:
        archs: int32 `[N, D]`, as `choices.pack` lays them out; `choices.unpack` makes archs of it.
        scores: float64 `[N, S]`, the higher the better; NaN for what could not be measured.
        costs: float64 `[N, C]`, in the units of the search's costs.
    """

    archs: np.ndarray
    scores: np.ndarray
    costs: np.ndarray


class SearchState(NamedTuple):
    """What a searcher remembers that needs no more than its history.

    Attributes:
        key: of the whole search; a generation draws from `fold_in(key, generation)`.
        generation: how often it was asked.
        told: all archs told of.
    """

    key: Array
    generation: int
    told: History


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an arch may cost, both ends included.

    Attributes:
        low: the least, `-inf` for no bound.
        high: the most, `inf` for no bound.
        unit: what the cost counts, as "MACs"; only messages use it.
    """

    low: float
    high: float
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise UserError(
                f"the budget goes from {self.low} to {self.high}; it needs two numbers, the lower "
                "one first"
            )

    def __str__(self) -> str:
        low, high = f"{self.low:,.15g}", f"{self.high:,.15g}"
        if self.low == -math.inf:
            said = "any number of" if self.high == math.inf else f"at most {high}"
        else:
            said = f"at least {low}" if self.high == math.inf else f"{low} to {high}"
        return f"{said} {self.unit}".rstrip()

    def excess(self, costs: np.ndarray) -> np.ndarray:
        """How far costs lie outside: 0 within the budget, NaN for a NaN and for an infinite cost
        where nothing bounds it; float64 `[...]`.
        """
        costs = np.asarray(costs, np.float64)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            return np.maximum(np.maximum(self.low - costs, costs - self.high), 0.0)

    def allows(self, costs: np.ndarray) -> np.ndarray:
        """Which costs are within the budget; bool `[...]`, False for a NaN and an infinity."""
        return self.excess(costs) == 0


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """What archs cost, what they may cost, and which costs are to be small.

    Attributes:
        of: the costs, `archs [N] -> [N]` each, pure; called on NumPy archs.
        budgets: as many, each in the units of its cost.
        aims: for each cost -1 if less is better, 1 if more is, 0 if nothing counts but the budget;
            of no numbers at all, less is better for each.
    """

    of: tuple[Cost, ...] = ()
    budgets: tuple[Budget, ...] = ()
    aims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "aims", tuple(self.aims) or (-1,) * len(self.of))
        if not len(self.of) == len(self.budgets) == len(self.aims):
            raise UserError(
                f"there are {len(self.of)} costs, {len(self.budgets)} budgets and {len(self.aims)} "
                "aims; give one of each for every cost, Budget(-inf, inf) where it is free"
            )
        if not set(self.aims) <= {-1, 0, 1}:
            raise UserError(f"the aims are {self.aims}; each must be -1, 0 or 1")

    def __str__(self) -> str:
        return " and ".join(map(str, self.budgets))

    def __call__(self, archs: Arch) -> np.ndarray:
        """Costs of archs `[N]`: float64 `[N, C]`.

        Raises:
            UserError: a cost gives not one real number for each arch.
        """
        n = len(jax.tree.leaves(archs)[0])
        columns = np.zeros((n, len(self.of)))
        for i, cost in enumerate(self.of):
            found = np.asarray(cost(archs))
            if found.dtype.kind not in "biuf":
                raise UserError(
                    f"the cost of {n} archs is an array of {found.dtype}; it must give real numbers"
                )
            if found.shape != (n,):
                raise UserError(
                    f"the cost of {n} archs has shape {found.shape}; it must give one number for "
                    f"each arch, shape ({n},)"
                )
            columns[:, i] = found
        return columns

    def excess(self, costs: np.ndarray) -> np.ndarray:
        """How far costs `[N, C]` lie outside in all, each in shares of its largest finite bound: 0
        within all budgets, NaN for a NaN; float64 `[N]`.
        """
        whole = np.zeros(len(costs))
        # `reshape`: of no archs nobody may know yet how many costs they have.
        columns = np.reshape(costs, (len(costs), len(self.of)))
        for budget, column in zip(self.budgets, columns.T, strict=True):
            bounds = [abs(b) for b in (budget.low, budget.high) if np.isfinite(b)]
            whole += budget.excess(column) / (max(bounds, default=0.0) or 1.0)
        return whole

    def allows(self, costs: np.ndarray) -> np.ndarray:
        """Which costs `[N, C]` are within all budgets; bool `[N]`, False for a NaN."""
        return self.excess(costs) == 0

    def objectives(self, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """All that is to be large: scores `[N, S]`, then the costs `[N, C]` that have an aim, those
        that are to be small with the sign changed: float64 `[N, O]`.
        """
        aims = np.asarray(self.aims)
        columns = np.reshape(costs, (len(costs), len(self.of)))
        return np.concatenate([scores, (columns * aims)[:, aims != 0]], axis=1)


def no_history(decisions: int) -> History:
    """The history before the first arch; `decisions` is D, or 0 where that is not known yet."""
    return History(np.zeros((0, decisions), np.int32), np.zeros((0, 0)), np.zeros((0, 0)))


def extend(history: History, archs: Arch, scores: np.ndarray, costs: np.ndarray) -> History:
    """The history with further archs at its end.

    Raises:
        UserError: scores or costs are not rows of numbers, one for each arch.
    """
    rows = np.asarray(choices.pack(archs))
    more = History(rows, np.asarray(scores, np.float64), np.asarray(costs, np.float64))
    if any(part.ndim != 2 or len(part) != len(rows) for part in more[1:]):
        raise UserError(
            f"{len(rows)} archs came with scores of shape {more.scores.shape} and costs of shape "
            f"{more.costs.shape}; give one row for each arch, shape ({len(rows)}, .)"
        )
    if not len(history.scores):
        return more
    if more.scores.shape[1] != history.scores.shape[1]:
        raise UserError(
            f"{len(rows)} archs came with {more.scores.shape[1]} scores each, those before with "
            f"{history.scores.shape[1]}; give as many of all"
        )
    return History(*(np.concatenate(pair) for pair in zip(history, more, strict=True)))


def begin(menu: Menu, key: Array) -> SearchState:
    """The state before the first generation."""
    return SearchState(key, 0, no_history(len(jax.tree.leaves(menu))))


def generation_key(state: SearchState) -> Array:
    """The key of the generation about to be asked for."""
    return jax.random.fold_in(state.key, state.generation)


def remember(state: SearchState, archs: Arch, scores: np.ndarray, costs: np.ndarray) -> SearchState:
    """The `tell` of a searcher that keeps a `SearchState`."""
    return state._replace(told=extend(state.told, archs, scores, costs))
