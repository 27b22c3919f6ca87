"""Gradient boosting: many small trees, each of what the others leave.

Shape letters: as in `predictor`.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.errors import at_least, require
from supernet_jax.searching.predictors.predictor import Free, Predictor, checked, folds_of

FOLDS = 3  # by which the spread is found
SHARE = 0.5  # of the scores that a tree is grown on, without which trees are too much alike
COLUMNS = 0.1  # share of the features that a split may be of
LEAST = 20  # scores; of fewer a tree learns little more than their mean


class _Trees(NamedTuple):
    trees: Any
    spread: float


def boosting(
    *, trees: int = 500, depth: int = 3, learning_rate: float = 0.05, seed: int = 0
) -> Predictor:
    """Stochastic gradient boosting (Friedman 2002).

    The root of the mean squared error of a cross-validation is the spread, the same for all archs.
    It needs 20 scores, though not as many as features.

    Args:
        trees: how many.
        depth: of each; so many decisions may act together.
        learning_rate: the share of each tree that is added, up to 1.
        seed: of the scores and features that a tree is grown on, and of the folds.

    Raises:
        UserError: a number is out of range.
    """
    at_least("trees", trees, 1)
    at_least("depth", depth, 1)
    at_least("seed", seed, 0)
    require(0 < learning_rate <= 1, f"learning_rate is {learning_rate}, must be above 0, up to 1")

    def grown(features: np.ndarray, scores: np.ndarray) -> Any:
        from sklearn.ensemble import GradientBoostingRegressor  # takes a second

        return GradientBoostingRegressor(
            n_estimators=trees,
            max_depth=depth,
            learning_rate=learning_rate,
            subsample=SHARE,
            max_features=COLUMNS,
            random_state=seed,
        ).fit(features, scores)

    def fit(features: np.ndarray, scores: np.ndarray) -> _Trees:
        fold, missed = folds_of(len(scores), FOLDS, seed=seed), np.zeros(len(scores))
        for i in range(FOLDS):
            found = grown(features[fold != i], scores[fold != i])
            missed[fold == i] = found.predict(features[fold == i]) - scores[fold == i]
        return _Trees(grown(features, scores), float(np.sqrt(np.mean(missed**2))))

    def predict(model: _Trees, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return model.trees.predict(features), np.full(len(features), model.spread)

    return checked(fit, predict, least=LEAST)


@dataclasses.dataclass(frozen=True)
class Boosting:
    """Gradient boosting of small trees: for decisions that act together, and scores by hundreds."""

    trees: int = 500
    """small trees; more learn more, take longer, and follow noise in the end"""
    depth: int = 3
    """of a tree: so many decisions may act together; deeper ones need more scores"""
    learning_rate: float = 0.05
    """share of each tree that is added; larger ones need fewer trees, and follow noise"""
    seed: int = 0
    """of the scores and features that a tree is grown on, and of the folds"""

    def build(self, *, free: Free | None = None) -> Predictor:
        """The predictor; it ignores what is free, as it learns nothing before the first score."""
        del free
        return boosting(
            trees=self.trees, depth=self.depth, learning_rate=self.learning_rate, seed=self.seed
        )
