"""HardCoRe-NAS: what is linear, what budgets bind, planted optima, and budgets without number."""

import functools
import itertools
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from light_space import light, tied
from test_perturbation import BATCH, PARAMS, SPACE
from tiny_run import CONFIG, supernet, trained
from tiny_space import tiny

from supernet_jax.elastic import choices
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs as evaluation_costs
from supernet_jax.evaluation.costs import macs, parameters
from supernet_jax.searching import Budget, CodeLoss, Costs, HeldOut, code_loss, hardcore, run
from supernet_jax.searching.hardcore import (
    HardCoRe,
    Weights,
    archs_within,
    balanced,
    descended,
    program_of_size,
    relaxed,
)
from supernet_jax.spaces.mobilenet import Stage, mobilenet

FREE = Budget(-np.inf, np.inf)
ENDS = (choices.smallest, choices.largest)


@functools.cache
def plain() -> Space:
    """256 archs of four blocks, each another network."""
    return mobilenet(
        "plain",
        resolutions=(6,),
        stem=(8, 16),
        stem_stride=1,
        stages=[Stage((8, 16), (1,), (3, 5), (1, 2), stride) for stride in (1, 2)],
        last=(8, 16),
        classes=5,
        input_channels=2,
        head_ratio=2,
    )


@functools.cache
def every(space: Space) -> np.ndarray:
    """All archs, packed."""
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    return np.array(list(itertools.product(*map(range, sizes))), np.int32)


def flat(code: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, float) for leaf in jax.tree.leaves(code)])


def one_hot(space: Space, rows: np.ndarray) -> np.ndarray:
    """Archs `[N, D]` as codes, `[N, V]`."""
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    return np.concatenate([np.eye(n)[rows[:, i]] for i, n in enumerate(sizes)], axis=1)


