import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from tiny_space import tiny

from supernet_jax import searching
from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Choice
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs import macs, parameters
from supernet_jax.searching import (
    Budget,
    CodeLoss,
    Costs,
    History,
    Searcher,
    evolution,
    extend,
    front_per_bin,
    hypervolume,
    most_gained,
    no_history,
    pareto_front,
    random_search,
    ranks,
    run,
    state_file,
)
from supernet_jax.storage import user_code

# 3^10 * 4^2 = 944,784 archs: too many to be listed.
MENU = {"width": [Choice((0, 1, 2))] * 10, "depth": [Choice((0, 1, 2, 3))] * 2}
TINY = {"a": Choice((0, 1, 2, 3)), "b": [Choice((0, 1)), Choice((5,)), Choice((1, 2, 4))]}
TINY_ROWS = np.array(list(itertools.product(range(4), range(2), range(1), range(3))))
FITTING = TINY_ROWS[(TINY_ROWS.sum(1) >= 1) & (TINY_ROWS.sum(1) <= 4)]  # 19 of 24
SIZES = np.array([3, 4, 3, 3] * 6)
WIDE = [Choice(tuple(range(n))) for n in SIZES]  # so wide that mutants hardly ever come up twice
BUDGET = Budget(4, 12, "MACs")
TARGET = np.array([0, 3, 2, 0, 1, 0, 2, 0, 1, 0, 2, 0])  # costs 11


def total(archs):
    """Sum of the options."""
    return sum(jax.tree.leaves(archs))


def nearness(archs):
    """Highest, 0, at TARGET alone; every decision matters as much as it is off."""
    return -np.abs(choices.pack(archs) - TARGET).sum(-1)


def never(archs):
    raise AssertionError("scored an arch")


def random_small(menu=MENU, cost=total, budget=BUDGET, batch=20):
    return random_search(menu, Costs((cost,), (budget,)), batch=batch)


def evolution_small(menu=MENU, cost=total, budget=BUDGET, **settings):
    settings = {"step": 1, "population": 40, "mutations": 12, "crossovers": 8, **settings}
    return evolution(menu, Costs((cost,), (budget,)), **settings)


class ClimbState(NamedTuple):
    key: jax.Array
    best: dict
    moves: int
    step: np.ndarray


def climber(menu):
    """A searcher of a user: mutants of the best arch so far; its state has leaves of all kinds."""

    def init(key):
        best = {"row": jnp.zeros(12, jnp.int32), "score": jnp.bfloat16(-jnp.inf)}
        return ClimbState(key, best, 0, np.zeros((), np.int64))

    def ask(state):
        parent = choices.unpack(menu, jnp.tile(state.best["row"], (6, 1)))
        key = jax.random.fold_in(state.key, state.moves)
        mutants = choices.mutate(menu, key, parent, rate=0.2)
        return jax.tree.map(np.asarray, mutants), state._replace(step=state.step + 1)

    def tell(state, archs, scores, costs):
        row = jnp.asarray(choices.pack(archs))[int(np.argmax(scores))]
        better = float(np.max(scores)) > float(state.best["score"])
        best = {"row": row, "score": jnp.bfloat16(np.max(scores))} if better else state.best
        return state._replace(best=best, moves=state.moves + 1)

    return Searcher(init, ask, tell)


SEARCHERS = {
    "random": random_small(),
    "evolution": evolution_small(),
    "user": climber(MENU),
}


def search(searcher, score=nearness, seed=0, evaluations=130, cost=total, **rest):
    key = jax.random.key(seed)
    costs = Costs((cost,), (BUDGET,))
    return run(searcher, score, costs=costs, key=key, evaluations=evaluations, **rest)


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, strict=True)


def told(rows, scores, costs):
    """A history of packed archs."""
    columns = (np.asarray(column, float)[:, None] for column in (scores, costs))
    return History(np.asarray(rows, np.int32), *columns)


def children(searcher, rows, scores, costs, seed=0):
    """Packed archs that are asked for after these were told."""
    state = searcher.init(jax.random.key(seed))._replace(told=told(rows, scores, costs))
    return choices.pack(searcher.ask(state)[0])


# --- fronts


