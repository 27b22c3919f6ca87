"""Support vector regression with a Gaussian kernel: close archs score alike.

Shape letters: as in `predictor`; `V` support vectors.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from supernet_jax.errors import at_least, require
from supernet_jax.searching.predictors.predictor import Free, Predictor, checked, folds_of

WIDTHS = (0.05, 0.1, 0.2, 0.4)  # of the kernel: gamma times the sum of the features' variances
PENALTIES = (1.0, 3.0, 30.0)  # C, in deviations of the scores
FOLDS, MOST = 5, 1000  # by which the two are chosen, on so many archs at most
ROWS = 1024  # archs at a time in a prediction, so that [ROWS, V] stays in the cache


class _Machine(NamedTuple):
    vectors: np.ndarray  # float32 [V, F]
    weights: np.ndarray  # float32 [V], in units of the score
    gamma: float
    constant: float
    spread: float


def svr(*, epsilon: float = 0.05, seed: int = 0) -> Predictor:
    """A sum of Gaussian bumps at the archs with scores, few of which it needs.

    Width and penalty are chosen by cross-validation, and the root of the mean squared error there
    is the spread, the same for all archs. Fewer scores than features are enough.

    Args:
        epsilon: errors below it cost nothing, in standard deviations of the scores.
        seed: of the folds.

    Raises:
        UserError: `epsilon` is not from 0 to 1, or the seed is negative.
    """
    require(0 <= epsilon <= 1, f"epsilon is {epsilon}, must be from 0 to 1")
    at_least("seed", seed, 0)

    def fit(features: np.ndarray, scores: np.ndarray) -> _Machine:
        from sklearn.svm import SVR  # takes a second, which only a fit should pay

        def machine(rows: np.ndarray, width: float, penalty: float) -> SVR:
            gamma = width / max(float(features.var(axis=0).sum()), 1e-12)
            return SVR(C=penalty, gamma=gamma, epsilon=epsilon).fit(features[rows], wanted[rows])

        centre, unit = float(scores.mean()), float(scores.std())
        wanted = (scores - centre) / unit
        order = np.random.default_rng(seed).permutation(len(scores))[:MOST]
        fold = folds_of(len(order), FOLDS, seed=seed)
        errors = {}
        for how in itertools.product(WIDTHS, PENALTIES):
            errors[how] = 0.0
            for i in range(FOLDS):
                own = order[fold == i]
                found = machine(order[fold != i], *how).predict(features[own])
                errors[how] += float(np.sum((found - wanted[own]) ** 2)) / len(order)
        best = min(errors, key=lambda how: errors[how])
        last = machine(np.arange(len(scores)), *best)
        return _Machine(
            last.support_vectors_.astype(np.float32),
            (unit * last.dual_coef_[0]).astype(np.float32),
            float(last.gamma),
            centre + unit * float(last.intercept_[0]),
            unit * float(np.sqrt(errors[best])),
        )

    return checked(fit, _predict, least=FOLDS)


def _predict(model: _Machine, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As the machine itself does, by products of matrices, which is many times as fast."""
    mean = np.full(len(features), model.constant)
    own = np.sum(model.vectors**2, axis=1)
    for start in range(0, len(features), ROWS):
        some = features[start : start + ROWS]
        kernel = some @ model.vectors.T
        kernel *= 2
        kernel -= own
        kernel -= np.sum(some**2, axis=1)[:, None]
        kernel *= np.float32(model.gamma)
        mean[start : start + ROWS] += np.exp(kernel, out=kernel) @ model.weights
    return mean, np.full(len(mean), model.spread)


@dataclasses.dataclass(frozen=True)
class Svr:
    """Support vector regression with a Gaussian kernel: the best of few scores, as a rule."""

    epsilon: float = 0.05
    """errors below it cost nothing, in standard deviations of the scores; larger smooths more"""
    seed: int = 0
    """of the folds by which width and penalty are chosen"""

    def build(self, *, free: Free | None = None) -> Predictor:
        """The predictor; it ignores what is free, as it learns nothing before the first score."""
        del free
        return svr(epsilon=self.epsilon, seed=self.seed)
