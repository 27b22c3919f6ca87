"""Archs as rows of numbers that a predictor of scores learns from.

Each decision is one-hot, and equal networks have equal rows: a decision that changes nothing of a
network, as one of a block that is skipped, is all zeros; of options that make the same sizes the
first stands for all. What an arch does not have can so mislead no predictor.

Shape letters: `...` batch axes, `N` rows, `D` decisions, `O` options of a decision, `F` features.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Path
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation.costs import Cost

Encode = Callable[[Arch], np.ndarray]  # archs [...] -> float32 [..., F]

ROWS = 1024  # of a table of several decisions: some ten columns of so many stay in the cache
LIMIT = 2**16  # of a table of one decision and those it depends on; beyond that none is made
SAMPLE = 4096  # uniform archs by which costs are brought to one scale


def encoder(space: Space, *, costs: Sequence[Cost] = ()) -> Encode:
    """What turns archs into features: `archs [...] -> float32 [..., F]`, NumPy, on the host.

    A column for each option of each decision, static ones included; columns that are the same for
    all archs are left out. Archs have equal features if, and only if, they have equal
    `space.normal`, on which `costs` must depend alone. All is looked up in a few tables.

    Args:
        space: whose archs.
        costs: `archs [N] -> [N]`, at least 0, of which a column each follows: the logarithm of
            1 + cost, with mean 0 and variance 1 over uniform archs. A predictor learns from fewer
            scores with MACs and parameters.
    """
    decisions = _decisions(space)
    tables, slow = _tables(decisions)
    places = [np.arange(d.first, d.first + d.options) for d in (decisions[i] for i in slow)]
    scales = _scales(space, decisions, costs)
    widths = [table.rows.shape[1] for table in tables] + [len(place) for place in places]
    ends = np.cumsum([0, *widths, *(1 for _ in costs)])

    def encode(archs: Arch) -> np.ndarray:
        choices.require_arch(archs)
        archs = jax.tree.map(np.asarray, archs)
        leaves = jax.tree.leaves(archs)
        features = np.empty((*leaves[0].shape, int(ends[-1])), np.float32)
        parts = [features[..., a:b] for a, b in itertools.pairwise(ends)]
        for part, table in zip(parts, tables, strict=False):
            which = sum(leaves[i] * step for i, step in zip(table.asks, table.steps, strict=True))
            part[...] = np.take(table.rows, which, axis=0)
        if slow:
            codes = _codes(decisions, np.stack(leaves, axis=-1))
            for part, place in zip(parts[len(tables) :], places, strict=False):
                part[...] = codes[..., place]
        for part, cost, (mean, deviation) in zip(
            parts[len(tables) + len(slow) :], costs, scales, strict=True
        ):
            part[..., 0] = (np.log1p(cost(archs)) - mean) / deviation
        return features

    return encode


class _Decision(NamedTuple):
    """One decision and when its options are alike.

    Attributes:
        options: O.
        first: the column of its first option among those of all decisions.
        alike: pairs of other decisions and a table over their options, bool `[..., O, O]`: which
            options make the same network. What all tables say so is so.
    """

    options: int
    first: int
    alike: list[tuple[tuple[int, ...], np.ndarray]]


class _Table(NamedTuple):
    """Columns of some decisions.

    Attributes:
        asks: the decisions that determine them.
        steps: of the row in the option of each.
        rows: float32 `[N, F]`, for all combinations of their options.
    """

    asks: tuple[int, ...]
    steps: tuple[int, ...]
    rows: np.ndarray


def _decisions(space: Space) -> list[_Decision]:
    paths = choices.paths(space.menu)
    options = [len(choice) for choice in jax.tree.leaves(space.menu)]
    firsts = np.cumsum([0, *options])
    asked = list(_asked(space, {path: i for i, path in enumerate(paths)}))
    return [
        _Decision(
            options[i],
            int(firsts[i]),
            # one of a size of inputs is never alike
            [((), np.eye(options[i], dtype=bool))] if path in space.static else _alike(i, asked),
        )
        for i, path in enumerate(paths)
    ]


def _asked(space: Space, place: dict[Path, int]) -> Iterable[tuple[tuple[int, ...], np.ndarray]]:
    """For each block and the bank: the decisions that it asks for, and which spec or row it has for
    all combinations of their options, -1 where it is skipped.
    """
    asks = [(block.index, block.alive) for block in space.blocks.values()]
    asks += [] if space.bank is None else [(space.bank.row, None)]
    for index, alive in asks:
        paths = tuple(dict.fromkeys((*index.paths, *(() if alive is None else alive.paths))))
        archs = choices.smallest(space.menu)
        shape = [len(choices.get(space.menu, path)) for path in paths]
        for path, option in zip(paths, np.indices(shape), strict=True):
            archs = choices.replace(archs, path, option)
        which = np.broadcast_to(index(archs), shape)
        if alive is not None:
            which = np.where(np.asarray(alive(archs)) > 0, which, -1)
        yield tuple(place[path] for path in paths), which


def _alike(
    i: int, asked: Iterable[tuple[tuple[int, ...], np.ndarray]]
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """When options of decision `i` are alike, in tables of as few other decisions as possible."""
    found = []
    for places, which in asked:
        if i in places:
            last = np.moveaxis(which, places.index(i), -1)
            others = tuple(place for place in places if place != i)
            found.append(_reduced(others, last[..., :, None] == last[..., None, :]))
    always = [same for others, same in found if not others]
    if not found or not always:
        return found
    base = np.logical_and.reduce(always)
    rest = [_reduced(others, same & base) for others, same in found if others]
    return [((), base), *((others, same) for others, same in rest if others)]


def _reduced(others: tuple[int, ...], same: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """The table without decisions that change nothing of it."""
    for axis in reversed(range(len(others))):
        first = same.take([0], axis)
        if np.array_equal(np.broadcast_to(first, same.shape), same):
            same, others = first.squeeze(axis), (*others[:axis], *others[axis + 1 :])
    return others, same


def _codes(decisions: Sequence[_Decision], archs: np.ndarray) -> np.ndarray:
    """One-hot codes of archs `[..., D]`, with zeros and firsts as the module says: `[..., all]`."""
    archs = np.array(archs)

    def alike(i: int, decision: _Decision) -> np.ndarray:
        """Which options of a decision make the same network: bool `[..., O]`."""
        same = np.ones((*archs.shape[:-1], decision.options), bool)
        for others, table in decision.alike:
            same &= table[tuple(archs[..., place] for place in (*others, i))]
        return same

    for i, decision in enumerate(decisions):  # as `space.normal` does, one after the other
        archs[..., i] = alike(i, decision).argmax(-1)
    codes = []
    for i, decision in enumerate(decisions):
        own = archs[..., i, None]
        counts = ~alike(i, decision).all(-1, keepdims=True) | (own > 0)
        codes.append((own == np.arange(decision.options)) & counts)
    return np.concatenate(codes, axis=-1).astype(np.float32)


def _tables(decisions: Sequence[_Decision]) -> tuple[list[_Table], list[int]]:
    """Tables of all columns that change, and the decisions that depend on too many for a table."""
    needs = [{i}.union(*(others for others, _ in d.alike)) for i, d in enumerate(decisions)]
    while (wider := [need.union(*(needs[i] for i in need)) for need in needs]) != needs:
        needs = wider

    def size(of: Iterable[int]) -> int:
        return math.prod(decisions[i].options for i in of)

    slow = [i for i, need in enumerate(needs) if size(need) > LIMIT]
    units: list[tuple[set[int], list[int]]] = []  # what is asked, and whose columns
    for i in sorted(set(range(len(decisions))) - set(slow), key=lambda i: -size(needs[i])):
        fit = [unit for unit in units if size(unit[0] | needs[i]) <= max(ROWS, size(unit[0]))]
        if fit:
            best = min(fit, key=lambda unit: size(unit[0] | needs[i]) / size(unit[0]))
            best[0].update(needs[i])
            best[1].append(i)
        else:
            units.append((set(needs[i]), [i]))
    return [_table(decisions, sorted(asks), whose) for asks, whose in units], slow


def _table(decisions: Sequence[_Decision], asks: Sequence[int], whose: Iterable[int]) -> _Table:
    shape = [decisions[i].options for i in asks]
    archs = np.zeros((math.prod(shape), len(decisions)), np.int32)
    archs[:, asks] = np.indices(shape).reshape(len(shape), -1).T
    columns = [range(decisions[i].first, decisions[i].first + decisions[i].options) for i in whose]
    rows = _codes(decisions, archs)[:, np.concatenate(columns).astype(int)]
    steps = tuple(math.prod(shape[n + 1 :]) for n in range(len(shape)))
    changing = (rows != rows[:1]).any(axis=0)
    return _Table(tuple(asks), steps, np.ascontiguousarray(rows[:, changing]))


def _scales(
    space: Space, decisions: Sequence[_Decision], costs: Sequence[Cost]
) -> list[tuple[float, float]]:
    """Mean and deviation of the logarithm of each cost."""
    options = [decision.options for decision in decisions]
    rows = np.random.default_rng(0).integers(0, options, (SAMPLE, len(options)), np.int32)
    archs = choices.unpack(space.menu, rows)
    logs = [np.log1p(np.asarray(cost(archs), np.float64)) for cost in costs]
    return [(float(x.mean()), float(x.std()) or 1.0) for x in logs]