def brute_front(scores, costs):
    def beaten(i):
        return any(
            (scores[j] >= scores[i] and costs[j] <= costs[i])
            and (scores[j] > scores[i] or costs[j] < costs[i] or j < i)
            for j in range(len(scores))
        )

    return sorted((i for i in range(len(scores)) if not beaten(i)), key=lambda i: costs[i])


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_pareto_front_is_what_comparing_all_pairs_finds(levels):
    rng = np.random.default_rng(levels)
    for n in (0, 1, 2, 30, 100):
        scores, costs = rng.integers(0, levels, (2, n))  # few levels make many ties
        assert pareto_front(np.stack([scores, -costs], 1)).tolist() == brute_front(scores, costs)


def test_pareto_front_leaves_out_nan_and_keeps_infinities():
    scores, costs = [np.nan, -np.inf, 2, 3, 5], np.array([0, 1, 2, np.nan, np.inf])
    assert pareto_front(np.stack([scores, -costs], 1)).tolist() == [1, 2, 4]


def test_front_per_bin_follows_the_published_rule():
    # AlphaNet: bin = round(cost / step) * step; an entry is replaced only by a better one.
    rng = np.random.default_rng(0)
    scores, costs = rng.integers(0, 30, 300), rng.integers(0, 400, 300) / 2
    entries = {}
    for i, (s, c) in enumerate(zip(scores, costs, strict=True)):
        place = round(c / 10) * 10
        if place not in entries or scores[entries[place]] < s:
            entries[place] = i
    expected = [entries[place] for place in sorted(entries)]
    assert front_per_bin(scores, costs, step=10).tolist() == expected


def test_hypervolume_is_the_area_under_the_front():
    scores, costs = np.array([1, 3, 2, 9, 0.5, 3]), np.array([1, 4, 2, 11, 5, 4])
    # Above score 0.5 and below cost 10: 0.5 from cost 1 to 2, 1.5 from 2 to 4, 2.5 from 4 to 10.
    both = np.stack([scores, -costs], 1)
    assert hypervolume(both, reference=(0.5, -10)) == 0.5 + 2 * 1.5 + 6 * 2.5
    assert hypervolume(both, reference=(20, -10)) == 0.0


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_fronts_of_many_objectives_are_what_comparing_all_pairs_finds(objectives):
    rng = np.random.default_rng(objectives)
    for n, levels in itertools.product((0, 1, 40, 700), (3, 1000)):
        values = rng.integers(0, levels, (n, objectives)).astype(float)
        beats = (values[:, None] >= values).all(2) & (values[:, None] > values).any(2)
        twins = [(values[:i] == row).all(1).any() for i, row in enumerate(values)]
        wanted = np.flatnonzero(~beats.any(0) & ~np.array(twins, bool))
        found = pareto_front(values)
        assert sorted(found) == wanted.tolist()
        assert (np.diff(values[found, -1]) <= 0).all()
        if n == 40:
            rank, left = ranks(values), np.ones(n, bool)
            for level in range(rank.max() + 1):
                first = left & ~beats[left].any(0)
                assert np.array_equal(rank == level, first)
                left &= ~first
            assert not left.any()


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_is_exact(objectives):
    # On a grid of whole numbers the volume is the number of cells that some point covers.
    rng = np.random.default_rng(objectives)
    for n in (0, 1, 5, 30):
        values = rng.integers(-1, 7, (n, objectives)).astype(float)
        cells = np.stack(np.meshgrid(*[np.arange(7)] * objectives, indexing="ij"), -1)
        cells = cells.reshape(-1, objectives)
        covered = (values[None] >= cells[:, None] + 1).all(2).any(1).sum()
        assert hypervolume(values, reference=np.zeros(objectives)) == covered
    with_nan = np.array([[1.0, 1.0], [np.nan, 5.0]])
    assert hypervolume(with_nan, reference=np.zeros(2)) == 1.0


@pytest.mark.parametrize("objectives", [2, 3])
def test_what_adds_most_to_a_front_is_what_trying_all_finds(objectives):
    rng = np.random.default_rng(objectives)
    for n in (0, 1, 6):
        known, candidates = rng.random((n, objectives)), rng.random((12, objectives))
        both = np.concatenate([known, candidates])
        scale = np.ptp(both, axis=0)
        low = both.min(0) - 0.1 * scale

        def volume(points, low=low, scale=scale):
            return hypervolume((points - low) / scale, reference=np.zeros(len(low)))

        wanted, taken = [], known
        for _ in range(4):
            volumes = [volume(np.concatenate([taken, one[None]])) for one in candidates]
            if max(volumes) - volume(taken) < 1e-12:
                break
            wanted.append(int(np.argmax(volumes)))
            taken = np.concatenate([taken, candidates[wanted[-1:]]])
        assert most_gained(known, candidates, 4).tolist() == wanted
    beaten = np.full((3, objectives), 0.5)
    assert not len(most_gained(np.ones((1, objectives)), beaten, 2))


