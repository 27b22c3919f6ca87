"""How well scores rank subnets: correlations with intervals, within bands of cost, and what a pick
by them is worth.

Shape letters: `N` archs, `S` seeds.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES, SHARE = 2_000, 0.95
Statistic = Callable[[np.ndarray], float]  # indices of archs -> a number


class Interval(NamedTuple):
    """An estimate and its bootstrap interval.

    Attributes:
        value: of all archs.
        low, high: quantiles of resampled archs, 2.5 and 97.5 %.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def percent(self) -> str:
        """In percent, with the sign of a difference."""
        return f"{self.value:+.2%} [{self.low:+.2%}, {self.high:+.2%}]"


def bands(costs: np.ndarray, count: int) -> list[np.ndarray]:
    """Places of archs in bands of cost with equal numbers of archs, cheapest first."""
    return np.array_split(np.argsort(costs, kind="stable"), count)


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b; 0 where one of them has no order at all.

    As `scipy.stats.kendalltau`, which takes fifty times as long for so few.
    """
    first, second = (np.sign(x[:, None] - x) for x in (a, b))
    norm = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / norm) if norm else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho; 0 where one of them has no order at all."""
    first, second = (rank - rank.mean() for rank in (stats.rankdata(a), stats.rankdata(b)))
    norm = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / norm) if norm else 0.0


def mean_over(seeds: np.ndarray, truth: np.ndarray, measure: Callable) -> Statistic:
    """The mean over seeds of a measure of `(scores [N], truth [N])`, of some of the archs.

    Args:
        seeds: `[S, N]`, scores by each supernet.
        truth: `[N]`.
        measure: such as `kendall`.
    """
    return lambda of: float(np.mean([measure(row[of], truth[of]) for row in seeds]))


def within(groups: Sequence[np.ndarray], statistic: Statistic) -> Statistic:
    """The mean of a statistic over bands; of the archs asked, those that lie in each."""

    def mean(of: np.ndarray) -> float:
        parts = [of[np.isin(of, group)] for group in groups]
        return float(np.mean([statistic(part) for part in parts if len(part) > 1]))

    return mean


def interval(
    statistic: Statistic,
    n: int,
    *,
    groups: Sequence[np.ndarray] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A statistic of all archs with its bootstrap percentile interval over archs.

    Archs are drawn with replacement, within their band where bands are given. A pair of the same
    arch drawn twice is a tie in both orders, which tau-b leaves out. Seeds of supernets are not
    resampled: three are too few to tell a spread of.

    Args:
        statistic: of indices of archs.
        n: number of archs.
        groups: bands.
        resamples: number of draws.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    parts = [np.arange(n)] if groups is None else list(groups)
    draws = [
        statistic(np.concatenate([rng.choice(part, len(part)) for part in parts]))
        for _ in range(resamples)
    ]
    low, high = np.quantile(draws, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Interval(statistic(np.arange(n)), float(low), float(high))


def picked(seeds: np.ndarray, truth: np.ndarray, groups: Sequence[np.ndarray]) -> Statistic:
    """Truth of the arch that scores best in each band, minus the band's mean truth: the gain over
    a random pick. The mean over bands and seeds.
    """

    def gain(of: np.ndarray) -> float:
        found = []
        for group in groups:
            part = of[np.isin(of, group)]
            if len(part):
                best = [truth[part[np.argmax(row[part])]] for row in seeds]
                found.append(np.mean(best) - np.mean(truth[part]))
        return float(np.mean(found))

    return gain


def best_of(truth: np.ndarray, count: float) -> float:
    """The expected best of `count` different archs that were picked at random and trained alone.

    Between whole numbers it is interpolated; at least one, at most all.
    """
    ordered, n = np.sort(truth), len(truth)

    def whole(k: int) -> float:
        # probability that all k are among the i smallest; its steps are those of the best
        within = np.array([math.comb(i, k) for i in range(n + 1)]) / math.comb(n, k)
        return float(np.sum(np.diff(within) * ordered))

    count = min(max(count, 1.0), float(n))
    low = int(count)
    if low == n:
        return whole(n)
    return whole(low) + (count - low) * (whole(low + 1) - whole(low))
