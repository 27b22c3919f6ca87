"""Search by gradients under hard budgets: a code learns within them, and becomes archs within them.

HardCoRe-NAS (Nayman et al. 2021, arXiv 2102.11646): the supernet is trained, and its weights stay.
What it loses under a code on held-out examples is lowered by block coordinate stochastic
Frank-Wolfe. A cost that is a sum over blocks has an expectation that is linear in any decisions of
which no two meet in a block, the others being fixed. So each step lowers the linearised loss in one
such group by a linear programme over its simplices within the budgets, and goes a part of the way
to its solution: the code never leaves the budgets. Nor do the archs that it becomes.

Shape letters: `O` options of a decision, `C` costs, `D` decisions, `N` archs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np
import scipy  # its parts are imported when they are used: they take half a second

from supernet_jax.elastic import choices, decision_groups
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Code, Path
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy, masked
from supernet_jax.errors import UserError, at_least, one_of
from supernet_jax.evaluation import costs as evaluation_costs
from supernet_jax.evaluation.costs import BlockCost
from supernet_jax.searching import block_program
from supernet_jax.searching.block_program import Chosen, Gains, Group, Program
from supernet_jax.searching.code_loss import CodeLoss
from supernet_jax.searching.searcher import (
    Budget,
    Costs,
    Searcher,
    SearchState,
    begin,
    generation_key,
    remember,
)

Budgets = tuple[Budget, ...]
Weights = Mapping[Path, np.ndarray]  # a code by decision, float64 [O] each, in leaf order
HALVINGS = 8  # of the share of uniform options in the first code, until that is within the budgets
STRATEGIES: dict[str, Strategy] = {"mixed": mixed, "masked": masked}


@dataclasses.dataclass(frozen=True, eq=False)
class Relaxed:
    """Codes of a space, and what they cost in expectation.

    Attributes:
        space: whose codes.
        groups: decisions of which no two meet in a table of a cost.
        means: of each cost, as sums over tables.
    """

    space: Space
    groups: tuple[tuple[Path, ...], ...]
    means: tuple[evaluation_costs.Expected, ...]

    def code(self, weights: Weights) -> Code:
        """Weights as a code."""
        return jax.tree.unflatten(jax.tree.structure(self.space.menu), list(weights.values()))

    def weights(self, code: Code) -> Weights:
        """A code as weights."""
        paths = choices.paths(self.space.menu)
        return {path: np.asarray(choices.get(code, path), np.float64) for path in paths}

    def expected(self, weights: Weights) -> np.ndarray:
        """Expected costs of weights, float64 `[C]`."""
        return np.asarray([self.linear(i, weights, ())[0] for i in range(len(self.means))])

    def linear(
        self, which: int, weights: Weights, group: Sequence[Path]
    ) -> tuple[float, dict[Path, np.ndarray]]:
        """An expected cost as a function of a group alone.

        Args:
            which: of the costs.
            weights: of all decisions.
            group: of which no two meet in a table.

        Returns:
            A constant, and what the cost gains by each weight of the group: by decision, `[O]`.
        """
        rest = float(self.means[which].constant)
        slopes = {path: np.zeros(len(weights[path])) for path in group}
        for paths, table in self.means[which].tables:
            own = next((path for path in paths if path in slopes), None)
            left = table if own is None else np.moveaxis(table, paths.index(own), -1)
            for path in paths:
                left = left if path == own else np.tensordot(weights[path], left, 1)
            if own is None:
                rest += float(left)
            else:
                slopes[own] += left
        return rest, slopes

    def lowest(
        self, slope: Weights, weights: Weights, group: Sequence[Path], budgets: Budgets
    ) -> Weights:
        """Weights whose group has the least `slope @ weights` within budgets; the others stay.

        Args:
            slope: of the loss.
            weights: within the budgets.
            group: of which no two meet in a table.
            budgets: one for each cost.
        """
        factors, most = [], []
        for i, budget in enumerate(budgets):
            rest, slopes = self.linear(i, weights, group)
            row = _flat(slopes, group)
            now, unit = row @ _flat(weights, group), np.abs(row).max() or 1.0
            for sign, bound in ((1, budget.high), (-1, -budget.low)):
                if math.isfinite(bound):
                    factors.append(sign * row / unit)
                    # What is there counts as within, whatever the last digits of sums say.
                    most.append(max(bound - sign * rest, sign * now) / unit)
        sizes = [len(weights[path]) for path in group]
        found = scipy.optimize.linprog(
            _flat(slope, group),
            A_ub=np.asarray(factors) if most else None,
            b_ub=np.asarray(most) if most else None,
            A_eq=np.repeat(np.eye(len(sizes)), sizes, axis=1),
            b_eq=np.ones(len(sizes)),
            bounds=(0, 1),
        )
        if found.x is None:  # what is there is a solution, so there is one
            raise ArithmeticError(f"the linear programme of a step has failed: {found.message}")
        parts = np.split(found.x, np.cumsum(sizes)[:-1])
        return {**weights, **dict(zip(group, parts, strict=True))}


def relaxed(space: Space, costs: Sequence[BlockCost]) -> Relaxed:
    """The codes of a space.

    Raises:
        UserError: a cost has no expectation, see `costs.expected`, or is not known of all archs.
    """

    def owners(name: str) -> list[tuple[int, str]]:
        """What of each cost a block is a part of; and itself, whose options the loss sees."""
        return [(-1, name), *((i, cost.made.owner(space, name)) for i, cost in enumerate(costs))]

    means = tuple(evaluation_costs.expected(cost) for cost in costs)
    paths = choices.paths(space.menu)
    dealt = decision_groups.groups(space, owners)
    groups = tuple(tuple(paths[i] for i in np.flatnonzero(row)) for row in dealt)
    made = Relaxed(space, groups, means)
    if not np.isfinite(made.expected(uniform(space))).all():
        raise UserError(
            "the cost of some subnets is not known, so neither is the mean over subnets; take a "
            "cost that is, or another searcher"
        )
    return made


def uniform(space: Space) -> Weights:
    """All options of a decision alike."""
    sizes = {path: len(choices.get(space.menu, path)) for path in choices.paths(space.menu)}
    return {path: np.full(n, 1 / n) for path, n in sizes.items()}


def balanced(codes: Relaxed, budgets: Budgets, arch: Arch) -> Weights:
    """Weights within budgets, as near to uniform ones as halving the share of these finds.

    Args:
        codes: of the space.
        budgets: one for each cost.
        arch: within the budgets; its static decisions stay.
    """
    hot = codes.weights(choices.one_hot(codes.space.menu, arch))
    even = {path: hot[path] for path in codes.space.static}
    even = {**uniform(codes.space), **even}
    for share in 0.5 ** np.arange(HALVINGS):
        some = {path: (1 - share) * own + share * even[path] for path, own in hot.items()}
        each = zip(budgets, codes.expected(some), strict=True)
        if all(budget.allows(cost) for budget, cost in each):
            return some
    return hot


def descended(
    codes: Relaxed,
    loss: CodeLoss,
    budgets: Budgets,
    first: Weights,
    *,
    steps: int,
    rng: np.random.Generator,
) -> Weights:
    """Weights whose expected costs are within budgets, and whose loss is low.

    Block coordinate stochastic Frank-Wolfe: step k goes `2 G / (k + 2 G)`
    of the way to the solution of the linear programme of one of G groups, drawn at random, by the
    slope of the loss on one batch.

    Args:
        codes: of the space.
        loss: of the supernet.
        budgets: one for each cost.
        first: within the budgets.
        steps: how many, a batch each.
        rng: draws groups, and the order of batches.
    """
    weights, order, n = first, np.zeros(0, int), len(codes.groups)
    for k in range(steps):
        order = order if len(order) else rng.permutation(loss.batches)
        group = codes.groups[rng.integers(n)]
        if not group:  # nothing is to be decided
            break
        slope = codes.weights(loss.slope(codes.code(weights), int(order[0]))[1])
        found = codes.lowest(slope, weights, group, budgets)
        share, order = 2 * n / (k + 2 * n), order[1:]
        weights = {path: own + share * (found[path] - own) for path, own in weights.items()}
    return weights


def archs_within(
    codes: Relaxed,
    made: Program,
    loss: CodeLoss,
    budgets: Budgets,
    first: Arch,
    *,
    steps: int,
    rng: np.random.Generator,
    seconds: float = block_program.SECONDS,
) -> list[Arch]:
    """What a descent ends as: two archs within budgets.

    They are solutions of integer programmes over all decisions at once, which leave nothing to
    round: the arch whose options have the largest weights in the code (the paper's projection,
    block by block there), and the one of the lowest loss by its slope at the code, on all batches.

    Args:
        codes: of the space.
        made: the archs that there are; of a single size.
        loss: of the supernet.
        budgets: one for each cost.
        first: an arch within them, from which the descent begins.
        steps: of the descent.
        rng: of the descent.
        seconds: of the solver, for each arch.
    """
    start = balanced(codes, budgets, first)
    code = codes.code(descended(codes, loss, budgets, start, steps=steps, rng=rng))
    slopes = [loss.slope(code, i)[1] for i in range(loss.batches)]
    lower = jax.tree.map(lambda *leaves: -np.mean(leaves, axis=0), *slopes)
    found = [made.likeliest(one, budgets, seconds=seconds) for one in (code, lower)]
    return [first if one is None else one.arch for one in found]


def hardcore(
    space: Space,
    costs: Costs,
    loss: CodeLoss,
    *,
    steps: int = 100,
    budgets: int = 4,
    patience: int = 1,
    seconds: float = block_program.SECONDS,
) -> Searcher:
    """A descent for each budget and size of inputs, and what each ends as, see `archs_within`.

    The given budgets come first, tighter ones give a front. Rounds of all of them, each with other
    random numbers, follow each other until there is nothing new.

    Args:
        space: whose archs.
        costs: each a `BlockCost`, as those of the library.
        loss: of the trained supernet.
        steps: of each descent.
        budgets: for each cost that is to be small, from the most that is allowed down to the least
            that archs cost; 1 is the given one alone.
        patience: rounds in a row that end in nothing new, after which the search does.
        seconds: of the solver, for each arch.

    Raises:
        UserError: a setting out of range; a cost of another kind, or whose expectation needs too
            large a table; `init` raises it if no arch meets the budgets.
    """
    at_least("steps", steps, 1)
    at_least("budgets", budgets, 1)
    at_least("patience", patience, 1)
    whole = program_of_size(space, costs, None)
    codes = relaxed(space, [cost for cost in costs.of if isinstance(cost, BlockCost)])

    @functools.cache
    def program(size: int) -> Program:
        return program_of_size(space, costs, size)

    @functools.cache
    def first(within: Budgets, size: int) -> Chosen | None:
        """The cheapest arch within budgets."""
        made = program(size)
        best = functools.partial(made.cheapest, 0) if costs.of else made.best
        return best(within, seconds=seconds)

    @functools.cache
    def stages() -> tuple[tuple[Budgets, int], ...]:
        """Budgets, and which of the space's sizes; the largest first."""
        wanted = [costs.budgets, *_tighter(whole, budgets, seconds)]
        return tuple((one, size) for one in wanted for size in range(len(space.sizes))[::-1])

    def init(key: Array) -> SearchState:
        if whole.best(costs.budgets, seconds=seconds) is None:
            block_program.refused(whole, seconds=seconds)
        return begin(space.menu, key)

    def ask(state: SearchState) -> tuple[Arch, SearchState]:
        known = {row.tobytes() for row in _normal(space, state.told.archs)}
        for _ in range(patience * len(stages())):
            within, size = stages()[state.generation % len(stages())]
            rng = np.random.default_rng(np.asarray(jax.random.key_data(generation_key(state))))
            state = state._replace(generation=state.generation + 1)
            if (begins := first(within, size)) is None:
                continue
            about: dict[str, Any] = {"steps": steps, "rng": rng, "seconds": seconds}
            archs = archs_within(codes, program(size), loss, within, begins.arch, **about)
            rows = np.unique(_normal(space, choices.pack(choices.stack(archs))), axis=0)
            new = np.asarray([row.tobytes() not in known for row in rows])
            if new.any():
                return choices.unpack(space.menu, rows[new]), state
        return choices.unpack(space.menu, _normal(space, state.told.archs[:0])), state

    return Searcher(init, ask, remember)