def test_costs_have_budgets_and_aims():
    costs = Costs((total, lambda a: -total(a)), (Budget(2, 4), Budget(-3, np.inf, "x")), (-1, 1))
    archs = choices.unpack(TINY, np.array([[0, 0, 0, 0], [3, 0, 0, 0], [3, 1, 0, 0], [3, 1, 0, 2]]))
    found = costs(archs)
    np.testing.assert_array_equal(found, [[0, 0], [3, -3], [4, -4], [6, -6]])
    assert costs.allows(found).tolist() == [False, True, False, False]
    np.testing.assert_allclose(costs.excess(found), [2 / 4, 0, 1 / 3, 2 / 4 + 1])
    np.testing.assert_array_equal(
        costs.objectives(np.ones((4, 1)), found), np.c_[np.ones(4), -found[:, 0], found[:, 1]]
    )
    only = dataclasses.replace(costs, aims=(0, 0))
    assert only.objectives(np.ones((4, 2)), found).shape == (4, 2)
    with pytest.raises(UserError, match="2 costs, 1 budgets and 2 aims"):
        dataclasses.replace(costs, budgets=(Budget(0, 1),))
    with pytest.raises(UserError, match=r"must be -1, 0 or 1"):
        dataclasses.replace(costs, aims=(2, 0))


# --- what all searchers promise

TINY_SPACE = tiny()  # 512 archs, of which 448 are different networks
ROWS = np.array(list(itertools.product(*(range(len(c)) for c in jax.tree.leaves(TINY_SPACE.menu)))))
PARTS: dict[str, Any] = {
    kind.name: kind for kind in vars(searching).values() if hasattr(kind, "build")
}  # the library's; a new one joins by being there
# Nothing of it is random; replacements are scored whatever they cost.
GREEDY = {"blockwise"}
ENDS = {*GREEDY, "hardcore"}  # before all archs within the budgets are scored
USERS = {"aging": user_code.run(ROOT / "docs" / "examples" / "searcher.py").Aging}
COSTS = Costs(
    (macs(TINY_SPACE), parameters(TINY_SPACE)),
    (Budget(20_000, 50_000, "MACs"), Budget(-np.inf, 2_500, "parameters")),
    (-1, 0),
)
FEW = 6  # archs of a generation, or so
EVALUATIONS = 32


class Case(NamedTuple):
    """A searcher, and what it searches."""

    searcher: Searcher
    costs: Costs
    score: Callable[[Any], np.ndarray]
    evaluations: int = EVALUATIONS


def small(name: str, costs: Costs = COSTS) -> Searcher:
    """Of a part whose whole numbers are all small."""
    kind = {**PARTS, **USERS}[name]
    numbers = {f.name: f.default for f in dataclasses.fields(kind) if type(f.default) is int}
    part = kind(**{key: min(n, FEW) for key, n in numbers.items()})
    more = user_code.taken(part, losses=lambda strategy: CodeLoss(1, slope))
    return part.build(TINY_SPACE, costs, **more)


def slope(code, batch):
    """A loss of codes that is, for an arch in its normal form, what `worth` says, negative."""
    leaves, menu = jax.tree.flatten(code)
    slopes = [-np.sin(1 + np.arange(len(leaf)) + 2 * i) for i, leaf in enumerate(leaves)]
    return sum(map(np.dot, leaves, slopes)), jax.tree.unflatten(menu, slopes)


@functools.cache
def case(name: str) -> Case:
    if name == "user":
        return Case(climber(MENU), Costs((total,), (BUDGET,)), nearness)
    # Aging evolution begins with as many as are in its first draw.
    return Case(small(name), COSTS, worth, 60 if name == "aging" else EVALUATIONS)


def worth(archs):
    """Another score for almost every network: options count for more or less."""
    rows = choices.pack(elastic_space.normal(TINY_SPACE, archs))
    return np.sum(np.sin(1 + rows + 2 * np.arange(rows.shape[1])), axis=1)


def networks(rows) -> set[bytes]:
    """What archs `[N, D]` are, the same for the same network."""
    archs = choices.unpack(TINY_SPACE.menu, np.asarray(rows, np.int32))
    return {row.tobytes() for row in choices.pack(elastic_space.normal(TINY_SPACE, archs))}


def go(what: Case, **rest):
    """The history of a search."""
    rest = {"score": what.score, "evaluations": what.evaluations, **rest}
    return run(what.searcher, costs=what.costs, key=jax.random.key(0), **rest)


