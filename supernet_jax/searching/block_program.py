"""The best arch within budgets, where what it is worth is a sum over groups of its decisions.

That is an integer programme. Each option of a decision is a variable of 0 or 1. Each block has a
variable for every combination of the options that it reads, and these add up to the options: where
those are 0 or 1, one combination is 1. Hence what blocks are worth and what they cost is linear and
exact, though it depends on several decisions at once.

Shape letters: `V` variables, `K` options of a group, `J` combinations of a block, `N` archs.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: they take half a second

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Code, Path
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs import BlockCost, span
from supernet_jax.searching.searcher import Budget, Costs

SECONDS = 60.0  # of the solver, for one arch
INFEASIBLE = 2  # a status of `scipy.optimize.milp`
COMBINATIONS = 2_000_000  # of the options that one block reads, at most
CUTS = 200  # archs a little beyond a budget that the solver's tolerance lets in, at most


class Group(NamedTuple):
    """Decisions whose options are judged together.

    Attributes:
        paths: where they stand in the menu.
        block: the one block that reads them; None for a decision that several read, or none.
        options: which option of each: int `[K, decisions]`, all combinations, the largest last.
    """

    paths: tuple[Path, ...]
    block: str | None
    options: np.ndarray


class Gains(NamedTuple):
    """What options are worth.

    Attributes:
        groups: of decisions, with each decision in one of them.
        values: by group, of its options: float `[K]`, NaN for those that must not be chosen. A
            group of a block counts 0 where decisions outside of it skip the block.
    """

    groups: tuple[Group, ...]
    values: tuple[np.ndarray, ...]

    def of(self, space: Space, archs: Arch) -> np.ndarray:
        """What archs `[N]` are worth, NaN where they have what must not be chosen: float `[N]`."""
        each = zip(self.groups, self.values, strict=True)
        return np.asarray(sum(_worth(space, group, values, archs) for group, values in each))


class Chosen(NamedTuple):
    """The best arch that was found.

    Attributes:
        arch: NumPy, no batch axes.
        gain: what it is worth.
        proven: whether none within the budgets is worth more; if not, the time was over.
    """

    arch: Arch
    gain: float
    proven: bool


class _Price(NamedTuple):
    """A cost in terms of the variables.

    Attributes:
        places: variables that make it up, when it is as small as it can be.
        factors: what each of them costs.
        blocks: places and costs of the combinations of each block.
        constant: what is added.
        slack: by how much the cost of an arch may be rounded.
        largest: whether it is that of the largest block.
    """

    places: np.ndarray
    factors: np.ndarray
    blocks: tuple[np.ndarray, np.ndarray]
    constant: float
    slack: float
    largest: bool


@dataclasses.dataclass
class _Rows:
    """Variables, at least 0 each, and what must hold of them, as they are put together.

    Attributes:
        upper: bounds of the variables.
        whole: which of them are whole numbers.
        each: rows: places, factors, lower and upper bound.
    """

    upper: list[float] = dataclasses.field(default_factory=list)
    whole: list[int] = dataclasses.field(default_factory=list)
    each: list[tuple[np.ndarray, np.ndarray, float, float]] = dataclasses.field(
        default_factory=list
    )

    def variables(self, upper: np.ndarray, *, whole: bool) -> np.ndarray:
        """New ones, up to 1 or not at all: their places."""
        places = np.arange(len(self.upper), len(self.upper) + len(upper))
        self.upper += upper.astype(float).tolist()
        self.whole += [int(whole)] * len(upper)
        return places

    def add(self, places: Any, factors: Any, low: float, high: float) -> None:
        """A sum of variables that must lie between bounds."""
        places = np.asarray(places)
        factors = np.broadcast_to(np.asarray(factors, np.float64), places.shape)
        self.each.append((places, factors, low, high))

    def matrix(self) -> "scipy.optimize.LinearConstraint":
        """All rows, as the solver takes them."""
        places, factors, low, high = zip(*self.each, strict=True)
        where = np.repeat(np.arange(len(places)), [len(row) for row in places])
        entries = (np.concatenate(factors), (where, np.concatenate(places)))
        table = scipy.sparse.csr_array(entries, shape=(len(places), len(self.upper)))
        return scipy.optimize.LinearConstraint(table, np.asarray(low), np.asarray(high))


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The integer programme of a space, gains and costs; budgets come when it is solved.

    Attributes:
        space: whose archs.
        gains: what options are worth.
        costs: what archs cost.
        options: by decision, the variables of its options.
        rows: all variables, and what must hold of them.
        worth: of each variable: float `[V]`.
        prices: the costs in terms of variables.
    """

    space: Space
    gains: Gains
    costs: Costs
    options: dict[Path, np.ndarray]
    rows: _Rows
    worth: np.ndarray
    prices: tuple[_Price, ...]

    def best(self, budgets: Sequence[Budget], *, seconds: float = SECONDS) -> Chosen | None:
        """The arch within budgets that is worth most; None if there is none.

        Raises:
            UserError: none was found in the given time.
        """
        return self._solved(-self.worth, budgets, seconds)

    def cheapest(
        self, which: int, budgets: Sequence[Budget], *, seconds: float = SECONDS
    ) -> Chosen | None:
        """The arch within budgets that costs least of one cost; None if there is none."""
        aim = np.zeros_like(self.worth)
        aim[self.prices[which].places] = self.prices[which].factors
        return self._solved(aim, budgets, seconds)

    def likeliest(
        self, code: Code, budgets: Sequence[Budget], *, seconds: float = SECONDS
    ) -> Chosen | None:
        """The arch within budgets whose options have the largest sum in a code of any weights."""
        aim, upper = np.zeros_like(self.worth), np.asarray(self.rows.upper)
        arch = choices.smallest(self.space.menu)
        for path, places in self.options.items():
            weights = np.asarray(choices.get(code, path), np.float64)
            aim[places] = -weights
            option = np.where(upper[places] > 0, weights, -np.inf).argmax()
            arch = choices.replace(arch, path, np.int32(option))
        one, allowed = choices.stack([arch]), Costs(self.costs.of, tuple(budgets))
        if allowed.allows(allowed(one))[0]:  # then no solver is needed
            return Chosen(arch, float(self.gains.of(self.space, one)[0]), True)
        return self._solved(aim, budgets, seconds)

    def _solved(self, aim: np.ndarray, budgets: Sequence[Budget], seconds: float) -> Chosen | None:
        end = time.monotonic() + seconds
        rows = _Rows(list(self.rows.upper), self.rows.whole, list(self.rows.each))
        for price, budget in zip(self.prices, budgets, strict=True):
            _limit(rows, price, budget)
        aim = aim / (np.abs(aim).max() or 1.0)
        allowed = Costs(self.costs.of, tuple(budgets))
        for _ in range(CUTS):
            found = scipy.optimize.milp(
                aim,
                integrality=np.asarray(rows.whole),
                bounds=scipy.optimize.Bounds(0, np.asarray(rows.upper)),
                constraints=rows.matrix(),
                options={"mip_rel_gap": 0.0, "time_limit": max(end - time.monotonic(), 0.1)},
            )
            if found.status == INFEASIBLE:
                return None
            if found.x is None:
                break
            arch = choices.smallest(self.space.menu)
            for path, places in self.options.items():
                arch = choices.replace(arch, path, np.int32(found.x[places].argmax()))
            one = choices.stack([arch])
            if allowed.allows(costs := allowed(one))[0]:
                gain = float(self.gains.of(self.space, one)[0])
                return Chosen(arch, gain, found.status == 0)
            self._cut(rows, found.x, budgets, costs[0])
        raise UserError(
            f"no arch that costs {allowed} was found in {seconds:g} s; give the solver more time, "
            "or another searcher"
        )

    def _cut(
        self, rows: _Rows, found: np.ndarray, budgets: Sequence[Budget], costs: np.ndarray
    ) -> None:
        """Shuts out what the solver's tolerance let in: all archs with what costs so much."""
        for price, budget, cost in zip(self.prices, budgets, costs, strict=True):
            if cost > budget.high:
                places, factors = price.blocks
                dear = places[(found[places] > 0.5) & (factors > 0)]
                return rows.add(dear, 1.0, -math.inf, len(dear) - 1)
        taken = np.asarray([places[found[places].argmax()] for places in self.options.values()])
        return rows.add(taken, 1.0, -math.inf, len(taken) - 1)