class Planted:
    """A loss of what each option does, and of what each two of different decisions do together."""

    def __init__(self, space: Space, seed: int, together: float):
        rng = np.random.default_rng(seed)
        sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
        self.space, self.places = space, np.cumsum(sizes)[:-1]
        owner = np.repeat(np.arange(len(sizes)), sizes)
        self.alone = rng.normal(size=len(owner))
        self.pairs = rng.normal(size=(len(owner),) * 2) * (owner[:, None] < owner)
        self.pairs *= together / np.sqrt(len(sizes))
        self.loss = CodeLoss(1, self.slope)

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Losses of codes `[N, V]`."""
        return codes @ self.alone + np.einsum("ni,ij,nj->n", codes, self.pairs, codes)

    def slope(self, code: Any, batch: int) -> tuple[float, Any]:
        z = flat(code)
        found = self.alone + (self.pairs + self.pairs.T) @ z
        menu = jax.tree.structure(self.space.menu)
        return float(self.of(z[None])[0]), jax.tree.unflatten(menu, np.split(found, self.places))


def at_most(space: Space, high: float) -> Costs:
    """MACs that only have to fit."""
    return Costs((macs(space),), (Budget(-np.inf, high, "MACs"),), (0,))


# --- what is linear


def random_weights(space: Space, seed: int) -> Weights:
    """Of all decisions but static ones, which have their last option."""
    rng = np.random.default_rng(seed)
    found = {}
    for path in choices.paths(space.menu):
        n = len(choices.get(space.menu, path))
        found[path] = np.eye(n)[-1] if path in space.static else rng.dirichlet(np.ones(n))
    return found


@pytest.mark.parametrize("make", [tiny, light, tied])
def test_costs_are_linear_in_each_group(make: Any) -> None:
    """Also where blocks share parameters, which count once."""
    space = make()
    costs = [macs(space), parameters(space)]
    codes, seen = relaxed(space, costs), set()
    weights, other = random_weights(space, 0), random_weights(space, 1)
    exact = [float(evaluation_costs.expected(cost)(codes.code(weights))) for cost in costs]
    np.testing.assert_allclose(codes.expected(weights), exact, rtol=1e-6)
    for group in codes.groups:
        seen |= set(group)
        for i in range(len(costs)):
            rest, slopes = codes.linear(i, weights, group)
            moved = {path: other[path] if path in group else weights[path] for path in weights}
            wanted = rest + sum(slopes[path] @ moved[path] for path in group)
            assert codes.expected(moved)[i] == pytest.approx(wanted, rel=1e-12)
    several = {p for p in choices.paths(space.menu) if len(choices.get(space.menu, p)) > 1}
    assert seen == several - set(space.static)
    assert len(codes.groups) > 1  # of one group nothing would be learnt
    # In all decisions at once they are not.
    half = {path: (weights[path] + other[path]) / 2 for path in weights}
    mean = (codes.expected(weights) + codes.expected(other)) / 2
    assert not np.allclose(codes.expected(half), mean, rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_step_solves_the_linear_programme_of_its_group(seed: int) -> None:
    space = plain()
    codes = relaxed(space, [macs(space)])
    group = max(codes.groups, key=len)
    weights, slope = random_weights(space, seed), random_weights(space, seed + 10)
    cost = codes.expected(weights)[0]
    budgets = (Budget(0.8 * cost, 1.1 * cost),)
    found = codes.lowest(slope, weights, group, budgets)
    assert all(np.array_equal(found[p], weights[p]) for p in weights if p not in group)
    assert budgets[0].low * (1 - 1e-9) <= codes.expected(found)[0] <= budgets[0].high * (1 + 1e-9)
    # One budget binds: one decision of the group is between options, and no more.
    assert sum(found[path].max() < 1 - 1e-6 for path in group) <= 1

    def value(some: Weights) -> float:
        return sum(float(slope[path] @ some[path]) for path in group)

    sizes = [len(weights[path]) for path in group]
    within = 0
    for options in itertools.product(*map(range, sizes)):
        hot = {p: np.eye(n)[o] for p, n, o in zip(group, sizes, options, strict=True)}
        if budgets[0].allows(codes.expected({**weights, **hot})[0]):
            within += 1
            assert value(found) <= value(hot) + 1e-9
    assert 0 < within < np.prod(sizes)


def test_codes_never_leave_the_budgets() -> None:
    space, planted, met = plain(), Planted(plain(), 3, 2.0), []
    codes = relaxed(space, [macs(space)])
    first = choices.smallest(space.menu)
    budgets = (Budget(-np.inf, 1.5 * float(macs(space)(first))),)

    def slope(code: Any, batch: int) -> Any:
        met.append(codes.expected(codes.weights(code))[0])
        return planted.slope(code, batch)

    start = balanced(codes, budgets, first)
    assert max(weights.max() for weights in start.values() if len(weights) > 1) < 1  # no arch
    rng = np.random.default_rng(0)
    descended(codes, CodeLoss(1, slope), budgets, start, steps=30, rng=rng)
    assert len(met) == 30 and max(met) <= budgets[0].high * (1 + 1e-9)
    assert max(met) > 0.9 * budgets[0].high  # it goes to what it may


# --- planted optima, by enumeration


def best_found(planted: Planted, high: float, seed: int, **how: Any) -> tuple[float, float, int]:
    """The lowest loss that a search finds, that of all archs within the budget, and evaluations."""
    space, costs = planted.space, at_most(planted.space, high)
    searcher = hardcore(space, costs, planted.loss, steps=20, budgets=1, **how)

    def score(archs: Any) -> np.ndarray:
        return -planted.of(one_hot(space, np.asarray(choices.pack(archs))))

    history = run(searcher, score, costs=costs, key=jax.random.key(seed), evaluations=64)
    assert costs.allows(history.costs).all()
    rows = every(space)
    fitting = costs.allows(costs(choices.unpack(space.menu, rows)))
    best = planted.of(one_hot(space, rows[fitting])).min()
    return -float(history.scores.max()), float(best), len(history.scores)


def test_the_optimum_is_found_where_options_do_not_interact() -> None:
    """Under every budget: the loss is its own slope, and the last programme is exact."""
    space = plain()
    planted = Planted(space, 0, 0.0)
    known = np.unique(macs(space)(choices.unpack(space.menu, every(space))))
    optima = []
    for high in known[5::31]:
        found, best, n = best_found(planted, float(high), 0)
        assert found == pytest.approx(best, abs=1e-9) and n <= 8
        optima.append(best)
    assert len(set(optima)) >= 4  # budgets bind


def test_the_optimum_is_mostly_found_where_options_interact() -> None:
    """Of 25 problems as these it was in 16 with one descent, in 24 until four have nothing new."""
    space, hits = plain(), []
    known = np.unique(macs(space)(choices.unpack(space.menu, every(space))))
    for seed in range(8):
        high = float(np.random.default_rng(seed).choice(known[5:]))
        found, best, n = best_found(Planted(space, seed, 1.0), high, seed, patience=4)
        hits.append(found <= best + 1e-9)
        assert n <= 10
    assert np.mean(hits) >= 7 / 8


def test_of_a_thousand_budgets_none_is_violated() -> None:
    """Of two costs at once, any of which may bind; what is likeliest by itself violates many."""
    space = light(resolutions=(6,), widths=(2, 3, 4, 5, 6))
    costs = Costs((macs(space), parameters(space)), (FREE, FREE), (0, 0))
    codes, made = relaxed(space, costs.of), program_of_size(space, costs, 0)
    rng, first = np.random.default_rng(0), choices.smallest(space.menu)
    low, high = (costs(choices.stack([make(space.menu)]))[0] for make in ENDS)
    argmax = 0
    for i in range(1000):
        budgets = tuple(Budget(-np.inf, most) for most in rng.uniform(low, high))
        planted = Planted(space, i, 1.0)
        (nearest, lowest) = archs_within(
            codes, made, planted.loss, budgets, first, steps=1 + i % 2, rng=np.random.default_rng(i)
        )
        allowed = Costs(costs.of, budgets)
        assert allowed.allows(costs(choices.stack([nearest, lowest]))).all()
        free = jax.tree.map(
            lambda slope: np.int32(np.argmin(slope)),
            planted.slope(codes.code(random_weights(space, i)), 0)[1],
        )
        argmax += not allowed.allows(costs(choices.stack([free])))[0]
    assert argmax > 200


# --- with a network


@functools.cache
def losses_of_archs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the planted network: all archs, the loss of each, and its MACs."""
    rows, found = every(SPACE), []
    for arch in choices.unstack(choices.unpack(SPACE.menu, rows)):
        code = choices.one_hot(SPACE.menu, arch)
        logits = mixed(SPACE, PARAMS, code, BATCH.inputs, size=2).logits
        shares = np.asarray(jax.nn.log_softmax(logits))
        found.append(-shares[np.arange(len(shares)), BATCH.targets].mean())
    return rows, np.asarray(found), macs(SPACE)(choices.unpack(SPACE.menu, rows))