@functools.cache
def whole(name: str) -> History:
    """Of a search that nothing interrupted."""
    return go(case(name))


def state_after(what: Case, generations: int, seed: int = 1):
    state = what.searcher.init(jax.random.key(seed))
    for _ in range(generations):
        archs, state = what.searcher.ask(state)
        state = what.searcher.tell(state, archs, what.score(archs)[:, None], what.costs(archs))
    return state


def copied(state):
    """Its leaves in NumPy."""
    keys = jax.dtypes.prng_key
    leaves = jax.tree.leaves(state)
    return [
        np.array(jax.random.key_data(x) if jnp.issubdtype(jnp.result_type(x), keys) else x)
        for x in leaves
    ]


every_searcher = pytest.mark.parametrize("name", [*PARTS, *USERS, "user"])
every_part = pytest.mark.parametrize("name", list(PARTS))


@every_searcher
def test_asking_is_a_function_of_the_state_and_of_the_seed(name):
    what = case(name)
    asked = what.searcher.ask
    for generations in (0, 2):
        state = state_after(what, generations)
        before = copied(state)
        archs, _ = asked(state)
        chex.assert_trees_all_equal(archs, asked(state)[0])
        chex.assert_trees_all_equal(before, copied(state))
        other = asked(state_after(what, generations, seed=2))[0]
        same = np.array_equal(choices.pack(archs), choices.pack(other))
        # Descents may end alike, whatever was drawn on their way.
        assert same == (name in GREEDY) or name == "hardcore"
    if name not in {
        "user",
        *GREEDY,
    }:  # the climber counts what it was told, the others how often they were asked
        again, _ = asked(asked(state)[1])
        assert not np.array_equal(choices.pack(archs), choices.pack(again))


@every_searcher
def test_resumes_after_a_failure_with_the_very_same_history(name, tmp_path):
    what, file = case(name), tmp_path / "runs" / "search.npz"
    calls = 0

    def failing(archs):
        nonlocal calls
        calls += 1
        if calls in (1, 3, 5):
            raise RuntimeError("the machine was taken away")
        return what.score(archs)

    for _ in range(3):
        with pytest.raises(RuntimeError):
            go(what, score=failing, state_file=file)
    assert_same(go(what, score=failing, state_file=file), whole(name))
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert_same(go(what, score=never, state_file=file), whole(name))  # nothing left to score


@every_searcher
def test_a_longer_search_goes_on_from_a_shorter_one(name, tmp_path):
    what, file = case(name), tmp_path / "search.npz"
    for n in (1, 7, 15, 26, what.evaluations, 20):  # most of them in the middle of a generation
        part = go(what, evaluations=n, state_file=file)
        assert_same(part, [x[:n] for x in whole(name)])


@every_searcher
@pytest.mark.parametrize(("value", "every"), [(np.nan, 3), (np.nan, 1), (-np.inf, 3)])
def test_scores_that_are_no_numbers_are_survived(name, value, every):
    """Those of every third arch, or of all."""
    if name in {"user", *GREEDY} and every == 1:
        return  # a climber needs a best arch, the others the largest
    what = case(name)

    def score(archs):
        rows = choices.pack(archs)
        gone = rows @ np.arange(rows.shape[1]) % every == 0
        if name in GREEDY:
            gone &= np.any(rows != choices.pack(choices.largest(TINY_SPACE.menu)), axis=1)
        return np.where(gone, value, what.score(archs))

    history = go(what, score=score)
    assert len(history.scores) == what.evaluations or name in ENDS
    assert 0.1 < np.mean(~np.isfinite(history.scores)) < 0.6 or every == 1


@every_searcher
def test_several_scores_are_searched(name):
    what = case(name)
    history = go(what, score=lambda archs: np.stack([what.score(archs), -total(archs)], axis=1))
    assert history.scores.shape[1] == 2
    assert len(history.scores) == what.evaluations or name in ENDS


@every_part
def test_asks_within_all_budgets_and_for_no_network_twice(name):
    history = whole(name)
    assert len(networks(history.archs)) == len(history.archs)
    assert history.archs.dtype == np.int32
    assert len(history.archs) == EVALUATIONS or name in ENDS
    if name not in GREEDY:
        assert COSTS.allows(history.costs).all()
    np.testing.assert_array_equal(history.costs, COSTS(choices.unpack(TINY_SPACE.menu, history[0])))
    free = COSTS(choices.unpack(TINY_SPACE.menu, ROWS.astype(np.int32)))
    for i, budget in enumerate(COSTS.budgets):  # neither budget holds by itself
        others = [b.allows(column) for b, column in zip(COSTS.budgets, free.T, strict=True)]
        assert not budget.allows(free[others[1 - i], i]).all()


