"""Choice block by block: against every arch there is, and what it asks for."""

import dataclasses
import functools
import itertools
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import light_space
import numpy as np
import pytest
import scipy.optimize
import tiny_space

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs import BlockCost
from supernet_jax.nn.blocks.mobilenet import HARD_SWISH
from supernet_jax.searching import (
    BlockwiseChoice,
    Budget,
    Costs,
    History,
    block_program,
    pareto_front,
    run,
)
from supernet_jax.searching.block_program import Gains, choose, program
from supernet_jax.searching.blockwise_choice import Replacements, gains, replacements, spread
from supernet_jax.spaces import once_for_all

FREE = Budget(-math.inf, math.inf)


@functools.cache
def stacked() -> Space:
    """648 archs: up to three blocks of one stage, each with its own kernel and expansion."""
    return once_for_all.ofa(
        "stacked",
        resolutions=(8,),
        stem=8,
        stem_stride=1,
        first=8,
        stages=(once_for_all.Stage(16, 2, HARD_SWISH),),
        kernels=(3, 5, 7),
        expands=(2, 4),
        depths=(1, 2, 3),
        middle=24,
        last=32,
        classes=5,
        input_channels=2,
    )


SPACES: dict[str, Callable[[], Space]] = {
    "light": light_space.light,
    "tiny": tiny_space.tiny,
    "tied": light_space.tied,
    "stacked": stacked,
    "decoding": tiny_space.decoding,
    "adapted": tiny_space.adapted,
}


def every(space: Space) -> Arch:
    """All archs, or 3,000 of them."""
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    if math.prod(sizes) > 3000:
        return jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(0), (3000,)))
    rows = np.asarray(list(itertools.product(*map(range, sizes))), np.int32)
    return choices.unpack(space.menu, rows)


def random_gains(asked: Replacements, seed: int) -> Gains:
    rng = np.random.default_rng(seed)
    return Gains(asked.groups, tuple(rng.normal(size=len(where)) for where in asked.where))


def costs_of(space: Space, name: str) -> tuple[BlockCost, ...]:
    """Sums, with shared parameters, and of the largest block; memory is of chains alone."""
    found: list[Any] = [costs.macs(space), costs.parameters(space)]
    if name != "tied":
        found.append(costs.peak_memory(space))
    else:
        made = found[0].made._replace(total="largest")
        found.append(BlockCost(space, made))
    return tuple(found)


