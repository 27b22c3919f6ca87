"""Ridge regression: every feature adds its own to the score.

Shape letters: as in `predictor`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from supernet_jax.searching.predictors.predictor import Free, Predictor, checked

STRENGTHS = np.logspace(-3, 5, 33)  # of the penalty; features are about 0 to 1 in size


class _Linear(NamedTuple):
    weights: np.ndarray  # float32 [F]
    constant: float
    spread: float


def ridge() -> Predictor:
    """A linear function with a penalty on the squares of its weights.

    Its strength is the one with the least squared error when each arch is predicted by all others
    (leave-one-out, in closed form). The square root of the mean of that error is the spread, the
    same for all archs. Fewer scores than features are enough.
    """
    return checked(_fit, _predict, least=3)


def _fit(features: np.ndarray, scores: np.ndarray) -> _Linear:
    from sklearn.linear_model import RidgeCV  # takes a second, which only a fit should pay

    found = RidgeCV(STRENGTHS, store_cv_results=True).fit(features, scores)
    errors = found.cv_results_.mean(axis=0)
    return _Linear(
        found.coef_.astype(np.float32), float(found.intercept_), float(np.sqrt(errors.min()))
    )


def _predict(model: _Linear, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = (features @ model.weights).astype(np.float64) + model.constant
    return mean, np.full(len(mean), model.spread)


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Ridge regression: the fastest, for scores that decisions add up to."""

    def build(self, *, free: Free | None = None) -> Predictor:
        """The predictor; it ignores what is free, as it learns nothing before the first score."""
        del free
        return ridge()