@every_part
def test_does_not_ask_for_what_it_was_told_of_before(name):
    # Of networks within and beyond the budgets, some scores of which are not numbers.
    rows = np.random.default_rng(0).permutation(ROWS)[:200].astype(np.int32)
    archs = choices.unpack(TINY_SPACE.menu, rows)
    scores = np.where(np.arange(200) % 5 == 0, np.nan, worth(archs))[:, None]
    known = (archs, scores, COSTS(archs))
    assert 20 < np.sum(COSTS.allows(known[2])) < 180
    history = go(case(name), known=known, evaluations=25)
    assert len(history.scores) == 25 or name in ENDS
    if name not in GREEDY:
        assert COSTS.allows(history.costs).all()
    assert len(history.scores) and not networks(rows) & networks(history.archs)


@pytest.mark.parametrize("name", sorted({*PARTS} - ENDS))
def test_exhausts_a_small_space_and_ends(name):
    costs = dataclasses.replace(COSTS, budgets=(Budget(-np.inf, 14_000), COSTS.budgets[1]))
    history = go(Case(small(name, costs), costs, worth), evaluations=1000)
    archs = choices.unpack(TINY_SPACE.menu, ROWS.astype(np.int32))
    fitting = networks(ROWS[costs.allows(costs(archs))])
    assert networks(history.archs) == fitting
    assert 2 * FEW < len(fitting) == len(history.archs) < 60


@every_part
def test_budgets_that_nothing_meets_are_refused(name):
    costs = dataclasses.replace(COSTS, budgets=(COSTS.budgets[0], Budget(0, 900, "parameters")))
    with pytest.raises(UserError, match=r"no arch costs 20,000 to 50,000 MACs and 0 to 900 param"):
        small(name, costs).init(jax.random.key(0))


# --- what random search and evolution promise, on a menu that cannot be listed


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_asks_within_the_budget_and_never_twice(name):
    asked = []

    def score(archs):
        assert all(leaf.dtype == np.int32 for leaf in jax.tree.leaves(archs))
        asked.append(choices.pack(archs))
        return nearness(archs)

    history = search(SEARCHERS[name], score, evaluations=200)
    assert len(history.scores) == 200 == len(np.unique(history.archs, axis=0))
    np.testing.assert_array_equal(np.concatenate(asked), history.archs)
    np.testing.assert_array_equal(history.costs, history.archs.sum(1, keepdims=True))
    assert history.costs.min() >= 4 and history.costs.max() <= 12
    assert history.archs.max(0).tolist() == [3, 3] + [2] * 10  # depth before width
    scores = nearness(choices.unpack(MENU, history.archs))
    np.testing.assert_array_equal(history.scores[:, 0], scores)


def test_finds_the_last_archs_of_a_space_that_can_be_listed():
    # Of 4^8 archs 1 + 8 fit; as many uniform archs as are drawn find all of them in 2 % of cases.
    searcher = random_small(menu=[Choice((0, 1, 2, 3))] * 8, budget=Budget(23, 24))
    archs, _ = searcher.ask(searcher.init(jax.random.key(0)))
    assert sorted(total(archs)) == [23] * 8 + [24]


@pytest.mark.parametrize("make", [random_small, evolution_small])
def test_meets_a_budget_that_uniform_archs_never_meet(make):
    # Of 3^16 archs 1 + 16 + 120 + 16 cost at most 2; a uniform arch does with probability 4e-6.
    # Likewise 1 + 16 cost at least 31.
    low, high, fitting = (0, 2, 153) if make is evolution_small else (31, 32, 17)
    settings = {"mutations": 60} if make is evolution_small else {"batch": 100}
    searcher = make(menu=[Choice((0, 1, 2))] * 16, budget=Budget(low, high), **settings)
    history = search(searcher, lambda archs: np.asarray(total(archs)), evaluations=200)
    assert len(history.costs) == len(np.unique(history.archs, axis=0)) == fitting
    assert history.costs.min() == low and history.costs.max() == high


