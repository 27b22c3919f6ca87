"""A predictor of one's own: a Gaussian process, which knows where it knows little."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from supernet_jax.searching.predictors import Free, Predictor, checked

WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the kernel, in deviations of all features together
NOISES = (0.003, 0.03, 0.3)  # variance of the scores that archs do not explain


class Process(NamedTuple):
    """What was learnt from N archs: nothing but how their scores are to be mixed."""

    features: np.ndarray  # [N, F]
    scale: float
    mixed: np.ndarray  # [N]
    inverse: np.ndarray  # [N, N]
    noise: float
    centre: float
    unit: float


def gaussian_process() -> Predictor:
    """Kriging (Rasmussen and Williams 2006, algorithm 2.1): the normal distribution of a score,
    given those of others, if close archs score alike. Width and noise are the likeliest.
    """

    def fit(features: np.ndarray, scores: np.ndarray) -> Process:
        centre, unit = scores.mean(), scores.std()
        wanted = (scores - centre) / unit
        best, found = -math.inf, None
        for width in WIDTHS:
            scale = width * math.sqrt(features.var(axis=0).sum())
            kernel = alike(features, features, scale)
            for noise in NOISES:
                inverse = np.linalg.inv(kernel + noise * np.eye(len(scores)))
                likely = np.linalg.slogdet(inverse)[1] - wanted @ inverse @ wanted
                if likely > best:
                    best = likely
                    mixed = inverse @ wanted
                    found = Process(features, scale, mixed, inverse, noise, centre, unit)
        return found

    def predict(model: Process, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kernel = alike(features, model.features, model.scale)
        variance = 1 + model.noise - np.sum((kernel @ model.inverse) * kernel, axis=1)
        spread = model.unit * np.sqrt(np.maximum(variance, 0))
        return model.centre + model.unit * (kernel @ model.mixed), spread

    return checked(fit, predict, least=3)


def alike(first: np.ndarray, second: np.ndarray, scale: float) -> np.ndarray:
    """The kernel `[M, N]` of features `[M, F]` and `[N, F]`: 1 for equal ones."""
    squares = np.sum(first**2, axis=1)[:, None] + np.sum(second**2, axis=1)
    return np.exp(-(squares - 2 * first @ second.T) / (2 * scale**2))


@dataclasses.dataclass(frozen=True)
class Kriging:
    """A Gaussian process: a spread of its own for each arch, for a few thousand scores at most."""

    def build(self, *, free: Free | None = None) -> Predictor:
        return gaussian_process()
