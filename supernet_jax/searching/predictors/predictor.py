"""What a predictor of scores is, and how good one is.

A predictor learns from features of archs (`encoding.encoder`) and their scores what other archs are
likely to score. It is a part with `build(free=) -> Predictor`; kinds that learn nothing before the
first score ignore `free`.

Shape letters: `N` archs with scores, `M` others, `K` archs without, `F` features, `S` statistics.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy  # its parts are imported when they are used: they take half a second

from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import at_least, require
from supernet_jax.searching.encoding import Encode

Model = Any  # what was learnt
CHUNK = 2**14  # archs at a time: their features are 10 MB or so, whatever the number of archs


class Predictor(NamedTuple):
    """Two pure functions: the same inputs give the same bits.

    Attributes:
        fit: `(features [N, F], scores [N]) -> model`; features are about 1 in size, and a score of
            NaN is one that is not known.
        predict: `(model, features [M, F]) -> (mean [M], spread [M])`, float64: the likely score and
            the standard deviation of the true one around it, at least 0, in units of the score.
        least: number of scores without which `fit` refuses to learn.
    """

    fit: Callable[[np.ndarray, np.ndarray], Model]
    predict: Callable[[Model, np.ndarray], tuple[np.ndarray, np.ndarray]]
    least: int = 2


class Free(NamedTuple):
    """What is known of archs without scoring them, as MACs and parameters.

    Attributes:
        features: `[K, F]`.
        statistics: `[K, S]`, in any units.
    """

    features: np.ndarray
    statistics: np.ndarray


class CrossValidated(NamedTuple):
    """How well archs are ranked that a predictor has not seen.

    Attributes:
        tau: Kendall's, between predictions and scores; 0 where either is the same for all.
        predictions: `[N]`, of each arch by the archs of other folds; NaN where the score is NaN.
    """

    tau: float
    predictions: np.ndarray


class _Fitted(NamedTuple):
    model: Model
    width: int  # F


def checked(
    fit: Callable[[np.ndarray, np.ndarray], Model],
    predict: Callable[[Model, np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    least: int,
) -> Predictor:
    """A predictor of functions that need not look at what they are given.

    Args:
        fit: is given float64 features and scores, all finite and not all the same.
        predict: is given float32 features as wide as those of the fit, and at least one row.
        least: number of scores without which there is nothing to learn.

    Raises:
        UserError: `fit` and `predict` of what is made raise it, as `usable` does.
    """

    def fitted(features: np.ndarray, scores: np.ndarray) -> _Fitted:
        features, scores, known = usable(features, scores, least=least)
        return _Fitted(fit(features[known], scores[known]), features.shape[1])

    def predicted(model: _Fitted, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = _matrix(features, np.float32)
        require(
            features.shape[1] == model.width,
            f"there are {features.shape[1]} features of each arch, but the predictor was fitted to "
            f"{model.width}; encode archs by the encoder of its space",
        )
        if not len(features):
            return np.zeros(0), np.zeros(0)
        mean, spread = predict(model.model, features)
        return np.asarray(mean, np.float64), np.asarray(spread, np.float64)

    return Predictor(fitted, predicted, least)


def usable(
    features: np.ndarray, scores: np.ndarray, *, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and scores as float64, and which scores are known.

    Raises:
        UserError: shapes do not match, a feature is not finite, a score is infinite, fewer than
            `least` are known, or all that are known are the same.
    """
    features, scores = _matrix(features, np.float64), np.asarray(scores, np.float64)
    require(
        scores.shape == features.shape[:1],
        f"scores have the shape {scores.shape} and features {features.shape}; there must be one "
        "score for each row of features",
    )
    known = ~np.isnan(scores)
    count = int(known.sum())
    require(
        not np.isinf(scores).any(),
        f"{np.isinf(scores).sum()} of {len(scores)} scores are infinite; write NaN for one that is "
        "not known",
    )
    require(
        count >= least,
        f"there are {count} scores{'' if count == len(scores) else ' that are not NaN'}, and the "
        f"predictor needs at least {least}; score more archs",
    )
    require(
        np.ptp(scores[known]) > 0,
        f"all {count} scores are {scores[known][0]:g}, from which nothing is learnt; score archs "
        "that differ",
    )
    return features, scores, known


def _matrix(features: Any, dtype: type) -> np.ndarray:
    features = np.asarray(features, dtype)
    require(
        features.ndim == 2,
        f"features have the shape {features.shape}, but must have two axes: archs, features",
    )
    require(
        bool(np.isfinite(features).all()),
        "features are not all finite; leave out archs whose costs are not known",
    )
    return features


def folds_of(count: int, folds: int, *, seed: int) -> np.ndarray:
    """The fold of each of `count` archs, `[count]`: at random, equally large but for 1."""
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)


def cross_validated(
    predictor: Predictor,
    features: np.ndarray,
    scores: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
) -> CrossValidated:
    """Fits to all archs but those of a fold, and predicts these, for each of the folds.

    Args:
        predictor: fitted once for each fold.
        features: `[N, F]`.
        scores: `[N]`, NaN where not known.
        folds: how many.
        seed: of the folds.

    Raises:
        UserError: there are fewer scores than folds, or too few for the predictor in what a fold
            leaves; or `fit` raises it.
    """
    at_least("folds", folds, 2)
    features, scores, known = usable(features, scores, least=folds)
    predictions, where = np.full(len(scores), np.nan), np.flatnonzero(known)
    fold = folds_of(len(where), folds, seed=seed)
    for i in range(folds):
        rest, own = where[fold != i], where[fold == i]
        model = predictor.fit(features[rest], scores[rest])
        predictions[own] = predictor.predict(model, features[own])[0]
    if np.ptp(predictions[known]) == 0:
        return CrossValidated(0.0, predictions)
    return CrossValidated(
        float(scipy.stats.kendalltau(predictions[known], scores[known]).statistic), predictions
    )


def scorer(
    encode: Encode, predictor: Predictor, model: Model, *, chunk: int = CHUNK
) -> Callable[[Arch], tuple[np.ndarray, np.ndarray]]:
    """What predicts many archs, a chunk at a time: `archs [M] -> (mean, spread)`.

    Args:
        encode: of the features that the model was fitted to.
        predictor: whose model it is.
        model: as `fit` gave it.
        chunk: archs at a time, whose features are in memory together.
    """

    def predict(archs: Arch) -> tuple[np.ndarray, np.ndarray]:
        archs = jax.tree.map(np.asarray, archs)
        count = len(jax.tree.leaves(archs)[0])

        def of(start: int) -> tuple[np.ndarray, np.ndarray]:
            some = jax.tree.map(lambda leaf: leaf[start : start + chunk], archs)
            return predictor.predict(model, encode(some))

        means, spreads = zip(*map(of, range(0, max(count, 1), chunk)), strict=True)
        return np.concatenate(means), np.concatenate(spreads)

    return predict