def test_a_tight_budget_is_sampled_evenly():
    # 12 decisions must take their first option, 3 are free: 64 of 4^15 archs. Cheap options of the
    # free ones help on the way to the budget, hence would prevail if walks ended there.
    menu = [Choice((0, 1, 2, 3))] * 15

    def weighted(archs):
        return 10 * total(archs[:12]) + total(archs[12:])

    searcher = random_search(menu, Costs((weighted,), (Budget(0, 9),)), batch=20)
    draws = [searcher.ask(searcher.init(jax.random.key(seed)))[0] for seed in range(6)]
    rows = np.concatenate([choices.pack(archs) for archs in draws])
    assert rows.shape == (120, 15) and not rows[:, :12].any()
    assert np.mean(rows[:, 12:]) == pytest.approx(1.5, abs=4 * np.sqrt(1.25 / 360))


def test_an_impossible_budget_is_refused_with_the_costs_of_the_space():
    key = jax.random.key(0)
    with pytest.raises(UserError, match=r"-9 to -1 MACs: the smallest arch costs 0, the .* 0 to"):
        random_small(budget=Budget(-9, -1, "MACs")).init(key)
    with pytest.raises(UserError, match=r"at least 7: .* the 24 of the space cost 0 to 6"):
        evolution_small(menu=TINY, budget=Budget(7, np.inf)).init(key)
    with pytest.raises(UserError, match=r"2.2 to 2.8: .*the nearest of them [23];"):
        random_small(budget=Budget(2.2, 2.8)).init(key)
    with pytest.raises(UserError, match="NaN"):
        random_small(menu=TINY, cost=lambda archs: total(archs) * np.nan).init(key)


def test_wrong_settings_are_refused():
    for low, high in ((3, 2), (np.nan, 2), (0, np.nan)):
        with pytest.raises(UserError, match="the lower one first"):
            Budget(low, high)
    wrong = ({"step": 0}, {"population": 0}, {"mutations": 0, "crossovers": 0}, {"crossovers": -1})
    for settings in (*wrong, {"mutation_rate": 0.0}, {"mutation_rate": 1.1}):
        with pytest.raises(UserError, match=next(iter(settings))):
            evolution_small(**settings)
    with pytest.raises(UserError, match="batch is 0"):
        random_small(batch=0)
    with pytest.raises(UserError, match="evaluations is 0"):
        search(SEARCHERS["random"], never, evaluations=0)


# --- random search and evolution


def test_random_search_is_uniform_over_the_budget():
    # Each arch that fits is asked for first in as many searches.
    searcher = random_small(menu=TINY, budget=Budget(1, 4), batch=1)
    state = searcher.init(jax.random.key(0))
    firsts = [choices.pack(searcher.ask(state._replace(generation=i))[0])[0] for i in range(600)]
    _, counts = np.unique(firsts, axis=0, return_counts=True)
    n = len(FITTING)
    chi_square = np.sum((counts - 600 / n) ** 2) / (600 / n)
    assert len(counts) == n and chi_square < n - 1 + 4 * np.sqrt(2 * (n - 1))


def test_evolution_beats_random_search():
    best = {
        name: [search(SEARCHERS[name], seed=s, evaluations=400).scores.max() for s in range(3)]
        for name in ("random", "evolution")
    }
    assert all(e > r for e, r in zip(best["evolution"], best["random"], strict=True))
    assert 0 in best["evolution"]  # the optimum, 1 of 944,784 archs
    assert np.mean(best["evolution"]) > np.mean(best["random"]) + 2


def test_the_first_generation_is_the_smallest_arch_and_uniform_ones():
    searcher = evolution_small(menu=WIDE, budget=Budget(0, 54), population=1500)
    first = children(searcher, np.zeros((0, 24)), [], [])
    assert first.shape == (1500, 24) and not first[0].any()
    for size in (3, 4):
        options = np.bincount(first[1:, size == SIZES].ravel(), minlength=4)
        expected = np.where(np.arange(4) < size, options.sum() / size, 0)
        np.testing.assert_allclose(options, expected, atol=4 * np.sqrt(options.sum() / size))
    above = evolution_small(menu=WIDE, budget=Budget(1, 54))
    assert children(above, np.zeros((0, 24)), [], []).any(1).all()