def choose(space: Space, gains: Gains, costs: Costs, *, seconds: float = SECONDS) -> Chosen:
    """The arch within all budgets that is worth most.

    Args:
        space: whose archs.
        gains: what options are worth.
        costs: with their budgets; each is a `BlockCost`, as those of the library.
        seconds: of the solver.

    Raises:
        UserError: no arch is within the budgets, or none was found in time; a cost is of another
            kind; a block reads too many decisions.
    """
    made = program(space, gains, costs)
    found = made.best(costs.budgets, seconds=seconds)
    return refused(made, seconds=seconds) if found is None else found


def refused(made: Program, *, seconds: float = SECONDS) -> Chosen:
    """Raises the `UserError` that says what archs cost, where none is within budgets."""
    costs = made.costs
    free = [Budget(-math.inf, math.inf, budget.unit) for budget in costs.budgets]
    spans = []
    for i, (cost, budget) in enumerate(zip(costs.of, costs.budgets, strict=True)):
        if (found := made.cheapest(i, free, seconds=seconds)) is None:
            raise UserError(
                "no arch can be chosen: of some decision, no option has a score that is a number "
                "and a cost that is known"
            )
        least, most = costs(choices.stack([found.arch]))[0, i], span(made.space, cost)[1]
        spans.append(f"from {least:,.15g} to {most:,.15g} {budget.unit}".rstrip())
    raise UserError(f"no arch costs {costs}; archs cost {' and, by themselves, '.join(spans)}")


