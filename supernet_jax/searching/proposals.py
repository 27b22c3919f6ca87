"""Archs within budgets that nobody has scored yet.

Drawing is rejection: batches of one fixed size are proposed, and what fits and is new is kept.
Where a budget is so tight that uniform draws hardly ever fit, a random walk goes on from them.

Archs that are the same network count as one, if the region is told what is the same.

Archs are packed here, a NumPy row each. Shape letters: `M` proposals, `N` rows, `D` decisions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.errors import UserError
from supernet_jax.searching.searcher import Costs

Propose = Callable[[Array], np.ndarray]  # key -> rows [M, D]
Draw = Callable[[Array, int, np.ndarray], np.ndarray]  # key, n, known [., D] -> rows [<= n, D]
Normal = Callable[[Arch], Arch]  # archs [N] -> archs [N], equal ones for the same network

CHUNK = 1024  # proposals at a time: one shape, hence one compiled program
ROUNDS = 32  # batches proposed before rejection gives up, per CHUNK rows wanted
WALK_ROUNDS = 2  # walks before a large space counts as exhausted, per CHUNK rows wanted
WALK_STEPS = 128  # steps of a walk
LISTABLE = 2**16  # a space of at most so many archs is listed rather than walked


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """The archs of a menu that cost what the budgets allow.

    Attributes:
        menu: what may be chosen.
        costs: of archs, and their budgets.
        normal: as `space.normal` of a space; None where every arch is another network.
    """

    menu: Menu
    costs: Costs
    normal: Normal | None = None

    def costs_of(self, rows: np.ndarray) -> np.ndarray:
        """Costs of each row, float64 `[M, C]`."""
        return self.costs(choices.unpack(self.menu, rows))

    def excess(self, rows: np.ndarray) -> np.ndarray:
        """How far each row is from the budgets, float64 `[M]`; 0 within."""
        return self.costs.excess(self.costs_of(rows))

    def contains(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are within the budgets, bool `[M]`."""
        return self.excess(rows) == 0

    def networks(self, rows: np.ndarray) -> list[bytes]:
        """What tells the network of each row from others."""
        if self.normal is not None and len(rows):
            rows = choices.pack(self.normal(choices.unpack(self.menu, rows)))
        return [row.tobytes() for row in np.ascontiguousarray(rows, np.int32)]


class Operators(NamedTuple):
    """The operators of `choices`, compiled once for a menu and for `CHUNK` rows.

    Rates are one number or `[CHUNK]`.

    Attributes:
        uniform: `key -> rows`.
        mutate: `(key, rows, rate) -> rows`.
        cross: `(key, rows, rows, rate) -> rows`.
    """

    uniform: Propose
    mutate: Callable[[Array, np.ndarray, float | np.ndarray], np.ndarray]
    cross: Callable[[Array, np.ndarray, np.ndarray, float | np.ndarray], np.ndarray]