def test_mutants_change_each_decision_at_the_rate_and_to_another_option():
    searcher = evolution_small(menu=WIDE, budget=Budget(0, 54), mutations=2000, crossovers=0)
    parent = np.tile([0, 3, 2, 1], 6)
    mutants = children(searcher, [parent], [0.0], [36.0])
    assert len(mutants) == 2000
    changed = mutants != parent
    assert np.mean(changed) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 48000))
    np.testing.assert_allclose(np.mean(changed, 0), 0.2, atol=5 * np.sqrt(0.16 / 2000))
    # All other options alike: as many steps up (around the end) by 1 as by 2 (as by 3).
    steps = (mutants - parent) % SIZES
    for size in (3, 4):
        up = np.bincount(steps[:, size == SIZES].ravel())[1:]
        assert len(up) == size - 1
        np.testing.assert_allclose(up, up.mean(), atol=4 * np.sqrt(up.mean()))


def test_crossings_take_each_decision_from_either_parent():
    searcher = evolution_small(menu=WIDE, budget=Budget(0, 54), mutations=0, crossovers=2000)
    parents = [np.zeros(24, int), np.full(24, 2)]
    crossed = children(searcher, parents, [0.0, 0.0], [0.0, 48.0])
    assert len(crossed) == 2000 and set(np.unique(crossed)) == {0, 2}
    # Either parent is as often the first, so the rate shows in the variance alone: 24 * 0.25.
    second = np.sum(crossed == 2, 1)
    assert np.mean(second) == pytest.approx(12, abs=4 * np.sqrt(6 / 2000))
    assert np.var(second) == pytest.approx(6, abs=4 * 6 * np.sqrt(2 / 2000))
    np.testing.assert_allclose(np.mean(crossed, 0) / 2, 0.5, atol=5 * np.sqrt(0.25 / 2000))


def test_parents_are_drawn_uniformly_from_the_best_of_each_bin():
    # Three bins; the first holds ten archs, of which only the best may have children.
    rows = np.zeros((12, 24), int)
    rows[:10, :10] = np.eye(10) * 2  # cost 2
    rows[10, 10:] = 1  # cost 14
    rows[11, :] = 2  # cost 48
    scores = np.r_[np.arange(10) % 7, -5.0, -5.0]  # the best of the first bin is row 6
    settings = {"mutations": 3000, "crossovers": 0, "mutation_rate": 0.1}
    searcher = evolution_small(menu=WIDE, budget=Budget(0, 54), **settings)
    mutants = children(searcher, rows, scores, rows.sum(1))
    off = (mutants[:, None] != rows[[6, 10, 11]]).sum(-1)
    shares = np.bincount(off.argmin(1), minlength=3) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / 3000) + 0.01)
    # The option that only row 6 of its bin has survives in 90 % of its mutants, 5 % elsewhere.
    first = mutants[off.argmin(1) == 0]
    assert np.mean(first[:, 6] == 2) > 0.8
    assert np.mean(first[:, [0, 1, 2, 3, 4, 5, 7, 8, 9]] == 2) < 0.1


def test_evolution_goes_on_with_uniform_archs_where_its_operators_run_dry():
    searcher = evolution_small(menu=WIDE, budget=Budget(0, 54), mutations=0, crossovers=50)
    alone = children(searcher, [np.zeros(24)], [0.0], [0.0])  # crossings of one arch are itself
    assert len(np.unique(alone, axis=0)) == 50
    unscored = children(searcher, [np.zeros(24)], [np.nan], [0.0])
    assert len(unscored) == 40 and unscored.any(1).all()  # a population, without the told arch


# --- the loop and its file


def test_a_kill_while_saving_leaves_the_last_generation(tmp_path, monkeypatch):
    file, replace, saves = tmp_path / "search.npz", os.replace, 0

    def killed(*names):
        nonlocal saves
        saves += 1
        if saves == 4:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", killed)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        search(SEARCHERS["random"], state_file=file, on_progress=lambda h: seen.append(len(h[0])))
    assert seen == [20, 40]  # the first save is of the empty history; progress is told when saved
    scored, seen = [], []
    whole = search(
        SEARCHERS["random"],
        lambda a: scored.append(a) or nearness(a),
        state_file=file,
        on_progress=lambda h: seen.append(len(h[0])),
    )
    assert seen == [40, 60, 80, 100, 120, 130]  # what is there already is told, too
    assert sum(len(total(a)) for a in scored) == 130 - 40
    assert_same(whole, search(SEARCHERS["random"]))