def test_the_loss_of_a_code_is_the_mean_over_real_examples() -> None:
    rows, wanted, _ = losses_of_archs()
    n = len(BATCH.targets)
    filled = HeldOut(
        np.concatenate([BATCH.inputs, BATCH.inputs]),
        np.concatenate([BATCH.targets, 1 - BATCH.targets]),
        np.arange(2 * n) < n,
    )
    loss = code_loss(SPACE, PARAMS, [BATCH, filled])
    assert loss.batches == 2
    for row, value in zip(rows, wanted, strict=True):
        code = choices.one_hot(SPACE.menu, choices.unpack(SPACE.menu, row))
        for i in range(2):
            assert loss.slope(code, i)[0] == pytest.approx(value, rel=1e-5)
    code = jax.tree.map(lambda choice: np.full(len(choice), 1 / len(choice)), SPACE.menu)
    value, slope = loss.slope(code, 0)
    step = 1e-2  # of float32, along a difference of options
    moved = choices.replace(code, ("edge", 0), code["edge"][0] + step * np.array([-1, 0, 1]))
    rise = slope["edge"][0] @ np.array([-1, 0, 1])
    assert (loss.slope(moved, 0)[0] - value) / step == pytest.approx(rise, rel=0.05)


def test_the_best_network_within_each_budget_is_found() -> None:
    """Where the largest weight of a code misleads (see test_perturbation)."""
    rows, values, spent = losses_of_archs()
    loss = code_loss(SPACE, PARAMS, [BATCH])
    bound = []
    for high in np.unique(spent):
        searcher = hardcore(SPACE, at_most(SPACE, float(high)), loss, steps=12, budgets=1)
        archs, _ = searcher.ask(searcher.init(jax.random.key(0)))
        found = np.asarray(choices.pack(archs))
        assert (macs(SPACE)(archs) <= high).all()
        best = values[spent <= high].min()
        got = min(values[(rows == row).all(1)][0] for row in found)
        assert got == pytest.approx(best, abs=1e-5)
        bound.append(best)
    assert len(bound) == 3 and bound[1] < bound[0] - 0.1