def program(space: Space, gains: Gains, costs: Costs) -> Program:
    """The programme whose solutions are archs; see `choose`."""
    of: list[BlockCost] = []
    for cost, budget in zip(costs.of, costs.budgets, strict=True):
        if isinstance(cost, BlockCost):
            of.append(cost)
        else:
            raise UserError(
                f"a cost{f' in {budget.unit}' if budget.unit else ''} is not made of those of "
                "blocks, which is how blocks are chosen; make it a BlockCost, or take another "
                "searcher"
            )
    rows, worth = _Rows(), dict[int, float]()
    options: dict[Path, np.ndarray] = {}
    for path in choices.paths(space.menu):
        n = len(choices.get(space.menu, path))
        options[path] = rows.variables(np.ones(n), whole=True)
        rows.add(options[path], 1.0, 1.0, 1.0)
    own: dict[str, list[tuple[Group, np.ndarray]]] = {}
    for group, values in zip(gains.groups, gains.values, strict=True):
        if group.block is not None:
            own.setdefault(group.block, []).append((group, values))
            continue
        for (option,), value in zip(group.options, values, strict=True):
            place = int(options[group.paths[0]][option])
            worth[place] = 0.0 if math.isnan(value) else value
            rows.upper[place] = 0.0 if math.isnan(value) else 1.0
    of_blocks: list[dict[str, tuple[np.ndarray, np.ndarray]]] = [{} for _ in of]
    for name in space.blocks:
        tables = [cost.made.tables.get(name) for cost in of]
        if name not in own and all(table is None for table in tables):
            continue
        places, (value, *prices) = _combinations(
            space, name, own.get(name, []), tables, rows, options
        )
        worth |= dict(zip(places.tolist(), value.tolist(), strict=True))
        for blocks, table, price in zip(of_blocks, tables, prices, strict=True):
            if table is not None:
                blocks[name] = places, price
    spent = tuple(_price(rows, cost, blocks) for cost, blocks in zip(of, of_blocks, strict=True))
    weights = np.zeros(len(rows.upper))
    weights[list(worth)] = list(worth.values())
    return Program(space, gains, costs, options, rows, weights, spent)


def _worth(space: Space, group: Group, values: np.ndarray, archs: Arch) -> np.ndarray:
    """What a group adds to archs: float `[...]`."""
    last = [len(choices.get(space.menu, path)) - 1 for path in group.paths]
    table = np.zeros([n + 1 for n in last])
    table[tuple(group.options.T)] = values
    worth = table[tuple(choices.get(archs, path) for path in group.paths)]
    alive = None if group.block is None else space.blocks[group.block].alive
    if alive is None:
        return worth
    for path, option in zip(group.paths, last, strict=True):  # do the others leave it alive?
        archs = choices.replace(archs, path, np.full_like(choices.get(archs, path), option))
    return np.where(np.asarray(alive(archs)) > 0, worth, 0.0)


