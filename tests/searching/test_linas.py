"""LINAS finds what its predictor can learn, and nothing without one."""

import numpy as np
from landscapes import MENU, WITHIN, needed

from supernet_jax.elastic import choices
from supernet_jax.searching import linas, nsga2, predictors, random_search
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
