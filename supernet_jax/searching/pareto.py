"""What is best at which cost.

Scores are maximised and costs minimised. An arch whose score or cost is NaN is on no front.

Shape letters: `N` archs, `F` of them on the front.
"""

import numpy as np


def pareto_front(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Archs that no other beats: none costs as little and scores as much, and better in one.

    Args:
        scores: `[N]`.
        costs: `[N]`.

    Returns:
        Positions, int `[F]`, by rising cost (hence rising score). Of archs equal in both the first
        stands for all.
    """
    scores, costs, where = _comparable(scores, costs)
    order = np.lexsort((-scores, costs))  # stable: of equals the first stays first
    sorted_scores = scores[order]
    best_before = np.maximum.accumulate(np.concatenate([[-np.inf], sorted_scores]))[:-1]
    kept = sorted_scores > best_before
    kept[:1] = True  # also where its score is -inf
    return where[order[kept]]


def front_per_bin(scores: np.ndarray, costs: np.ndarray, *, step: float) -> np.ndarray:
    """The best-scoring arch of each cost bin: the front of AlphaNet's evolutionary search.

    Bin `i` holds the costs whose `cost / step` rounds to `i` (halves to even). Unlike a Pareto
    front it keeps bins that a cheaper one beats, so that the search does not lose the costly end.

    Args:
        scores: `[N]`.
        costs: `[N]`.
        step: width of a bin, in units of the cost.

    Returns:
        Positions, int `[F]`, by rising bin. Of equals the first stands for all.
    """
    scores, costs, where = _comparable(scores, costs)
    bins = np.rint(costs / step)
    order = np.lexsort((-scores, bins))
    _, first = np.unique(bins[order], return_index=True)
    return where[order[first]]


def hypervolume(scores: np.ndarray, costs: np.ndarray, *, reference: tuple[float, float]) -> float:
    """Area that the Pareto front dominates: one number to compare searches by.

    Args:
        scores: `[N]`.
        costs: `[N]`.
        reference: a low score and a high cost; archs beyond either count nothing.

    Returns:
        Area between front and reference, score units times cost units.
    """
    low, high = reference
    scores, costs = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    inside = (scores > low) & (costs < high)
    scores, costs = scores[inside], costs[inside]
    front = pareto_front(scores, costs)
    widths = np.diff(np.append(costs[front], high))
    return float(np.sum((scores[front] - low) * widths))


def _comparable(scores: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and costs without NaN, float64, and where they stood."""
    scores, costs = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    where = np.flatnonzero(~(np.isnan(scores) | np.isnan(costs)))
    return scores[where], costs[where], where
