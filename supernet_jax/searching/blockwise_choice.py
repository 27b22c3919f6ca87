"""Choice block by block: each option of each block is scored once, then all are chosen at once.

After Puzzle (Bercovich et al. 2024, arXiv 2411.19146): every alternative of every block is scored
by itself, in its place in the parent; what scores lose is taken to add up, and an integer programme
finds the blocks that lose least within all budgets at once.

A supernet has its alternatives ready: the parent is the largest subnet, and a replacement has other
options of one group of decisions. Decisions that one block alone reads, as its kernel and its
expansion, are a group; every other one, as a depth, a width or the size of inputs, is a group of
its own. What several groups do to each other is not seen, and so the chosen archs are scored for
good in the end.

Shape letters: `N` archs, `K` options of a group, `D` decisions.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np

from supernet_jax.elastic import choices, decision_groups
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Path
from supernet_jax.elastic.space import Space
from supernet_jax.errors import LOG, UserError, at_least
from supernet_jax.searching import block_program
from supernet_jax.searching.block_program import Chosen, Gains, Group, Program
from supernet_jax.searching.searcher import Budget, Costs, History, Searcher, extend, no_history

EACH = 3.0  # seconds of the solver for an arch: where many are worth the same, proof takes longer
TOGETHER = 64  # options of a group; a block with more combinations has a group for each decision


class Replacements(NamedTuple):
    """The archs whose scores say what options are worth.

    Attributes:
        archs: `[N]`, the largest first, each another network.
        groups: of decisions.
        where: by group, which of the archs has each of its options: int `[K]`.
    """

    archs: Arch
    groups: tuple[Group, ...]
    where: tuple[np.ndarray, ...]


def replacements(space: Space) -> Replacements:
    """The largest arch, and each option of each group in its place, one at a time."""
    largest = choices.largest(space.menu)
    groups, archs, spans = _groups(space), [largest], []
    for group in groups:
        spans.append(range(len(archs), len(archs) + len(group.options) - 1))
        for options in group.options[:-1]:
            arch = largest
            for path, option in zip(group.paths, options, strict=True):
                arch = choices.replace(arch, path, np.int32(option))
            archs.append(arch)
    stacked = choices.stack(archs)
    rows = np.asarray(choices.pack(elastic_space.normal(space, stacked)))
    _, first, same = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they came
    place = np.argsort(order)[same.reshape(-1)]
    where = tuple(np.asarray([*place[span], place[0]]) for span in spans)
    kept = choices.pack(stacked)[np.sort(first)]
    return Replacements(choices.unpack(space.menu, kept), groups, where)


def _groups(space: Space) -> tuple[Group, ...]:
    """Of all decisions, in the order of the menu."""
    common = {*space.static, *(() if space.bank is None else space.bank.row.paths)}
    together: dict[str | Path, list[Path]] = {}
    for path, names in decision_groups.readers(space).items():
        alone = len(names) == 1 and path not in common
        together.setdefault(next(iter(names)) if alone else path, []).append(path)
    made = []
    for key, paths in together.items():
        block: str | None = key if isinstance(key, str) else None
        sizes = [len(choices.get(space.menu, path)) for path in paths]
        parts = [paths] if np.prod(sizes) <= TOGETHER else [[path] for path in paths]
        for part in parts:
            own = [len(choices.get(space.menu, path)) for path in part]
            made.append(Group(tuple(part), block, np.indices(own).reshape(len(own), -1).T))
    return tuple(made)


def gains(asked: Replacements, scores: np.ndarray) -> Gains:
    """What options are worth: the score of each replacement less that of the largest.

    Args:
        asked: what was scored.
        scores: `[N]`, the higher the better; NaN for an arch that could not be scored, whose option
            is not chosen.

    Raises:
        UserError: the largest has none, or there are not as many as archs.
    """
    scores = np.asarray(scores, np.float64)
    n = len(choices.pack(asked.archs))
    if scores.shape != (n,):
        raise UserError(f"{n} replacements came with scores of shape {scores.shape}; give one each")
    if not np.isfinite(scores[0]):
        raise UserError(
            "the score of the largest subnet is not a number, and those of its replacements are "
            "measured by it; train on, or take another searcher"
        )
    scores = np.where(np.isfinite(scores), scores, np.nan)
    return Gains(asked.groups, tuple(scores[where] - scores[0] for where in asked.where))


def spread(
    made: Program, n: int, *, seconds: float = block_program.SECONDS
) -> tuple[list[Chosen], bool]:
    """The best archs for budgets that get tighter: a front, as far as gains add up.

    For each cost that is to be small, `n` bounds lie evenly between what archs within the budgets
    cost at least, and what the best of them costs.

    Returns:
        Distinct archs, the best within the budgets first; and whether all are proven the best.

    Raises:
        UserError: no arch is within the budgets, or none was found in time.
    """
    costs = made.costs
    if (best := made.best(costs.budgets, seconds=seconds)) is None:
        best = block_program.refused(made, seconds=seconds)
    found, proven = [best], best.proven
    for i, (budget, aim) in enumerate(zip(costs.budgets, costs.aims, strict=True)):
        cheapest = made.cheapest(i, costs.budgets, seconds=seconds) if aim < 0 else None
        if cheapest is None:
            continue
        low, high = costs(choices.stack([cheapest.arch, best.arch]))[:, i]
        for bound in np.linspace(low, high, n + 1)[:-1]:
            tighter = Budget(budget.low, float(max(bound, budget.low)), budget.unit)
            within = (*costs.budgets[:i], tighter, *costs.budgets[i + 1 :])
            one = made.best(within, seconds=seconds)
            if one is not None:
                found.append(one)
                proven &= one.proven
    rows = {choices.pack(one.arch).tobytes(): one for one in reversed(found)}
    return list(reversed(rows.values())), proven


class ChoiceState(NamedTuple):
    """What the searcher remembers.

    Attributes:
        waiting: archs to ask for next, int32 `[N, D]`.
        told: all archs told of.
        rounds: how often archs were chosen.
    """

    waiting: np.ndarray
    told: History
    rounds: int


def blockwise_choice(
    space: Space, costs: Costs, *, bounds: int = 16, seconds: float = EACH
) -> Searcher:
    """Replacements first, whatever they cost; then what is chosen by their first score.

    Replacements that an earlier search has scored, of which it may be told before it is first
    asked, are not asked for. Budgets are spread as `spread` does it; after every generation of
    chosen archs there are twice as many, until they give no arch that is new.

    Args:
        space: whose archs.
        costs: each a `BlockCost`, as those of the library.
        bounds: for each cost that is to be small, in the first generation of chosen archs.
        seconds: of the solver, for each arch.

    Raises:
        UserError: a setting out of range, or a cost of another kind; `init` raises it if no arch
            meets the budgets.
    """
    at_least("bounds", bounds, 1)
    asked = replacements(space)
    first = np.asarray(choices.pack(asked.archs), np.int32)
    names = [row.tobytes() for row in _normal(space, first)]
    nothing = Gains(asked.groups, tuple(np.zeros(len(group.options)) for group in asked.groups))
    check = block_program.program(space, nothing, costs)

    def init(key: Array) -> ChoiceState:
        del key  # nothing is random
        if check.best(costs.budgets) is None:
            block_program.refused(check)
        return ChoiceState(first, no_history(first.shape[1]), 0)

    def ask(state: ChoiceState) -> tuple[Arch, ChoiceState]:
        return choices.unpack(space.menu, state.waiting), state

    def tell(state: ChoiceState, archs: Arch, scores: np.ndarray, spent: np.ndarray) -> ChoiceState:
        told = extend(state.told, archs, scores, spent)
        known = {row.tobytes(): i for i, row in enumerate(_normal(space, told.archs))}
        if left := [i for i, name in enumerate(names) if name not in known]:
            return ChoiceState(first[left], told, 0)
        worth = gains(asked, told.scores[[known[name] for name in names], 0])
        made = block_program.program(space, worth, costs)
        chosen, proven = spread(made, bounds * 2**state.rounds, seconds=seconds)
        if not proven:
            LOG.warning(
                f"note: the solver had {seconds:g} s for each choice, and it is not proven that "
                "all are the best; more time may find better ones"
            )
        rows = _normal(space, np.stack([choices.pack(one.arch) for one in chosen]))
        new = [i for i, row in enumerate(rows) if row.tobytes() not in known]
        _, once = np.unique(rows[new], axis=0, return_index=True)
        return ChoiceState(rows[new][np.sort(once)], told, state.rounds + 1)

    return Searcher(init, ask, tell)


def _normal(space: Space, rows: np.ndarray) -> np.ndarray:
    """Rows as every arch of the same network is written: int32 `[N, D]`."""
    archs = elastic_space.normal(space, choices.unpack(space.menu, rows))
    return np.ascontiguousarray(choices.pack(archs), np.int32)


@dataclasses.dataclass(frozen=True)
class BlockwiseChoice:
    """Each option of each block is scored once; then all are chosen at once, within budgets."""

    name: ClassVar[str] = "blockwise"
    bounds: int = 16
    """budgets between the cheapest and the best; more give more subnets of the front at once"""
    seconds: float = EACH
    """of the solver for each choice; more prove that larger choices are the best"""

    def __post_init__(self) -> None:
        at_least("bounds", self.bounds, 1)
        at_least("seconds", self.seconds, 0.1)

    def build(self, space: Space, costs: Costs) -> Searcher:
        """The searcher of a space."""
        return blockwise_choice(space, costs, bounds=self.bounds, seconds=self.seconds)