def program_of_size(space: Space, costs: Costs, size: int | None) -> Program:
    """The programme of archs of one size, by its place among the space's sizes; None for all."""
    groups, values = [], []
    own = None if size is None else space.at_size(choices.smallest(space.menu), size)
    for path in choices.paths(space.menu):
        n = len(choices.get(space.menu, path))
        groups.append(Group((path,), None, np.arange(n)[:, None]))
        fixed = own is not None and path in space.static
        others = fixed and np.arange(n) != choices.get(own, path)
        values.append(np.where(others, np.nan, np.zeros(n)))
    return block_program.program(space, Gains(tuple(groups), tuple(values)), costs)


def _tighter(whole: Program, n: int, seconds: float) -> list[Budgets]:
    """For each cost that is to be small, `n - 1` budgets between the given one and the least."""
    costs, found = whole.costs, []
    for i, (budget, aim) in enumerate(zip(costs.budgets, costs.aims, strict=True)):
        cheapest = whole.cheapest(i, costs.budgets, seconds=seconds) if aim < 0 else None
        if cheapest is None:
            continue
        low = costs(choices.stack([cheapest.arch]))[0, i]
        high = min(budget.high, evaluation_costs.span(whole.space, costs.of[i])[1])
        for bound in np.linspace(high, max(low, budget.low), n + 1)[1:-1]:
            tighter = Budget(budget.low, float(bound), budget.unit)
            found.append((*costs.budgets[:i], tighter, *costs.budgets[i + 1 :]))
    return found


