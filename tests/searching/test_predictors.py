"""Features of archs and every kind of predictor: a new kind joins by being there."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
from tiny_space import tiny

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Choice, Lookup
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config
from supernet_jax.searching import encoding, predictors
from supernet_jax.searching.predictors import Free, Predictor, cross_validated, scorer
from supernet_jax.storage import user_code

PARTS = {
    name: kind
    for name, kind in sorted(vars(predictors).items())
    if dataclasses.is_dataclass(kind) and hasattr(kind, "build")
}
PARTS["Kriging"] = user_code.run(ROOT / "docs/examples/predictor.py").Kriging
KINDS = list(PARTS)
SPACES = ("digits", "ofa_mobilenetv3", "autoformer_t", "decoder")


@functools.cache
def space_of(name: str) -> Space:
    return config.SPACES[name].build()


def drawn(space: Space, count: int, seed: int = 0):
    """Uniform archs, NumPy."""
    options = [len(choice) for choice in jax.tree.leaves(space.menu)]
    rows = np.random.default_rng(seed).integers(0, options, (count, len(options)), np.int32)
    return choices.unpack(space.menu, rows)


# Features


@pytest.mark.parametrize("name", SPACES)
def test_equal_networks_have_equal_features_and_others_have_not(name: str) -> None:
    space = space_of(name)
    archs = drawn(space, 800)
    # Neighbours of each, among which are many of the same network.
    near = choices.mutate(space.menu, jax.random.key(0), archs, rate=0.1)
    both = jax.tree.map(lambda a, b: np.concatenate([a, np.asarray(b)]), archs, near)
    networks = choices.pack(elastic_space.normal(space, both))
    rows = encoding.encoder(space)(both)
    assert rows.dtype == np.float32 and set(np.unique(rows)) == {0, 1}
    together = np.concatenate([networks, rows], axis=1)
    count, *others = (len(np.unique(x, axis=0)) for x in (networks, rows, together))
    assert others == [count, count]
    same = np.all(networks[:800] == networks[800:], axis=1)
    assert 0 < same.sum() < 800 and np.all(np.any(rows[:800] != rows[800:], axis=1) == ~same)
    assert np.all(np.ptp(rows, axis=0) > 0), "columns that are the same for all archs may go"


def test_what_changes_nothing_is_all_zeros() -> None:
    space = space_of("ofa_mobilenetv3")
    encode, menu = encoding.encoder(space), space.menu
    deep, shallow = choices.largest(menu), choices.smallest(menu)
    # Three options of each of 45 decisions and 25 of the size, each decision with its one.
    assert encode(deep).shape == (160,) and encode(deep).sum() == 46
    # Two of four blocks in each of five stages are skipped, with two decisions each.
    assert encode(shallow).sum() == 46 - 20
    for block, dead in ((3, True), (0, False)):
        other = choices.replace(shallow, ("ks", block), np.int32(2))
        assert np.array_equal(encode(other), encode(shallow)) == dead


def test_options_of_equal_sizes_share_a_code() -> None:
    """A width that is on offer twice, under two values."""
    base = tiny()
    path = ("width", 0)
    values = choices.get(base.menu, path).values
    menu = choices.replace(base.menu, path, Choice((values[0] - 1, *values)))

    def doubled(lookup: Lookup | None) -> Lookup | None:
        if lookup is None or path not in lookup.paths:
            return lookup
        axis = lookup.paths.index(path)
        table = np.concatenate([lookup.table.take([0], axis), lookup.table], axis)
        return Lookup(lookup.paths, table)

    blocks = {
        name: dataclasses.replace(block, index=doubled(block.index), alive=doubled(block.alive))
        for name, block in base.blocks.items()
    }
    space = dataclasses.replace(base, menu=menu, blocks=blocks)
    archs = drawn(base, 50)
    at = lambda i: choices.replace(archs, path, np.full(50, i, np.int32))  # noqa: E731
    first, second, third = (encoding.encoder(space)(at(i)) for i in range(3))
    np.testing.assert_array_equal(first, second)
    assert np.all(np.any(second != third, axis=1))
    assert set(first.sum(1)) == set(third.sum(1)) == set(encoding.encoder(base)(at(0)).sum(1))


def test_decisions_that_depend_on_many_are_looked_up_one_by_one(monkeypatch) -> None:
    archs = drawn(space_of("ofa_mobilenetv3"), 200)
    wanted = encoding.encoder(space_of("ofa_mobilenetv3"))(archs)
    monkeypatch.setattr(encoding, "LIMIT", 4)
    found = encoding.encoder(space_of("ofa_mobilenetv3"))(archs)
    assert sorted(map(tuple, wanted.T)) == sorted(map(tuple, found.T))


@pytest.mark.parametrize("seed", range(4))
def test_tables_have_what_decisions_decide_together(seed: int, monkeypatch) -> None:
    """Blocks of which any two decisions make one of two sizes: whether options of one
    are alike is up to the others, and which these are to still others.
    """
    monkeypatch.setattr(encoding, "ROWS", 1)
    options, rng = (2, 3, 3, 2), np.random.default_rng(seed)
    pairs = [(i, i + 1) for i in range(3)]
    asked = [(pair, rng.integers(0, 2, [options[i] for i in pair])) for pair in pairs]
    firsts = np.cumsum([0, *options])
    decisions = [
        encoding._Decision(options[i], int(firsts[i]), encoding._alike(i, asked)) for i in range(4)
    ]
    rows = np.indices(options).reshape(4, -1).T
    wanted = encoding._codes(decisions, rows)
    networks = np.stack([table[tuple(rows[:, pair].T)] for pair, table in asked], axis=1)
    together = np.concatenate([networks, wanted], axis=1)
    assert len(np.unique(together, axis=0)) == len(np.unique(wanted, axis=0))
    tables, slow = encoding._tables(decisions)
    assert not slow
    columns = [
        table.rows[rows[:, list(table.asks)] @ np.array(table.steps, int)] for table in tables
    ]
    changing = wanted[:, np.any(wanted != wanted[:1], axis=0)]
    found = np.concatenate(columns, axis=1)
    assert sorted(map(tuple, found.T)) == sorted(map(tuple, changing.T))


def test_costs_follow_as_columns_of_one_scale() -> None:
    space = space_of("digits")
    archs, macs = drawn(space, 3000, seed=1), costs.macs(space)
    plain, more = encoding.encoder(space), encoding.encoder(space, costs=(macs,))
    np.testing.assert_array_equal(more(archs)[:, :-1], plain(archs))
    column = more(archs)[:, -1]
    assert stats.spearmanr(column, macs(archs)).statistic > 0.9999
    assert abs(column.mean()) < 0.1 and abs(column.std() - 1) < 0.1  # another sample
    assert more(choices.largest(space.menu)).shape == (plain(archs).shape[1] + 1,)


def test_codes_have_no_features() -> None:
    space = space_of("digits")
    code = choices.one_hot(space.menu, choices.largest(space.menu))
    with pytest.raises(UserError, match="a code was given"):
        encoding.encoder(space)(code)


# Predictors

WIDTH = 24


def bits(count: int, seed: int = 0) -> np.ndarray:
    """Features of archs of 12 decisions with two options each."""
    first = np.random.default_rng(seed).integers(0, 2, (count, WIDTH // 2))
    return np.concatenate([first, 1 - first], axis=1).astype(np.float32)


def additive(features: np.ndarray) -> np.ndarray:
    return 70 + features[:, : WIDTH // 2] @ np.linspace(0.2, 1.5, WIDTH // 2)


def interacting(features: np.ndarray) -> np.ndarray:
    """No decision means anything without another."""
    signs = 2.0 * features[:, : WIDTH // 2] - 1
    return 70 + 2 * signs[:, 0] * signs[:, 1] + signs[:, 2] * signs[:, 3] + 0.2 * signs[:, 4]


@functools.cache
def built(kind: str) -> Predictor:
    return PARTS[kind]().build()


@functools.cache
def learnt(kind: str, function=additive, noise: float = 0.0, count: int = 200):
    """A fit to a planted function."""
    features = bits(count)
    scores = function(features) + noise * np.random.default_rng(1).normal(size=count)
    return built(kind).fit(features, scores)


def tau(kind: str, function) -> float:
    others = bits(400, seed=2)
    mean, _ = built(kind).predict(learnt(kind, function), others)
    if np.ptp(mean) == 0:
        return 0.0
    return stats.kendalltau(mean, function(others)).statistic


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_adds_up(kind: str) -> None:
    assert tau(kind, additive) > 0.85  # a half of the decisions alone give 0.6


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"Ridge"}))
def test_it_learns_what_decisions_make_together(kind: str) -> None:
    assert tau(kind, interacting) > 0.6


def test_what_adds_up_is_not_all() -> None:
    """The planted interaction is one: a linear function knows nothing of it."""
    assert abs(tau("Ridge", interacting)) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_in_units_of_the_score_and_spreads_cover(kind: str) -> None:
    """The truth with its noise is within two spreads as often as of a normal distribution, about;
    a spread of ten times the error would cover, too, and is refused."""
    others, noise = bits(400, seed=2), 0.5
    mean, spread = built(kind).predict(learnt(kind, noise=noise), others)
    assert mean.dtype == spread.dtype == np.float64 and mean.shape == spread.shape == (400,)
    truth = additive(others) + noise * np.random.default_rng(3).normal(size=400)
    error = np.sqrt(np.mean((mean - truth) ** 2))
    assert error < 1.5 * noise and spread.min() >= 0
    assert 0.9 < np.mean(np.abs(mean - truth) < 2 * spread) <= 1
    assert 0.7 * error < np.sqrt(np.mean(spread**2)) < 1.5 * error


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scores_give_the_same_bits(kind: str) -> None:
    """Made anew, with scores that are not known, and with what is free where that is ignored."""
    features = np.concatenate([bits(100, seed=4), bits(200)])
    scores = np.concatenate([np.full(100, np.nan), additive(bits(200))])
    again = PARTS[kind]().build(free=None if kind == "Ensemble" else free_of(100))
    found = again.predict(again.fit(features, scores), bits(50, seed=2))
    wanted = built(kind).predict(learnt(kind), bits(50, seed=2))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_few_scores_are_learnt_from_or_refused(kind: str) -> None:
    """Fewer than features, and a prediction is finite; a refusal says how many are needed."""
    for count in (2, 3, 6, 12):
        features = bits(count)
        try:
            model = built(kind).fit(features, additive(features))
        except UserError as error:
            least = int(str(error).split("at least ")[1].split(";")[0])
            assert count < least <= 20 and "\n" not in str(error)
        else:
            assert count > 2
            assert np.isfinite(built(kind).predict(model, bits(9, seed=2))).all()


REFUSED = {
    "shape \\(3,\\)": lambda x, y: (x, y[:3]),
    "two axes": lambda x, y: (x[0], y),
    "infinite": lambda x, y: (x, np.where(y > 74, np.inf, y)),
    "0 scores that are not NaN": lambda x, y: (x, np.full_like(y, np.nan)),
    "all 30 scores are 7,": lambda x, y: (x, np.full_like(y, 7)),
    "not all finite": lambda x, y: (np.where(x > 0, np.nan, x), y),
}


@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_fitted_is_refused(kind: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        built(kind).fit(*REFUSED[words](bits(30), additive(bits(30))))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_of_archs_of_the_same_space(kind: str) -> None:
    predict, model = built(kind).predict, learnt(kind)
    with pytest.raises(UserError, match=rf"23 features.*fitted to {WIDTH}"):
        predict(model, bits(4)[:, 1:])
    mean, spread = predict(model, bits(4)[:0])
    assert mean.shape == spread.shape == (0,)
    # Whatever comes with it; not to the bit, as other sizes are added up in another order.
    several = predict(model, bits(2000))[0]
    np.testing.assert_allclose(predict(model, bits(2000)[:1])[0], several[:1], rtol=1e-5)


def free_of(count: int) -> Free:
    """Two statistics that are close to the score."""
    features = bits(count, seed=6)
    about = additive(features)
    return Free(features, np.stack([about**2, 5 - about + features[:, 0]], axis=1))


def test_an_ensemble_begins_with_what_is_free() -> None:
    """From 20 scores it ranks far better than without, and than the statistics by themselves."""
    features, others = bits(20), bits(400, seed=2)

    def ranked(free: Free | None) -> float:
        predictor = PARTS["Ensemble"]().build(free=free)
        mean, _ = predictor.predict(predictor.fit(features, additive(features)), others)
        return stats.kendalltau(mean, additive(others)).statistic

    assert ranked(free_of(250)) > max(0.9, ranked(None) + 0.1)


FREE = {
    "a row of each": lambda x, y: (x, y[:5]),
    "not all finite": lambda x, y: (x, np.where(y > y.mean(), np.nan, y)),
    "of 12 archs, and 2 differ": lambda x, y: (x[:12], y[:12]),
    "of 100 archs, and 0 differ": lambda x, y: (x, np.ones_like(y)),
}


@pytest.mark.parametrize("words", FREE)
def test_what_is_free_fits_together(words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        PARTS["Ensemble"]().build(free=Free(*FREE[words](*free_of(100))))
    assert "\n" not in str(raised.value)


SETTINGS = (
    *(("Svr", {"epsilon": -1}), ("Svr", {"seed": -1}), ("Boosting", {"trees": 0})),
    *(("Boosting", {"learning_rate": 0}), ("Ensemble", {"members": 1}), ("Ensemble", {"width": 0})),
)


@pytest.mark.parametrize("kind, fields", SETTINGS, ids=str)
def test_settings_out_of_range_are_refused(kind: str, fields: dict) -> None:
    with pytest.raises(UserError, match=f"{next(iter(fields))} is {next(iter(fields.values()))}"):
        PARTS[kind](**fields).build()


def test_cross_validation_never_predicts_an_arch_by_itself() -> None:
    """Of pure noise nothing is foretold, though a kernel would know each arch by heart."""
    features = bits(100)
    noise = np.random.default_rng(5).normal(size=100)
    noise[7] = np.nan
    found = cross_validated(built("Svr"), features, noise)
    assert abs(found.tau) < 0.25
    assert np.flatnonzero(np.isnan(found.predictions)).tolist() == [7]
    planted = cross_validated(built("Ridge"), features, additive(features), folds=3, seed=1)
    assert planted.tau > 0.95
    assert planted.tau == stats.kendalltau(planted.predictions, additive(features)).statistic


def test_cross_validation_needs_a_score_for_each_fold() -> None:
    features = bits(4)
    with pytest.raises(UserError, match=r"there are 4 scores.*at least 5; score more"):
        cross_validated(built("Ridge"), features, additive(features))
    with pytest.raises(UserError, match="folds is 1, but must be at least 2"):
        cross_validated(built("Ridge"), features, additive(features), folds=1)


def test_many_archs_are_scored_in_chunks() -> None:
    space = space_of("digits")
    archs, encode = drawn(space, 1000), encoding.encoder(space)
    scores = np.asarray(costs.macs(space)(archs), float) / 1e5
    model = built("Ridge").fit(encode(archs), scores)
    whole = built("Ridge").predict(model, encode(archs))
    for found, wanted in zip(
        scorer(encode, built("Ridge"), model, chunk=300)(archs), whole, strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    none = jax.tree.map(lambda leaf: leaf[:0], archs)
    assert scorer(encode, built("Ridge"), model)(none)[0].shape == (0,)
