"""How much decisions matter: planted effects are found, whatever archs a search has kept."""

import re
from typing import Any

import jax
import matplotlib.figure
import numpy as np
import pytest
import tiny_run
import tiny_space
from light_space import light
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from tiny_run import CONFIG

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.experiment import importance
from supernet_jax.experiment.importance import Importance, of_subnets
from supernet_jax.searching import encoding

SPACE = tiny_space.three_stages()
NAMES = choices.names(SPACE.menu)
ROWS = np.asarray(choices.pack(choices.sample(SPACE.menu, jax.random.key(0), (400,))))
EFFECTS = {"kernel_size/0": 1.0, "expand_ratio/0": 0.7, "expand_ratio/2": 0.25}  # of an option
OPTIONS = dict(zip(NAMES, map(len, jax.tree.leaves(SPACE.menu)), strict=True))
# One of n options, evenly apart by e, has the variance e^2 (n^2 - 1) / 12.
VARIANCES = {name: size**2 * (OPTIONS[name] ** 2 - 1) / 12 for name, size in EFFECTS.items()}
SHARES = {name: one / sum(VARIANCES.values()) for name, one in VARIANCES.items()}


def planted(rows: np.ndarray, *, noise: float = 0.1) -> np.ndarray:
    value = noise * np.random.default_rng(1).normal(size=len(rows))
    return value + sum(size * rows[:, NAMES.index(name)] for name, size in EFFECTS.items())


def found(rows: np.ndarray, values: np.ndarray) -> dict[str, float]:
    return means(of_subnets(SPACE, choices.unpack(SPACE.menu, rows), values))


def means(one: Importance) -> dict[str, float]:
    return dict(zip([part.name for part in one.parts], one.shares.mean(axis=0), strict=True))


def test_planted_effects_are_ranked_and_sized() -> None:
    archs = choices.unpack(SPACE.menu, ROWS)
    one = of_subnets(SPACE, archs, planted(ROWS))
    order = [one.parts[i].name for i in one.order() if len(one.parts[i].decisions) == 1]
    assert order[:3] == list(EFFECTS)
    assert one.shares.shape == (importance.CUTTINGS, len(one.parts)) and one.subnets == 400
    assert 0.9 < one.explained < 1
    for name, share in SHARES.items():
        assert means(one)[name] == pytest.approx(share, abs=0.05)
    others = {part.name for part in one.parts if len(part.decisions) == 1} - EFFECTS.keys()
    assert len(others) >= 5
    for name in others:
        assert abs(means(one)[name]) < 0.01
    again = of_subnets(SPACE, archs, planted(ROWS))
    np.testing.assert_array_equal(one.shares, again.shares)


def test_a_search_that_keeps_things_together_misleads_little() -> None:
    # A decision without an effect is as one with the largest in nine of ten subnets.
    rows, rng = ROWS.copy(), np.random.default_rng(2)
    from_, to = NAMES.index("kernel_size/0"), NAMES.index("width/2")
    rows[:, to] = np.where(rng.random(len(rows)) < 0.9, rows[:, from_], rows[:, to])
    values = planted(rows)
    correlation = np.corrcoef(rows[:, from_], rows[:, to])[0, 1]
    alone = np.corrcoef(rows[:, to], values)[0, 1] ** 2
    assert correlation > 0.8 and alone > 0.3  # it looks as if it did much
    shares = found(rows, values)
    assert abs(shares["width/2"]) < 0.01 and shares["kernel_size/0"] > 0.5
    # Trees, in which one decision stands for the other, give it at least twice as much.
    forest = RandomForestRegressor(50, max_features=1 / 3, random_state=0).fit(rows, values)
    given = permutation_importance(forest, rows, values, random_state=0).importances_mean
    assert given[to] / given.sum() > max(0.015, 2 * abs(shares["width/2"]))


def test_what_a_skipped_block_would_be_explains_nothing() -> None:
    space = light(widths=(3, 4, 6), resolutions=(6, 8))
    archs = choices.sample(space.menu, jax.random.key(0), (60,))
    rows = np.asarray(choices.pack(archs))
    values = rows[:, choices.names(space.menu).index("depth")] * 1.0
    shares = means(of_subnets(space, archs, values))
    assert shares["depth"] == pytest.approx(1, abs=0.05)
    assert max(shares["width"], shares["resolution"]) < 0.02


def test_where_a_decision_counts() -> None:
    space = tiny_space.tokens()
    names, encode = choices.names(space.menu), encoding.encoder(space)
    rows = np.asarray(choices.pack(choices.sample(space.menu, jax.random.key(0), (50,))))
    is_deep = rows[:, names.index("depth")] == 1
    assert 0 < is_deep.sum() < 50
    for name, where in (("num_heads/1", is_deep), ("num_heads/0", np.ones(50, bool))):
        there = importance.counts(space, rows, names.index(name), encode)
        np.testing.assert_array_equal(there, where)


def test_several_decisions_of_one_name_are_a_part() -> None:
    shares = found(ROWS, planted(ROWS))
    group = next(name for name in shares if re.fullmatch(r"expand_ratio, all \d", name))
    both = SHARES["expand_ratio/0"] + SHARES["expand_ratio/2"]
    assert shares[group] == pytest.approx(both, abs=0.05) and both > SHARES["expand_ratio/0"] + 0.1
    alone = importance.parts(light())
    assert [part.name for part in alone] == ["depth", "resolution", "width"]
    assert not importance.parts(light(widths=(3,), resolutions=(6,)))[1:]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(1), "1 subnets were evaluated, and importance needs at least 40"),
        (np.full(100, np.nan), "0 subnets were evaluated"),
        (np.r_[np.full(80, np.nan), np.arange(20.0)], "20 subnets were evaluated"),
        (np.full(60, 0.5), "all 60 subnets score the same"),
        (np.random.default_rng(3).normal(size=100), "no decision stands out from noise"),
    ],
)
def test_too_little_to_tell(values: np.ndarray, message: str) -> None:
    archs = choices.unpack(SPACE.menu, ROWS[: len(values)])
    with pytest.raises(sj.UserError, match=message):
        of_subnets(SPACE, archs, values)


def test_what_is_not_a_number_is_left_out() -> None:
    values = planted(ROWS)
    spoiled = np.concatenate([values, [np.nan, np.inf]])
    one = of_subnets(SPACE, choices.unpack(SPACE.menu, np.r_[ROWS, ROWS[:2]]), spoiled)
    assert one.subnets == 400
    assert max(means(one), key=lambda name: means(one)[name]) == "kernel_size/0"


def test_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = sj.open_run(tiny_run.searched(tmp_path_factory), CONFIG, read=False)
    with pytest.raises(sj.UserError, match=f"{tiny_run.NETWORKS} subnets were evaluated"):
        importance.importance(run)
    with pytest.raises(sj.UserError, match="split is 'val', allowed: held-out, test"):
        importance.importance(run, split="val")
    folder: Any = run.folder
    with pytest.raises(sj.UserError, match="takes an opened run"):
        importance.importance(folder)


def test_it_is_drawn() -> None:
    one = of_subnets(SPACE, choices.unpack(SPACE.menu, ROWS), planted(ROWS))
    ax = one.plot(matplotlib.figure.Figure().subplots())
    widths = [bar.get_width() for bar in ax.patches]
    assert len(widths) == min(importance.BARS, len(one.parts))
    assert widths == sorted(widths) and widths[-1] == pytest.approx(100 * max(means(one).values()))