def collect(
    region: Region, propose: Propose, key: Array, n: int, known: np.ndarray, *, rounds: int = ROUNDS
) -> np.ndarray:
    """The first `n` proposals that are in the region and new.

    Args:
        region: where they must lie.
        propose: gives the proposals of a key.
        key: round `i` proposes from `fold_in(key, i)`.
        n: rows wanted.
        known: rows `[., D]` that do not count as new, nor do others of the same networks; nor does
            what was just collected.
        rounds: batches proposed before giving up, per `CHUNK` rows wanted.

    Returns:
        int32 `[N, D]`, N <= n, in the order of proposing.
    """
    seen = set(region.networks(known))
    found = [np.zeros((0, known.shape[1]), np.int32)]
    idle = 0  # batches in a row with nothing new
    for i in range(rounds * -(-n // CHUNK)):
        rows = propose(jax.random.fold_in(key, i))
        fitting = rows[region.contains(rows)]
        named = zip(fitting, region.networks(fitting), strict=True)
        new = [row for row, name in named if _add(seen, name)]
        found.append(np.reshape(new, (len(new), rows.shape[1])).astype(np.int32))
        idle = 0 if new else idle + 1
        if sum(map(len, found)) >= n or idle >= rounds:
            break
    return np.concatenate(found)[:n]


def operators(menu: Menu) -> Operators:
    """The operators of a menu, each compiled when it is first used."""
    return _operators(tuple(len(choice) for choice in jax.tree.leaves(menu)))


@functools.cache
def _operators(sizes: tuple[int, ...]) -> Operators:
    """The operators of a menu whose decisions have so many options."""
    menu = [choices.Choice(tuple(range(n))) for n in sizes]

    @jax.jit
    def uniform(key: Array) -> Array:
        return choices.pack(choices.sample(menu, key, (CHUNK,)))

    @jax.jit
    def mutate(key: Array, rows: Array, rate: Array) -> Array:
        return choices.pack(choices.mutate(menu, key, choices.unpack(menu, rows), rate=rate))

    @jax.jit
    def cross(key: Array, first: Array, second: Array, rate: Array) -> Array:
        parents = choices.unpack(menu, first), choices.unpack(menu, second)
        return choices.pack(choices.crossover(key, *parents, rate=rate))

    def each(rate: float | np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.float32(rate), (CHUNK,))

    return Operators(
        lambda key: np.asarray(uniform(key)),
        lambda key, rows, rate: np.asarray(mutate(key, rows, each(rate))),
        lambda key, first, second, rate: np.asarray(cross(key, first, second, each(rate))),
    )


def drawer(region: Region, using: Operators) -> Draw:
    """A function `(key, n, known) -> rows` that draws new archs of the region uniformly.

    Uniform proposals are tried first. If they do not suffice, a space of at most `LISTABLE` archs
    is listed, so that every arch is found; in a larger one random walks look for the rest. Those
    are uniform only in the limit of long walks, and fewer than `n` rows then mean that little or
    nothing new is left.
    """
    listable = choices.count(region.menu) <= LISTABLE
    search = listing(region.menu) if listable else walks(region, using)

    def draw(key: Array, n: int, known: np.ndarray) -> np.ndarray:
        first, second = jax.random.split(key)
        rows = collect(region, using.uniform, first, n, known)
        if len(rows) == n:
            return rows
        taken = np.concatenate([known, rows])
        rounds = 1 if listable else WALK_ROUNDS
        rest = collect(region, search, second, n - len(rows), taken, rounds=rounds)
        return np.concatenate([rows, rest])

    return draw


def listing(menu: Menu) -> Propose:
    """Proposes every arch of a small menu once, in random order."""
    sizes = [len(choice) for choice in jax.tree.leaves(menu)]

    def propose(key: Array) -> np.ndarray:
        order = np.asarray(jax.random.permutation(key, choices.count(menu)))
        return np.stack(np.unravel_index(order, sizes), axis=-1).astype(np.int32)

    return propose


def walks(region: Region, using: Operators) -> Propose:
    """Proposes where `CHUNK` random walks end that were drawn into the budget.

    A step mutates the arch and is taken if that does not lead farther from the budget. Within the
    budget this is the Metropolis algorithm (doi 10.1063/1.1699114) for the uniform distribution,
    because mutation is symmetric. Walks start between uniform archs and the two extreme ones, and
    mutate between one decision and half of them at a time.
    """
    menu = region.menu
    fewest = min(0.5, 1 / len(jax.tree.leaves(menu)))
    rate = np.geomspace(fewest, 0.5, CHUNK)
    mix = np.linspace(0, 1, CHUNK)[np.random.default_rng(0).permutation(CHUNK)]
    extremes = np.tile(np.concatenate([smallest_row(menu), largest_row(menu)]), (CHUNK // 2, 1))

    def propose(key: Array) -> np.ndarray:
        first, second, walk = jax.random.split(key, 3)
        rows = using.cross(second, using.uniform(first), extremes, mix)
        excess = region.excess(rows)
        for i in range(WALK_STEPS):
            moved = using.mutate(jax.random.fold_in(walk, i), rows, rate)
            after = region.excess(moved)
            taken = after <= excess
            rows = np.where(taken[:, None], moved, rows)
            excess = np.where(taken, after, excess)
        return rows

    return propose


def require_any(region: Region, using: Operators, key: Array) -> None:
    """Makes sure that the budget can be met.

    Raises:
        UserError: no arch was found within it; the message gives the costs that the space has.
    """
    ends = np.concatenate([smallest_row(region.menu), largest_row(region.menu)])
    inside, outside = jax.random.split(key)
    if region.contains(ends).any() or len(drawer(region, using)(inside, 1, ends)):
        return
    whole = choices.count(region.menu) <= LISTABLE
    if whole:
        tried = listing(region.menu)(outside)
    else:
        tried = np.concatenate([ends, using.uniform(inside), walks(region, using)(outside)])
    costs = region.costs_of(tried)
    if np.isnan(costs).any(1).all():
        raise UserError("a cost of every arch tried is NaN; mend the cost")
    nearest = costs[np.nanargmin(region.costs.excess(costs))]
    raise UserError(
        f"no arch {'costs' if whole else 'was found that costs'} {region.costs}: the smallest arch "
        f"costs {_shown(region.costs_of(ends)[0])}, the {len(tried):,} "
        f"{'of the space' if whole else 'tried'} cost {_shown(np.nanmin(costs, 0))} to "
        f"{_shown(np.nanmax(costs, 0))}, the nearest of them {_shown(nearest)}; choose "
        f"{'a budget that includes' if len(nearest) == 1 else 'budgets that include'} such a cost"
    )


def _shown(costs: np.ndarray) -> str:
    """Costs of one arch, in words."""
    return " and ".join(f"{cost:,.15g}" for cost in costs)


def smallest_row(menu: Menu) -> np.ndarray:
    """The smallest arch as a row, int32 `[1, D]`."""
    return choices.pack(choices.smallest(menu))[None]


def largest_row(menu: Menu) -> np.ndarray:
    """The largest arch as a row, int32 `[1, D]`."""
    return choices.pack(choices.largest(menu))[None]


def _add(seen: set[bytes], item: bytes) -> bool:
    """Adds the item; whether it is new."""
    size = len(seen)
    seen.add(item)
    return len(seen) > size
