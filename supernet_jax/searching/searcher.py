"""The door of every search algorithm: ask for archs, tell what they scored.

A `Searcher` is three pure functions over an explicit state, so a search can be saved after any
`tell` and goes on from there exactly. The algorithms of this package keep the same state, a
`SearchState`; one of your own may keep any pytree of arrays, numbers and `jax.random.key`s.

Shape letters: `N` archs, `D` decisions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.errors import UserError


class Searcher(NamedTuple):
    """A search algorithm.

    Attributes:
        init: `key -> state`. The structure of what it returns is that of every later state; the
            arrays in it may grow. May raise `UserError` for a budget that nothing meets.
        ask: `state -> (archs [N], state)`, archs to score, NumPy. N may differ from call to call;
            none (N = 0) says that the search is over. The same state always gives the same archs.
        tell: `(state, archs [N], scores [N], costs [N]) -> state`, with the archs and the state
            that `ask` returned. Scores are maximised.
    """

    init: Callable[[Array], Any]
    ask: Callable[[Any], tuple[Arch, Any]]
    tell: Callable[[Any, Arch, np.ndarray, np.ndarray], Any]


class History(NamedTuple):
    """Every arch that was scored, in the order of scoring.

    Attributes:
        archs: int32 `[N, D]`, as `choices.pack` lays them out; `choices.unpack` makes archs of it.
        scores: float64 `[N]`, the higher the better; NaN for an arch that could not be scored.
        costs: float64 `[N]`, in the units of the search's cost.
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
        return f"{self.low:,.15g} to {self.high:,.15g} {self.unit}".rstrip()

    def excess(self, costs: np.ndarray) -> np.ndarray:
        """How far costs lie outside: 0 within the budget, NaN for a NaN; float64 `[...]`."""
        costs = np.asarray(costs, np.float64)
        return np.maximum(np.maximum(self.low - costs, costs - self.high), 0.0)

    def allows(self, costs: np.ndarray) -> np.ndarray:
        """Which costs are within the budget; bool `[...]`, False for a NaN."""
        return self.excess(costs) == 0


def no_history(decisions: int) -> History:
    """The history before the first arch; `decisions` is D, or 0 where that is not known yet."""
    return History(np.zeros((0, decisions), np.int32), np.zeros(0), np.zeros(0))


def extend(history: History, archs: Arch, scores: np.ndarray, costs: np.ndarray) -> History:
    """The history with further archs at its end."""
    rows = np.asarray(choices.pack(archs))
    more = (rows, np.asarray(scores, np.float64), np.asarray(costs, np.float64))
    if more[1].shape != rows.shape[:1] or more[2].shape != rows.shape[:1]:
        raise UserError(
            f"{len(rows)} archs came with scores of shape {more[1].shape} and costs of shape "
            f"{more[2].shape}; give one score and one cost for each arch, shape ({len(rows)},)"
        )
    before = history._replace(archs=history.archs.reshape(len(history.scores), rows.shape[1]))
    return History(*(np.concatenate(pair) for pair in zip(before, more, strict=True)))


def begin(menu: Menu, key: Array) -> SearchState:
    """The state before the first generation."""
    return SearchState(key, 0, no_history(len(jax.tree.leaves(menu))))


def generation_key(state: SearchState) -> Array:
    """The key of the generation about to be asked for."""
    return jax.random.fold_in(state.key, state.generation)


def remember(state: SearchState, archs: Arch, scores: np.ndarray, costs: np.ndarray) -> SearchState:
    """The `tell` of a searcher that keeps a `SearchState`."""
    return state._replace(told=extend(state.told, archs, scores, costs))