@pytest.mark.parametrize("name", SPACES)
def test_no_arch_within_the_budgets_is_worth_more(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the solver is asked once: what it lets in costs what the programme says."""
    space, solve, solved, chosen_of = SPACES[name](), scipy.optimize.milp, 0, 0

    def counted(*args: Any, **how: Any) -> Any:
        nonlocal solved
        solved += 1
        return solve(*args, **how)

    monkeypatch.setattr(scipy.optimize, "milp", counted)
    asked, archs = replacements(space), every(space)
    of = costs_of(space, name)
    spent = Costs(of, (FREE,) * 3)(archs)
    rng = np.random.default_rng(1)
    outcomes = set()
    for seed in range(8):
        worth = random_gains(asked, seed)
        best = worth.of(space, archs)
        for kind in range(4):
            # Bounds of some arch, so that they are met to the unit; of one, two or all costs, and
            # from below.
            one, other = spent[rng.integers(len(spent), size=2)]
            highs = np.where(np.arange(3) <= kind, one, np.inf)
            lows = np.where(np.arange(3) == seed % 3, np.minimum(one, other), -np.inf)
            budgets = tuple(
                Budget(float(low) if kind == 3 else -math.inf, float(high))
                for low, high in zip(lows, highs, strict=True)
            )
            within = Costs(of, budgets).allows(spent)
            if not within.any():
                outcomes.add("none")
                continue
            chosen = choose(space, worth, Costs(of, budgets))
            chosen_of += 1
            assert chosen.proven
            assert Costs(of, budgets).allows(Costs(of, budgets)(choices.stack([chosen.arch])))[0]
            assert chosen.gain == worth.of(space, choices.stack([chosen.arch]))[0]
            if len(spent) < 3000:
                assert chosen.gain == pytest.approx(best[within].max(), abs=1e-6)
            else:
                assert chosen.gain >= best[within].max() - 1e-6
            outcomes.add("whole" if within.all() else "some")
    assert "some" in outcomes and solved == chosen_of


def test_what_a_tolerance_lets_in_is_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solver has wider budgets than there are; the best within them is found all the same."""
    space, limit = tiny_space.tiny(), block_program._limit
    archs, macs = every(space), costs.macs(space)
    spent = macs(archs)

    def wider(rows: Any, price: Any, budget: Budget) -> None:
        limit(rows, price, Budget(budget.low * 0.97, budget.high * 1.03, budget.unit))

    monkeypatch.setattr(block_program, "_limit", wider)
    for seed in range(6):
        worth = random_gains(replacements(space), seed)
        low, high = np.quantile(spent, [0.2, 0.3 + 0.1 * seed])
        within = (spent >= low) & (spent <= high)
        chosen = choose(space, worth, Costs((macs,), (Budget(low, high),)))
        assert chosen.gain == pytest.approx(worth.of(space, archs)[within].max(), abs=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_asked_for(name: str) -> None:
    space = SPACES[name]()
    asked = replacements(space)
    rows = choices.pack(asked.archs)
    assert rows[0].tolist() == choices.pack(choices.largest(space.menu)).tolist()
    names = [["/".join(map(str, path)) for path in group.paths] for group in asked.groups]
    assert sorted(itertools.chain(*names)) == sorted(choices.names(space.menu))
    normal = choices.pack(elastic_space.normal(space, asked.archs))
    assert len(np.unique(normal, axis=0)) == len(rows), "a network twice"
    for group, where in zip(asked.groups, asked.where, strict=True):
        assert where[-1] == 0 and len(where) == len(group.options)
        readers = [
            name
            for name, block in space.blocks.items()
            if {*group.paths} & {*block.index.paths, *(block.alive.paths if block.alive else ())}
        ]
        if group.block is None:
            assert len(group.paths) == 1 and (len(readers) != 1 or group.paths[0] in space.static)
        else:
            assert readers == [group.block]
        for options, place in zip(group.options, where, strict=True):
            changed = choices.largest(space.menu)
            for path, option in zip(group.paths, options, strict=True):
                changed = choices.replace(changed, path, np.int32(option))
            same = elastic_space.normal(space, choices.stack([changed]))
            np.testing.assert_array_equal(choices.pack(same)[0], normal[place])


@pytest.mark.parametrize("name", SPACES)
def test_scores_become_gains(name: str) -> None:
    """Where scores add up, each arch is worth what it scores."""
    space = SPACES[name]()
    asked, archs = replacements(space), every(space)
    planted = random_gains(asked, 0)
    planted = Gains(asked.groups, tuple(v - v[-1] for v in planted.values))
    scores = planted.of(space, asked.archs)
    # Options that make no other network are worth what that network is.
    found = gains(asked, 3.0 + scores).of(space, elastic_space.normal(space, archs))
    np.testing.assert_allclose(
        found, planted.of(space, elastic_space.normal(space, archs)), atol=1e-12
    )


def test_a_skipped_block_counts_nothing() -> None:
    """Its kernels and expansions are worth something where it is there alone."""
    space = stacked()
    asked = replacements(space)
    own = [i for i, g in enumerate(asked.groups) if g.block and space.blocks[g.block].alive]
    assert own
    values = [np.zeros(len(where)) for where in asked.where]
    for i in own:
        values[i][:] = 5.0
    archs = choices.stack([choices.smallest(space.menu), choices.largest(space.menu)])
    found = Gains(asked.groups, tuple(values)).of(space, archs)
    assert len(own) == 2 and found.tolist() == [0.0, 10.0]


def test_an_option_without_a_score_is_not_chosen() -> None:
    space = tiny_space.tiny()
    asked = replacements(space)
    scores = np.arange(len(choices.pack(asked.archs)), dtype=float)  # each better than the largest
    for broken in range(1, len(scores)):
        given = np.where(np.arange(len(scores)) == broken, np.nan, scores)
        arch = choose(space, gains(asked, given), Costs()).arch
        assert not np.isnan(gains(asked, given).of(space, choices.stack([arch]))[0])
    with pytest.raises(UserError, match="the score of the largest subnet is not a number"):
        gains(asked, np.where(scores == 0, np.nan, scores))
    with pytest.raises(UserError, match=r"came with scores of shape \(2,\)"):
        gains(asked, scores[:2])


def test_budgets_that_nothing_meets() -> None:
    space = tiny_space.tiny()
    worth = random_gains(replacements(space), 0)
    macs, memory = costs.macs(space), costs.peak_memory(space)
    ends = choices.stack([choices.smallest(space.menu), choices.largest(space.menu)])
    (least, most), (low, high) = (cost(ends).astype(int) for cost in (macs, memory))
    budgets = Budget(-math.inf, 5, "MACs"), Budget(-math.inf, 7, "bytes")
    with pytest.raises(UserError) as told:
        choose(space, worth, Costs((macs, memory), budgets))
    assert str(told.value) == (
        "no arch costs at most 5 MACs and at most 7 bytes; archs cost "
        f"from {least:,} to {most:,} MACs and, by themselves, from {low:,} to {high:,} bytes"
    )
    exactly = Costs((macs,), (Budget(-math.inf, least, "MACs"),))
    assert macs(choose(space, worth, exactly).arch) == least


def test_other_costs_are_refused() -> None:
    space = light_space.light()
    own = Costs((lambda archs: choices.pack(archs).sum(-1),), (Budget(0, 3, "options"),))
    with pytest.raises(UserError, match="a cost in options is not made of those of blocks"):
        program(space, random_gains(replacements(space), 0), own)


def test_a_front_is_the_best_of_each_budget() -> None:
    space = tiny_space.tiny()
    archs, worth = every(space), random_gains(replacements(space), 3)
    worth = worth._replace(values=tuple(map(np.sort, worth.values)))  # more is better
    of, free = (costs.macs(space), costs.peak_memory(space)), (FREE, FREE)
    made = program(space, worth, Costs(of, free, (-1, 0)))
    found, proven = spread(made, 8)
    spent, best = costs.macs(space)(archs), worth.of(space, archs)
    assert proven and len(found) > 3
    for one in found:
        within = spent <= costs.macs(space)(one.arch)
        assert one.gain == pytest.approx(best[within].max(), abs=1e-6)
    assert found[0].gain == pytest.approx(best.max(), abs=1e-6)
    assert min(costs.macs(space)(one.arch) for one in found) == spent.min()


def test_it_is_said_where_nothing_is_proven(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    space = tiny_space.tiny()
    whole = scipy.optimize.milp

    def hurried(*args: Any, **how: Any) -> Any:
        found = whole(*args, **how)
        found.status = 1
        return found

    searcher = BlockwiseChoice(bounds=2).build(space, Costs())
    state = searcher.init(jax.random.key(0))
    archs, state = searcher.ask(state)
    monkeypatch.setattr(scipy.optimize, "milp", hurried)
    n = len(choices.pack(archs))
    with caplog.at_level(logging.WARNING):
        searcher.tell(state, archs, np.zeros((n, 1)), np.zeros((n, 0)))
    assert "it is not proven that all are the best" in caplog.text
    monkeypatch.setattr(scipy.optimize, "milp", lambda *_, **__: Nothing())
    with pytest.raises(UserError, match="was found in 60 s; give the solver more time"):
        choose(space, random_gains(replacements(space), 0), Costs())


@dataclasses.dataclass
class Nothing:
    """What a solver returns that found none in time."""

    status: int = 1
    x: Any = None


class Planted:
    """A search whose scores add up, within a budget that binds."""

    def __init__(self) -> None:
        self.space = tiny_space.tiny()
        worth, macs = random_gains(replacements(self.space), 5), costs.macs(self.space)
        limit = float(np.median(macs(every(self.space))))
        self.costs = Costs((macs,), (Budget(-math.inf, limit, "MACs"),))
        self.score = lambda archs: worth.of(self.space, elastic_space.normal(self.space, archs))

    def run(self, score: Any = None, evaluations: int = 60, **rest: Any) -> History:
        searcher = BlockwiseChoice(bounds=4).build(self.space, self.costs)
        how = {"costs": self.costs, "key": jax.random.key(0), "evaluations": evaluations}
        return run(searcher, score or self.score, **how, **rest)


def test_a_search_finds_the_planted_front() -> None:
    """Where scores add up, all of it but the replacements is on the true front."""
    planted = Planted()
    space, budgets, score = planted.space, planted.costs, planted.score
    (macs,), (limit,) = budgets.of, [budget.high for budget in budgets.budgets]
    history = planted.run(evaluations=200)
    asked = len(choices.pack(replacements(space).archs))
    assert asked < len(history.scores) < 200, "it ends by itself"
    chosen = slice(asked, None)
    assert history.costs[chosen].max() <= limit
    archs = every(space)
    all_costs, all_scores = macs(archs)[:, None], score(archs)[:, None]
    within = all_costs[:, 0] <= limit
    objectives = budgets.objectives(all_scores[within], all_costs[within])
    front = objectives[pareto_front(objectives)]
    best = {tuple(np.round(point, 6)) for point in front}
    found = {tuple(np.round(p, 6)) for p in budgets.objectives(history.scores, history.costs)}
    # Those on the hull of budgets between the ends: most of the front, and its two ends.
    assert len(best & found) >= 0.5 * len(best)
    assert tuple(np.round(front[front[:, 0].argmax()], 6)) in found
    assert tuple(np.round(front[front[:, 1].argmax()], 6)) in found


def test_it_goes_on_after_a_failure_with_the_very_same_history(tmp_path: pathlib.Path) -> None:
    planted, file, calls = Planted(), tmp_path / "search.npz", 0
    whole = planted.run()

    def failing(archs: Arch) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls in (1, 3):
            raise RuntimeError("the machine was taken away")
        return planted.score(archs)

    for _ in range(2):
        with pytest.raises(RuntimeError):
            planted.run(failing, state_file=file)
    for found, wanted in zip(planted.run(failing, state_file=file), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path: pathlib.Path) -> None:
    planted, file = Planted(), tmp_path / "search.npz"
    whole = planted.run()
    asked = len(choices.pack(replacements(planted.space).archs))
    for n in (3, asked, asked + 2, 60):
        part = planted.run(evaluations=n, state_file=file)
        for found, wanted in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found, wanted[:n])


def test_what_is_known_of_replacements_is_used_and_not_asked_for_again() -> None:
    planted = Planted()
    whole = planted.run()
    asked = len(choices.pack(replacements(planted.space).archs))
    chosen = len(whole.scores) - 1
    for some in ([*range(asked)][::-1], [4, chosen, 0, 2], [chosen]):
        archs = choices.unpack(planted.space.menu, whole.archs[some])
        found = planted.run(known=(archs, whole.scores[some], whole.costs[some]))
        left = np.setdiff1d(np.arange(asked), some)
        np.testing.assert_array_equal(found.archs[: len(left)], whole.archs[left])
        rest = {row.tobytes() for row in whole.archs[np.setdiff1d(np.arange(len(whole[0])), some)]}
        assert {row.tobytes() for row in found.archs} == rest
