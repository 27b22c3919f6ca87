"""What no other beats, in two and more dimensions.

Objectives are maximised: a cost that is to be small has its sign changed. An arch with an objective
that is NaN is on no front.

Shape letters: `N` archs, `O` objectives, `F` archs on the front.
"""

import heapq

import numpy as np

LEAST = 1e-12  # volume, of a box of about 1, that counts as a gain
BLOCK = 256  # archs compared with the front at a time


def pareto_front(objectives: np.ndarray) -> np.ndarray:
    """Archs that no other beats: none is as good in all objectives, and better in one.

    Args:
        objectives: `[N, O]`.

    Returns:
        Positions, int `[F]`, by falling last objective: if that is a cost, the cheapest first. Of
        archs equal in all the first stands for all.
    """
    values = np.asarray(objectives, np.float64)
    where = np.flatnonzero(~np.any(np.isnan(values), axis=1))
    # Who is beaten is beaten by one that stands before it, and by one of the front. Stable: of
    # equals the first stays first.
    where = where[np.lexsort(-values[where].T)]
    kept: list[int] = []
    front = np.zeros((0, values.shape[1]))
    for block in np.array_split(where, max(1, len(where) // BLOCK)):
        beaten = np.any(np.all(front[None] >= values[block][:, None], axis=2), axis=1)
        for i in block[~beaten]:
            if not np.any(np.all(values[kept] >= values[i], axis=1)):
                kept.append(int(i))
        front = values[kept]
    return np.asarray(kept, int)


def ranks(objectives: np.ndarray) -> np.ndarray:
    """By how many fronts each arch is beaten: 0 on the front, 1 on that of the others, and so on.

    Deb et al. 2002 (doi 10.1109/4235.996017), section III-A. Archs equal in all have equal ranks.

    Args:
        objectives: `[N, O]`, without NaN.

    Returns:
        int `[N]`.
    """
    values = np.asarray(objectives, np.float64)
    as_good = np.ones((len(values), len(values)), bool)
    for column in values.T:  # one at a time, for thousands of archs
        as_good &= column[:, None] >= column
    beats = as_good & ~as_good.T
    found = np.zeros(len(values), int)
    left = np.ones(len(values), bool)
    rank = 0
    while left.any():
        first = left & ~beats[left].any(0)
        found[first] = rank
        left &= ~first
        rank += 1
    return found


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
    scores, costs = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    where = np.flatnonzero(~(np.isnan(scores) | np.isnan(costs)))
    scores, costs = scores[where], costs[where]
    bins = np.rint(costs / step)
    order = np.lexsort((-scores, bins))
    _, first = np.unique(bins[order], return_index=True)
    return where[order[first]]


def hypervolume(objectives: np.ndarray, *, reference: np.ndarray) -> float:
    """Volume that the front dominates: one number to compare searches by. Exact.

    In two dimensions an area of steps. In more, slices along the last objective, each with the
    volume of what reaches it in the others.

    Args:
        objectives: `[N, O]`.
        reference: `[O]`, a low value of each objective; archs at or below one count nothing.

    Returns:
        Volume between front and reference, in the product of the objectives' units.
    """
    values, low = np.asarray(objectives, np.float64), np.asarray(reference, np.float64)
    values = values[np.all(values > low, axis=1)] - low
    return _volume(values[pareto_front(values)])


def most_gained(known: np.ndarray, candidates: np.ndarray, n: int) -> np.ndarray:
    """Candidates that add most to the volume of what is known, one after the other.

    Each is the one with the largest gain beside those taken before it. Gains never grow by what is
    taken, so that few of them are computed again (Minoux 1978, doi 10.1007/BFb0006528).

    Args:
        known: `[N, O]`, without NaN.
        candidates: `[M, O]`, without NaN.
        n: how many to take.

    Returns:
        Positions, int `[<= n]`, in the order of taking; fewer where no other gains anything.
    """
    both = np.concatenate([known, candidates])
    low, high = both.min(0), both.max(0)
    scale = np.where(high > low, high - low, 1.0)
    low = low - 0.1 * scale  # such that the ends gain something, too
    front, some = (known - low) / scale, (candidates - low) / scale
    front = front[pareto_front(front)]
    volume = _volume(front)
    gains = [(-np.inf, i) for i in range(len(some))]
    taken: list[int] = []
    while len(taken) < n and gains:
        fresh = -1
        while gains[0][1] != fresh:  # until the best is one that was computed last
            fresh = heapq.heappop(gains)[1]
            wider = np.concatenate([front, some[[fresh]]])
            heapq.heappush(gains, (volume - _volume(wider[pareto_front(wider)]), fresh))
        gain, best = heapq.heappop(gains)
        if gain > -LEAST:
            break
        taken.append(best)
        front = np.concatenate([front, some[[best]]])
        front = front[pareto_front(front)]
        volume -= gain
    return np.array(taken, int)


def _volume(front: np.ndarray) -> float:
    """Volume between a front `[F, O]`, by falling last objective, and the origin."""
    if front.shape[1] == 1:
        return float(front.max(initial=0.0))
    depth = -np.diff(np.append(front[:, -1], 0.0))
    if front.shape[1] == 2:
        return float(np.sum(np.maximum.accumulate(front[:, 0]) * depth))
    slices = (front[: i + 1, :-1] for i in range(len(front)))
    return sum(d * _volume(s[pareto_front(s)]) for d, s in zip(depth, slices, strict=True) if d > 0)