def _flat(weights: Weights, group: Sequence[Path]) -> np.ndarray:
    """Those of a group side by side."""
    return np.concatenate([weights[path] for path in group])


def _normal(space: Space, rows: np.ndarray) -> np.ndarray:
    """Rows as every arch of the same network is written: int32 `[N, D]`."""
    archs = choices.unpack(space.menu, np.reshape(rows, (-1, len(choices.paths(space.menu)))))
    return np.ascontiguousarray(choices.pack(elastic_space.normal(space, archs)), np.int32)


@dataclasses.dataclass(frozen=True)
class HardCoRe:
    """A code learns within budgets, by gradients of the held-out loss, and becomes subnets."""

    name: ClassVar[str] = "hardcore"
    steps: int = 100
    """of each descent, a batch each; more get nearer to a minimum, and take longer"""
    budgets: int = 4
    """budgets between the given one and the cheapest subnet; more give more of the front"""
    patience: int = 1
    """rounds of descents without a new subnet until the search ends; more find better ones where
    options interact"""
    strategy: Literal["mixed", "masked"] = "mixed"
    """what a code mixes: what options put out (mixed), or their weights (masked), sooner done"""

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("budgets", self.budgets, 1)
        at_least("patience", self.patience, 1)
        one_of("strategy", self.strategy, STRATEGIES)

    def build(self, space: Space, costs: Costs, losses: Callable[[Strategy], CodeLoss]) -> Searcher:
        """The searcher of a space.

        Args:
            space: that is searched.
            costs: and their budgets.
            losses: gives the loss of codes under a strategy.
        """
        how = {"steps": self.steps, "budgets": self.budgets, "patience": self.patience}
        return hardcore(space, costs, losses(STRATEGIES[self.strategy]), **how)
