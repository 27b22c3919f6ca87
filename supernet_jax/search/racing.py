"""Racing: the front of full evaluation from fewer images, within a stated error probability.

All candidates see the same images in random order. One that is on the front of full evaluation gets
more of all images right than every rival, that is every candidate that costs no more. Against that
hypothesis we bet, image by image; whoever bets against a true one multiplies the stake by 1/p with
probability at most p (Ville 1939). So a candidate is dropped when the bets against it have grown
beyond doubt, and for certain when the images that are left cannot turn it.

- *Without replacement.* Full evaluation is a sum over finitely many images. What a candidate has
  lost on those seen it must win on those left, which makes bets the safer the fewer are left
  (Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, J. R. Stat. Soc.
  B 86, 2024, arXiv 2010.09686, sampling without replacement). The promise is about the result of
  full evaluation on these images, not about images to come.
- *Paired.* A bet is on the difference between the candidate and a committee of its rivals on the
  same image. Whom and how much to bet on may depend on everything seen before, so that choosing
  the strongest rivals, and looking after every image, cost nothing.
- *Many comparisons.* Only a member of the front can be dropped wrongly. By Holm's rule (Scand. J.
  Stat. 6, 1979) a candidate must be beyond error / (candidates left): when the first member is
  dropped wrongly, all members are among those left, so one of at most so many bets has gone wrong.

Ties are those of `pareto_front`: of equal scores the cheaper one is on the front, of equal costs
too the first.

Shape letters: `N` candidates, `A` of them still in the race, `K` images in all, `M` members of a
committee, `J` stakes, `T` images of a block.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.search.front import pareto_front

# (positions [A], first image, end) -> right, bool [A, end - first]
Look = Callable[[np.ndarray, int, int], np.ndarray]

GROWTH = 1.1  # of the images seen, from one round to the next
BLOCK = 50  # images between two choices of committees
SIZES = (1, 2, 4)  # of committees
STOPS = (0.05, 0.15, 0.4, 0.7)  # shares of all images at which each of the stakes is to win
RISK = 0.5  # largest part of a stake that one image may lose
PRIOR = 10.0  # images of difference that a rival is credited with: a few prove nothing


class Race(NamedTuple):
    """What a race knows. Candidates stand by rising cost, equals as they were given.

    Attributes:
        alive: int `[A]`, positions of those left.
        images: seen by each of them.
        both: float64 `[A, A]`, images that two of them got right; the diagonal is of each alone.
        wealth: float64 `[A, J]`, logarithm of what each stake against them has become.
        best: float64 `[A]`, logarithm of the most that the mean of the stakes ever was.
    """

    alive: np.ndarray
    images: int
    both: np.ndarray
    wealth: np.ndarray
    best: np.ndarray


class Raced(NamedTuple):
    """How a race ended.

    Attributes:
        front: int `[F]`, as `pareto_front` gives it; all of them have seen all images.
        right: int `[N]`, images that each got right, of those it saw.
        images: int `[N]`, how many it saw.
    """

    front: np.ndarray
    right: np.ndarray
    images: np.ndarray


def race(
    costs: np.ndarray,
    look: Look,
    *,
    total: int,
    error: float = 0.05,
    batch: int,
    growth: float = GROWTH,
    on_round: Callable[[np.ndarray, int], None] | None = None,
) -> Raced:
    """Races candidates until those left have seen all images.

    The images must be in random order, drawn without regard to what is right.

    Args:
        costs: `[N]`, without NaN.
        look: says what candidates get right; asked for further and further images.
        total: K, images in all.
        error: the most probability, above 0 and below 1, that the front differs from
            `pareto_front` of full evaluation on the K images.
        batch: rounds end at multiples of it, and at K.
        growth: images seen after a round over those before it, unless a batch is more.
        on_round: called after each round with the positions left and the images seen.

    Raises:
        UserError: `error` is not between 0 and 1, or there is no candidate.
    """
    costs = np.asarray(costs, np.float64)
    if not 0 < error < 1:
        raise UserError(f"the error probability is {error}; it must be above 0 and below 1")
    if not len(costs):
        raise UserError("there is no candidate to race; give at least one")
    state = begin(costs)
    right, images = np.zeros(len(costs), np.int64), np.zeros(len(costs), np.int64)
    for end in rounds(total, batch=batch, growth=growth):
        seen = np.asarray(look(state.alive, state.images, end), bool)
        right[state.alive] += seen.sum(1)
        images[state.alive] = end
        state = drop(
            watch(state, costs, seen, total=total, error=error), costs, total=total, error=error
        )
        if on_round is not None:
            on_round(state.alive, end)
    front = state.alive[pareto_front(right[state.alive], costs[state.alive])]
    return Raced(front, right, images)


def rounds(total: int, *, batch: int, growth: float = GROWTH) -> list[int]:
    """Images seen after each round: one batch, then growing, all of them at last."""
    ends = [min(batch, total)]
    while ends[-1] < total:
        grown = -(-int(ends[-1] * growth) // batch) * batch
        ends.append(min(max(grown, ends[-1] + batch), total))
    return ends


def begin(costs: np.ndarray) -> Race:
    """The race before the first image."""
    n = len(costs)
    order = np.argsort(costs, kind="stable")
    return Race(order, 0, np.zeros((n, n)), np.zeros((n, len(STOPS))), np.zeros(n))


def watch(race: Race, costs: np.ndarray, right: np.ndarray, *, total: int, error: float) -> Race:
    """Bets on further images, block by block.

    Args:
        race: so far.
        costs: `[N]`.
        right: bool `[A, T]`, what those left got right of the next T images.
        total: K.
        error: as of `race`; the bets aim at what it demands.
    """
    for start in range(0, right.shape[1], BLOCK):
        race = _block(race, costs, right[:, start : start + BLOCK].astype(float), total, error)
    return race


def drop(race: Race, costs: np.ndarray, *, total: int, error: float) -> Race:
    """The race without those that are worse beyond doubt, or for certain."""
    rivals, lead = _rivals(costs[race.alive])
    right = np.diag(race.both)
    behind = lead + right[None, :] - right[:, None]  # what c must still win against f, [c, f]
    race = _keep(race, ~np.any(rivals & (behind > total - race.images), axis=1))
    falling = np.argsort(-race.best, kind="stable")
    left = len(falling) - np.arange(len(falling))
    beyond = race.best[falling] >= np.log(left / error)
    dropped = falling[np.logical_and.accumulate(beyond)]
    return _keep(race, ~np.isin(np.arange(len(falling)), dropped))


def _keep(race: Race, kept: np.ndarray) -> Race:
    return Race(
        race.alive[kept],
        race.images,
        race.both[np.ix_(kept, kept)],
        race.wealth[kept],
        race.best[kept],
    )


def _rivals(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of costs that rise: who keeps c off the front by beating it, and what c must lead by.

    Returns:
        bool `[A, A]`, whether f (column) is a rival of c (row); int `[A, A]`, images by which c
        must lead f to be on the front.
    """
    place = np.arange(len(costs))
    before = place[None, :] < place[:, None]
    same = (costs[None, :] == costs[:, None]) & (place[None, :] != place[:, None])
    return before | same, before.astype(int)