def _combinations(
    space: Space,
    name: str,
    own: Sequence[tuple[Group, np.ndarray]],
    tables: Sequence[np.ndarray | None],
    rows: _Rows,
    options: dict[Path, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """A variable for each combination of the options that a block reads, tied to those of the
    options. Options that make no difference to it are one.

    Returns:
        Their places `[J]`, and what they are worth and cost: float `[1 + C, J]`.
    """
    block = space.blocks[name]
    alive = block.alive
    read = (*block.index.paths, *(() if alive is None else alive.paths), *space.static)
    paths = tuple(dict.fromkeys(read))
    shape = tuple(len(options[path]) for path in paths)
    if math.prod(shape) > COMBINATIONS:
        raise UserError(
            f"block {name!r} reads decisions with {math.prod(shape):,} combinations of options, "
            f"but blocks are chosen among at most {COMBINATIONS:,}; take another searcher"
        )
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    archs: Arch = choices.smallest(space.menu)
    for path, leaf in zip(paths, grid, strict=True):
        archs = choices.replace(archs, path, leaf.astype(np.int32))
    there = 1 if alive is None else alive(archs)
    where = space.which_size(archs), block.index(archs)
    worth: Any = sum(_worth(space, group, values, archs) for group, values in own)
    found = [worth, *(0.0 if table is None else table[where] * there for table in tables)]
    facts = np.stack([np.broadcast_to(np.asarray(x, np.float64), shape) for x in found])
    alike = []
    for axis, path in enumerate(paths):
        flat = np.moveaxis(facts, axis + 1, 0).reshape(shape[axis], -1)
        _, first, kind = np.unique(
            np.where(np.isnan(flat), np.inf, flat), axis=0, return_index=True, return_inverse=True
        )
        facts = np.take(facts, first, axis + 1)
        alike.append((options[path], kind.reshape(-1)))
    possible = ~np.isnan(facts).any(0)
    places = rows.variables(possible.reshape(-1), whole=False).reshape(possible.shape)
    for axis, (variables, kind) in enumerate(alike):
        for i, some in enumerate(np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)):
            both = np.concatenate([some, variables[kind == i]])
            rows.add(both, np.repeat([1.0, -1.0], [some.size, both.size - some.size]), 0.0, 0.0)
    if not paths:
        rows.add(places.reshape(-1), 1.0, 1.0, 1.0)
    return places.reshape(-1), np.where(possible, facts, 0.0).reshape(len(facts), -1)


def _price(
    rows: _Rows, cost: BlockCost, blocks: dict[str, tuple[np.ndarray, np.ndarray]]
) -> _Price:
    """A cost in terms of variables; where blocks share what they cost, there are some more."""
    made = cost.made
    owners: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, part in blocks.items():
        owners.setdefault(made.owner(cost.space, name), []).append(part)
    places, factors = [], []
    for parts in owners.values():
        most = max((float(prices.max()) for _, prices in parts), default=0.0)
        if len(parts) == 1 or not most:
            places += [of for of, _ in parts]
            factors += [prices for _, prices in parts]
            continue
        # The largest, in shares of the most: no less than each, and no more than one of them.
        (top,) = rows.variables(np.ones(1), whole=False)
        above = [np.concatenate([[1.0], -prices / most]) for _, prices in parts]
        for (of, _), factor in zip(parts, above, strict=True):
            rows.add([top, *of], factor, 0.0, math.inf)
        if made.total == "tied":  # bounds of the largest block are told otherwise
            taken = rows.variables(np.ones(len(parts)), whole=True)
            rows.add(taken, 1.0, 1.0, 1.0)
            for (of, _), factor, one in zip(parts, above, taken, strict=True):
                rows.add([top, *of, one], [*factor, 1.0], -math.inf, 1.0)
        places.append(np.asarray([top]))
        factors.append(np.asarray([most]))
    every = tuple(np.concatenate([part[i] for part in blocks.values()]) for i in (0, 1))
    return _Price(
        np.concatenate(places),
        np.concatenate(factors),
        (every[0], every[1]),
        made.constant,
        0.0 if made.digits is None else 0.5 * 10.0**-made.digits,
        made.total == "largest",
    )


def _limit(rows: _Rows, price: _Price, budget: Budget) -> None:
    """Adds what a budget asks for."""
    low = budget.low - price.constant - price.slack
    high = budget.high - price.constant + price.slack
    places, factors = price.blocks
    if price.largest:
        for place in places[factors > high]:
            rows.upper[place] = 0.0
        if low > -math.inf:
            rows.add(places[factors >= low], 1.0, 1.0, math.inf)
        return
    if math.isinf(low) and math.isinf(high):
        return
    unit = _unit(price.factors)
    rows.add(price.places, price.factors / unit, low / unit, high / unit)


def _unit(factors: np.ndarray) -> float:
    """What factors are divided by: whole numbers stay whole, and become small."""
    if np.array_equal(factors, np.rint(factors)):
        return float(functools.reduce(math.gcd, factors.astype(np.int64).tolist(), 0) or 1)
    return float(np.abs(factors).max()) / 1e4
