"""LINAS finds what its predictor can learn, and nothing without one."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from landscapes import MENU, WITHIN, nearness, needed, total
from tiny_space import tiny

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.searching import Linas, linas, nsga2, predictors, random_search
from supernet_jax.searching.predictors import Predictor

SEEDS, MOST = range(3), 240


def encode(archs):
    codes = choices.one_hot(MENU, archs)
    return np.concatenate([np.asarray(code, np.float32) for code in codes], axis=-1)


def constant() -> Predictor:
    """Learns nothing."""
    return Predictor(
        lambda features, scores: None,
        lambda model, features: (np.zeros(len(features)), np.zeros(len(features))),
    )


def small(predictor, costs=WITHIN):
    settings = {"first": 32, "batch": 8, "inner": 600}
    return linas(MENU, costs, encode=encode, predictor=predictor, **settings)


def test_the_optimum_is_found_in_fewer_evaluations_than_without_a_predictor():
    learnt = [needed(small(predictors.Ridge().build()), seed, MOST) for seed in SEEDS]
    assert max(learnt) <= 64
    nsga = [needed(nsga2(MENU, WITHIN, population=16), seed, MOST) for seed in SEEDS]
    random = [needed(random_search(MENU, WITHIN, batch=16), seed, MOST) for seed in SEEDS]
    assert max(learnt) < min(nsga + random)


def test_a_predictor_that_learns_nothing_does_not_help():
    assert min(needed(small(constant()), seed, 120) for seed in SEEDS) == np.inf


def test_fewer_archs_than_the_predictor_needs_are_refused_before_the_search():
    with pytest.raises(UserError, match=r"first is 32, .* from 40 scores or more"):
        small(constant()._replace(least=40))
    for kind in (predictors.Ridge, predictors.Svr, predictors.Boosting, predictors.Ensemble):
        least = kind().build().least
        features, scores = np.eye(least, dtype=np.float32), np.arange(float(least))
        with pytest.raises(UserError, match=f"at least {least}"):
            kind().build().fit(features[1:], scores[1:])


@dataclasses.dataclass(frozen=True)
class Mine:
    """A predictor of a user's, with what it predicts of N archs."""

    predicts: Callable[[int], object]

    def build(self, *, free=None):
        return Predictor(lambda *known: 0, lambda model, features: self.predicts(len(features)))


@pytest.mark.parametrize(
    ("predicts", "words"),
    [
        (lambda n: 1 / 0, r"predict of Mine fails: ZeroDivisionError.*test_linas.py, line"),
        (lambda n: np.zeros(n), "predict of Mine fails: ValueError"),
        (lambda n: (0.0, 0.0), r"means \(\) and spreads \(\) of 3 archs; .* shape \(3,\)"),
        (lambda n: (np.zeros((n, 1)),) * 2, r"means \(3, 1\)"),
    ],
)
def test_mistakes_in_a_predictor_of_a_user_are_said_with_their_place(predicts, words):
    _, predictor = Linas(predictor=Mine(predicts)).learner(tiny())
    with pytest.raises(UserError, match=words):
        predictor.predict(predictor.fit(np.eye(3), np.arange(3.0)), np.eye(3))
    with pytest.raises(UserError, match=r"fit of Mine fails: TypeError"):
        predictor.fit(unknown=1)


def test_a_part_that_makes_no_predictor_is_refused():
    part = dataclasses.make_dataclass("No", [], namespace={"build": lambda self, *, free: free})()
    with pytest.raises(UserError, match=r"No.build\(free=...\) returns a Free"):
        Linas(predictor=part).learner(tiny())


def test_scores_that_are_not_finite_teach_nothing():
    taught = []

    def fit(features, scores):
        taught.append(scores)

    searcher = small(constant()._replace(fit=fit))
    state = searcher.init(jax.random.key(0))
    archs, state = searcher.ask(state)
    scores = nearness(archs).astype(float)
    scores[:2] = -np.inf, np.nan
    state = searcher.tell(state, archs, scores[:, None], WITHIN(archs))
    archs, state = searcher.ask(state)
    assert len(total(archs)) == 2 and not taught  # of 32 two are missing
    state = searcher.tell(state, archs, nearness(archs)[:, None], WITHIN(archs))
    searcher.ask(state)
    assert len(taught) == 1 and np.isnan(taught[0][:2]).all() and np.isfinite(taught[0][2:]).all()