def test_every_leaf_of_a_state_is_restored_as_it_was(tmp_path):
    state = {
        "key": jax.random.key(3, impl="rbg"),
        "keys": jax.random.split(jax.random.key(4)),
        "half": jnp.arange(3, dtype=jnp.bfloat16) / 3,
        "nested": [np.arange(4.0).reshape(2, 2) / 3, (7, 0.1, True, None)],
        "scalar": np.float32(0.1),
    }
    saved = state_file.Saved(state, extend(no_history(1), [np.int32([5])], [[np.nan]], [[0.1]]), 1)
    empty = jax.tree.map(lambda x: x[:0] if getattr(x, "ndim", 0) else x, state)
    state_file.write(tmp_path / "file", saved, {"seed": 1})
    read = state_file.read(
        tmp_path / "file", state_file.Saved(empty, no_history(0), 0), {"seed": 1}
    )
    chex.assert_trees_all_equal_structs(read, saved)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(saved), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(a) == jax.random.key_impl(b)
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


def test_a_state_that_is_no_array_is_refused_rather_than_pickled(tmp_path):
    saved = state_file.Saved({"bad": object()}, no_history(1), 0)
    with pytest.raises(UserError, match=r"bad.* is a object"):
        state_file.write(tmp_path / "file", saved, {})
    assert not list(tmp_path.iterdir())


def test_another_search_s_file_is_refused(tmp_path):
    file, searcher = tmp_path / "search.npz", SEARCHERS["random"]
    mine = {"space": "digits", "budget": [4, 12], "split": {"seed": 1, "size": 100}}
    rest = {"evaluations": 20, "state_file": file}
    search(searcher, identity=mine, **rest)
    search(searcher, never, identity={**mine, "budget": (4, 12)}, **rest)  # JSON has no tuples
    other = {"space": "cifar", "budget": [4, 12], "checkpoint": "a", "split": {"seed": 2}}
    with pytest.raises(UserError) as error:
        search(searcher, never, identity=other, **rest)
    message = str(error.value)
    for part in ('checkpoint is absent there and "a" here', 'space is "digits" there', "split is"):
        assert part in message
    assert "budget" not in message and "random key" not in message
    with pytest.raises(UserError, match=r"random key is \[0, 0\] there and \[0, 5\] here"):
        search(searcher, never, seed=5, identity=mine, **rest)
    with pytest.raises(UserError, match=r"another searcher: they differ in .*\.state\.best"):
        search(SEARCHERS["user"], never, identity=mine, **rest)


def test_leaves_of_another_kind_are_refused(tmp_path):
    def saved(leaf):
        return state_file.Saved({"leaf": leaf}, no_history(1), 0)

    state_file.write(tmp_path / "file", saved(np.zeros(3, np.float32)), {})
    for other in (np.zeros(3), np.zeros(3, np.int32), np.zeros((3, 1), np.float32), 1.0):
        with pytest.raises(UserError, match=r"differ in \.state\['leaf'\]"):
            state_file.read(tmp_path / "file", saved(other), {})


def test_a_searcher_with_other_settings_may_not_finish_a_generation(tmp_path):
    file = tmp_path / "search.npz"
    search(SEARCHERS["random"], evaluations=27, state_file=file)
    with pytest.raises(UserError, match="does not ask again for the 7 archs"):
        search(random_small(budget=Budget(4, 5)), never, state_file=file)


def test_damaged_files_are_refused(tmp_path):
    file, searcher = tmp_path / "search.npz", SEARCHERS["evolution"]
    rest = {"evaluations": 40, "state_file": file}
    history = search(searcher, **rest)
    good = file.read_bytes()
    damaged = [good[:n] for n in (0, 1, 50, len(good) // 2, len(good) - 1)]
    damaged += [b"\x80\x04N.", b"{}", b'{"identity": 1}']
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cut short.*another name, and the search begins anew"):
            search(searcher, never, **rest)
    np.savez(file, identity=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle=False"):
        search(searcher, never, **rest)
    for place in range(0, len(good), 37):  # a flipped bit does no harm, or is noticed
        file.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        with contextlib.suppress(UserError):
            assert_same(search(searcher, never, **rest), history)


def test_a_file_that_cannot_be_written_is_noticed_before_anything_is_scored(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot write"):
        search(SEARCHERS["random"], never, state_file=tmp_path / "file" / "search.npz")


def test_scores_of_the_wrong_shape_are_refused():
    with pytest.raises(UserError, match=r"20 archs came with scores of shape \(19, 1\)"):
        search(SEARCHERS["random"], lambda archs: nearness(archs)[1:])
    with pytest.raises(UserError, match=r"the cost of 20 archs has shape \(\)"):
        search(SEARCHERS["random"], cost=lambda archs: 1.0)
    with pytest.raises(UserError, match=r"the cost of 2 archs has shape \(\)"):
        random_small(cost=lambda archs: 5.0).init(jax.random.key(0))