def _block(race: Race, costs: np.ndarray, right: np.ndarray, total: int, error: float) -> Race:
    """One block of images `[A, T]`; committees and variances are those before it."""
    rivals, lead = _rivals(costs[race.alive])
    members, weights = _committees(race.both, rivals)
    needed = np.sum(weights * np.take_along_axis(lead, members, 1), 1, keepdims=True)
    ahead, spread = _against(race.both, members, weights)
    difference = right - np.einsum("am,amt->at", weights, right[members])
    lost = ahead[:, None] - np.cumsum(difference, 1) + difference  # before each image
    left = total - race.images - np.arange(right.shape[1])
    mean = (needed + lost) / left  # at least this the rest must give if c is on the front
    variance = (spread + 1) / (race.images + 5)
    stakes = _stakes(variance, mean, left, total, math.log(len(costs) / error))
    stakes *= (weights.sum(1) > 0)[:, None, None]
    grown = np.log1p(-stakes * (difference - mean)[:, None, :])
    wealth = race.wealth[:, :, None] + np.cumsum(grown, 2)  # [A, J, T]
    top = wealth.max(1, keepdims=True)
    of_mean = top[:, 0] + np.log(np.mean(np.exp(wealth - top), axis=1))
    return Race(
        race.alive,
        race.images + right.shape[1],
        race.both + right @ right.T,
        wealth[:, :, -1],
        np.maximum(race.best, of_mean.max(1)),
    )