def test_what_it_cannot_search() -> None:
    loss = Planted(plain(), 0, 0.0).loss
    with pytest.raises(UserError, match="not made of those of blocks"):
        hardcore(plain(), Costs((lambda archs: 1.0,), (FREE,)), loss)
    with pytest.raises(UserError, match="no arch costs at most 10 MACs"):
        hardcore(plain(), at_most(plain(), 10), loss).init(jax.random.key(0))
    for name in ("steps", "budgets", "patience"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            HardCoRe(**{name: 0})
    with pytest.raises(UserError, match="strategy is 'sliced'"):
        HardCoRe(strategy="sliced")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there are no batches"):
        code_loss(SPACE, PARAMS, [])
    code = jax.tree.map(lambda choice: np.full(len(choice), 1 / len(choice)), SPACE.menu)
    broken = code_loss(SPACE, jax.tree.map(lambda p: p * np.nan, PARAMS), [BATCH])
    with pytest.raises(UserError, match="weights have diverged"):
        broken.slope(code, 0)


def test_without_a_budget_and_without_a_cost() -> None:
    planted, best = Planted(plain(), 1, 0.0), every(plain())
    values = planted.of(one_hot(plain(), best))
    for costs in (Costs(), Costs((macs(plain()),), (FREE,))):
        searcher = hardcore(plain(), costs, planted.loss, steps=12, budgets=1)
        archs, _ = searcher.ask(searcher.init(jax.random.key(0)))
        found = {tuple(row) for row in np.asarray(choices.pack(archs))}
        assert tuple(best[values.argmin()]) in found


def test_a_run_is_searched_within_its_budget(
    tmp_path: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command again has nothing to do; a budget that nothing meets is said to be one."""
    folder = shutil.copytree(trained(tmp_path_factory), tmp_path / "run")
    words = ["search", folder, "--config", CONFIG, "--searcher", "hardcore", "--no-baseline"]
    few = ["--searcher.steps", 3, "--searcher.budgets", 1, "--searcher.strategy", "masked"]
    said = supernet(capsys, *words, *few, "--high", 9_000)
    assert said.status == 0, said.err
    first = json.loads((folder / "search.json").read_text("utf-8"))
    assert first["front"] and 0 < max(row[0] for row in first["all"]) <= 9_000
    assert supernet(capsys, *words, *few, "--high", 9_000).status == 0
    assert json.loads((folder / "search.json").read_text("utf-8"))["all"] == first["all"]
    said = supernet(capsys, *words, *few, "--high", 100)
    assert said.status == 2 and said.err.count("\n") == 1
    assert "no arch costs" in said.err and "archs cost from 148 to " in said.err