def _committees(both: np.ndarray, rivals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Against whom to bet on each candidate: the mean of its few strongest rivals.

    The mean of several varies less than one of them, but the best of them leads by more; the size
    is chosen for the largest lead in standard deviations.

    Returns:
        Members int `[A, M]` and their weights `[A, M]`, all zero for a candidate that no rival
        leads so far.
    """
    n, most = len(both), min(SIZES[-1], len(both))
    right = np.diag(both)
    ahead = right[None, :] - right[:, None]
    apart = right[None, :] + right[:, None] - 2 * both  # images that just one of them got right
    odds = np.where(rivals, ahead / np.sqrt(apart + PRIOR), -np.inf)
    members = np.argpartition(-odds, most - 1, axis=1)[:, :most]
    odds = np.take_along_axis(odds, members, 1)
    order = np.argsort(-odds, axis=1, kind="stable")
    members, odds = (np.take_along_axis(x, order, 1) for x in (members, odds))
    found, best = np.zeros((n, most)), np.zeros(n)
    for size in SIZES:
        weights = np.where((np.arange(most) < size) & np.isfinite(odds), 1 / size, 0.0)
        lead, spread = _against(both, members, weights)
        score = lead / np.sqrt(spread + PRIOR)
        better = (np.count_nonzero(weights, axis=1) == size) & (score > best)
        found[better], best[better] = weights[better], score[better]
    return members, found


def _against(
    both: np.ndarray, members: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """By how many images committees lead, and the sum of squares of the differences; `[A]`."""
    right = np.diag(both)
    lead = np.sum(weights * (right[members] - right[:, None]), 1)
    own = right * weights.sum(1)
    cross = np.sum(weights * np.take_along_axis(both, members, 1), 1)
    among = np.einsum(
        "am,an,amn->a", weights, weights, both[members[:, :, None], members[:, None, :]]
    )
    return lead, np.maximum(own - 2 * cross + among, 0.0)


def _stakes(
    variance: np.ndarray, mean: np.ndarray, left: np.ndarray, total: int, goal: float
) -> np.ndarray:
    """How much to bet, `[A, J, T]`.

    If the rest gives g images less than `mean` demands, wealth grows fastest, by g^2 / 2 v in the
    logarithm, at a stake of g / v (Kelly). A lead of G K images in all makes g = G K / left. Which
    G there is, is not known: stake j is on the G at which the goal is reached when the share
    `STOPS[j]` of the images has been seen.

    Args:
        variance: v of the difference on an image, `[A]`.
        mean: of the difference on the rest, at least, `[A, T]`.
        left: images left before each, int `[T]`.
        total: K.
        goal: what the logarithm of the wealth must reach.
    """
    stops = np.asarray(STOPS)
    leads = np.sqrt(2 * goal * total * (1 - stops) / stops / variance[:, None])  # G K / v, [A, J]
    # Beyond these ends the bet is decided: nothing to win, or `drop` finds it out for certain.
    open_ = np.abs(mean) < 1
    most = RISK / np.where(open_, 1 - mean, 1.0)
    return np.where(open_[:, None], np.minimum(leads[:, :, None] / left, most[:, None]), 0.0)
