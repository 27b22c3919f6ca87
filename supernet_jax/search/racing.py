"""Racing: the front of full evaluation from fewer images, within a stated error probability.

A few candidates, the *scouts*, are evaluated on all images: those that seem to be the front after a
first look, and again after a few more rounds. What they get right in all is then known, and whoever
is on the front of full evaluation beats every scout that costs no more. Against that hypothesis we
bet, image by image, for each candidate that is no scout; whoever bets against a true one multiplies
the stake by 1/p with probability at most p (Ville 1939). So a candidate is dropped when the bets
against it have grown beyond doubt, and for certain when the images that are left cannot turn it.

- *Surprises.* What a candidate is expected to get right is subtracted from what it does, and put in
  again as a mean over all images that are left, so that only surprises count. It is foretold from
  the scouts' answers, by how it agreed with each of them so far (ridge regression).
- *Images that tell.* What nearly all get right says little about who is better. All candidates see
  the images in one random order, in which those that tell more tend to come early.
- *Without replacement.* Full evaluation is a sum over finitely many images. What a candidate lacks
  on those seen it must win on those left, which makes bets the safer the fewer are left
  (Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, J. R. Stat. Soc.
  B 86, 2024, arXiv 2010.09686; with unequal probabilities: Shekhar, Xu, Lipton, Liang & Ramdas,
  Risk-limiting financial audits via weighted sampling without replacement, UAI 2023,
  arXiv 2305.06884). The promise is about the result of full evaluation on these images, not about
  images to come.
- *Whatever is known may be used.* Expectations, probabilities and stakes may depend on everything
  seen before, also on what the scouts say of images to come: all that is random is the order.
- *Many comparisons.* Only a member of the front can be dropped wrongly. By Holm's rule (Scand. J.
  Stat. 6, 1979) a candidate must be beyond error / (candidates left): when the first member is
  dropped wrongly, all members are among those left, so one of at most so many bets has gone wrong.

Ties are those of `pareto_front`: of equal scores the cheaper one is on the front, of equal costs
too the first.

Shape letters: `N` candidates, `A` some of them, `K` images in all, `R` those not yet seen, `T` the
next of these, `J` stakes, `S` strata of images.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.search.front import pareto_front

# (positions [A], order [K], first, end) -> what they get right of images order[first:end],
# bool [A, end - first]
Look = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]

GROWTH = 1.05  # of the images seen, from one round to the next
SCOUTING = (0.02, 0.05, 0.1, 0.2, 0.4)  # shares of all images after which scouts are named
HARD = 0.3  # weight of images that hardly anyone gets right
STRATA = 8  # of images that some scouts got right and some did not
STOPS = (0.05, 0.15, 0.4, 0.7)  # shares of all images at which each of the stakes is to win
RISK = 0.5  # largest part of a stake that one image may lose
RIDGE = 30.0  # images that speak for agreeing with a scout as others do
MARGIN = 0.01  # nothing is expected with more certainty
CHUNK = 128  # candidates for which stakes are computed at once, for the sake of memory


class Guide(NamedTuple):
    """What the scouts say of images.

    Attributes:
        stratum: int `[K]`, images of which about as many scouts are right share one.
        expected: float64 `[K]`, how likely a candidate is right that nothing else is known of,
            above 0 and below 1.
        weight: float64 `[K]`, above 0: of those that are left, an image comes next with a
            probability in proportion to it.
    """

    stratum: np.ndarray
    expected: np.ndarray
    weight: np.ndarray


class Race(NamedTuple):
    """What a race knows. Candidates stand by rising cost, equals as they were given.

    Attributes:
        alive: bool `[N]`, those left.
        scouts: bool `[N]`, those evaluated on all images.
        right: bool `[N, K]`, what each got right of the images that it saw.
        seen: bool `[N, K]`, which those are.
        order: int `[K]`, the images, in the order in which candidates see them.
        images: how many of that order those left have seen.
        guide: to the images.
        wealth: float64 `[N, J]`, logarithm of what each stake against them has become.
        best: float64 `[N]`, logarithm of the most that the mean of the stakes ever was.
    """

    alive: np.ndarray
    scouts: np.ndarray
    right: np.ndarray
    seen: np.ndarray
    order: np.ndarray
    images: int
    guide: Guide
    wealth: np.ndarray
    best: np.ndarray


class Raced(NamedTuple):
    """How a race ended.

    Attributes:
        front: int `[F]`, as `pareto_front` gives it; all of them have seen all images.
        right: int `[N]`, images that each got right, of those it saw.
        images: int `[N]`, how many it saw.
        accuracy: float64 `[N]`, an estimate of what share of all images each gets right; exact for
            those that saw all. Not `right / images`: the images seen are the hard ones.
    """

    front: np.ndarray
    right: np.ndarray
    images: np.ndarray
    accuracy: np.ndarray


def race(
    costs: np.ndarray,
    look: Look,
    *,
    total: int,
    error: float = 0.05,
    batch: int,
    growth: float = GROWTH,
    seed: int = 0,
    on_round: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Raced:
    """Races candidates until those left have seen all images.

    Args:
        costs: `[N]`, without NaN.
        look: says what candidates get right of images, which have numbers from 0 to K - 1. Asked in
            an order that is random and no business of its own; of no image twice.
        total: K, images in all.
        error: the most probability, above 0 and below 1, that the front differs from
            `pareto_front` of full evaluation on the K images. It is over the order of the images.
        batch: rounds end at multiples of it, and at K.
        growth: images seen after a round over those before it, unless a batch is more.
        seed: of the order.
        on_round: called after each round with the positions of those left, and how many images each
            of them has seen.

    Raises:
        UserError: `error` is not between 0 and 1, or there is no candidate.
    """
    costs = np.asarray(costs, np.float64)
    if not 0 < error < 1:
        raise UserError(f"the error probability is {error}; it must be above 0 and below 1")
    if not len(costs):
        raise UserError("there is no candidate to race; give at least one")
    by_cost, rng = np.argsort(costs, kind="stable"), np.random.default_rng(seed)
    costs, state = costs[by_cost], begin(len(costs), rng.permutation(total))
    due = [share * total for share in SCOUTING]
    for end in rounds(total, batch=batch, growth=growth):
        racing = np.flatnonzero(state.alive & ~state.scouts)
        if not len(racing):
            break
        seen = np.asarray(look(by_cost[racing], state.order, state.images, end), bool)
        state = watch(state, costs, seen, error=error)
        if due and end >= due[0] and end < total:
            due = [images for images in due if images > end]
            new = _front_runners(state, costs)
            rest = np.zeros((0, total - end), bool)
            if len(new):
                rest = np.asarray(look(by_cost[new], state.order, end, total), bool)
            state = scouted(state, new, rest, rng)
        state = drop(state, costs, error=error)
        if on_round is not None:
            on_round(by_cost[state.alive], state.seen[state.alive].sum(1))
    left = np.flatnonzero(state.alive)
    front = left[pareto_front(state.right[left].sum(1), costs[left])]
    back = np.argsort(by_cost)
    right, images = state.right.sum(1)[back], state.seen.sum(1)[back]
    return Raced(by_cost[front], right, images, _accuracy(state)[back])


def rounds(total: int, *, batch: int, growth: float = GROWTH) -> list[int]:
    """Images seen after each round: one batch, then growing, all of them at last."""
    ends = [min(batch, total)]
    while ends[-1] < total:
        grown = -(-int(ends[-1] * growth) // batch) * batch
        ends.append(min(max(grown, ends[-1] + batch), total))
    return ends


def begin(candidates: int, order: np.ndarray) -> Race:
    """The race before the first image."""
    n, total = candidates, len(order)
    nothing = Guide(np.zeros(total, int), np.full(total, 0.5), np.ones(total))
    answers = np.zeros((n, total), bool)
    wealth = np.zeros((n, len(STOPS)))
    none = np.zeros(n, bool)
    return Race(~none, none, answers, answers, order, 0, nothing, wealth, np.zeros(n))


def watch(race: Race, costs: np.ndarray, right: np.ndarray, *, error: float) -> Race:
    """Takes down what those left, scouts aside, got right of the next images, and bets on it.

    Args:
        race: so far.
        costs: `[N]`, rising.
        right: bool `[A, T]`.
        error: as of `race`; the bets aim at what it demands.
    """
    racing = np.flatnonzero(race.alive & ~race.scouts)
    needed = _needed(race, costs) - race.right.sum(1)
    rest, wealth, best = race.order[race.images :], race.wealth.copy(), race.best.copy()
    for start in range(0, len(racing), CHUNK):
        some = racing[start : start + CHUNK]
        grown = bets(
            right[start : start + CHUNK],
            needed[some],
            expected=_expected(race, some),
            weight=race.guide.weight[rest],
            total=len(race.order),
            goal=math.log(len(costs) / error),
        )
        all_of = wealth[some][:, :, None] + np.cumsum(grown, 2)  # [A, J, T]
        top = all_of.max(1, keepdims=True)
        of_mean = top[:, 0] + np.log(np.mean(np.exp(all_of - top), axis=1))
        wealth[some] = all_of[:, :, -1]
        best[some] = np.maximum(best[some], of_mean.max(1))
    images = race.images + right.shape[1]
    race = _noted(race, racing, rest[: right.shape[1]], right)
    return race._replace(images=images, wealth=wealth, best=best)


def bets(
    right: np.ndarray,
    needed: np.ndarray,
    *,
    expected: np.ndarray,
    weight: np.ndarray,
    total: int,
    goal: float,
) -> np.ndarray:
    """By what each image multiplies stakes against "these candidates win what they need".

    The mean over the images left of what a candidate gets right is estimated from the next one: its
    surprise, over the probability with which this image was to come, plus the mean of what was
    expected. If the mean is at least `needed` over the images left, a stake times
    1 - lambda (estimate - needed / left) does not grow on average, with any lambda that was fixed
    before and does not let it become negative.

    Args:
        right: bool `[A, T]`, of the next images.
        needed: `[A]`, images that they must get right of those left; -inf if that is not known.
        expected: `[A, R]`, of the images left, the next ones first.
        weight: `[R]`, likewise; each image was drawn in proportion to it from those then left.
        total: K.
        goal: what the logarithm of the wealth must reach.

    Returns:
        Logarithms, float64 `[A, J, T]`.
    """
    steps = right.shape[1]
    left = len(weight) - np.arange(steps)
    weights, mean = _remaining(weight, steps), _remaining(expected, steps) / left
    share = weight[:steps] * left / weights  # of the probability that all of them have
    estimate = (right - expected[:, :steps]) / share + mean  # [A, T]
    won = np.cumsum(right, 1) - right
    least = (needed[:, None] - won) / left
    # The most that any image could have made of the estimate: of one that is right.
    most = np.max((1 - expected) / weight, 1, keepdims=True) * weights / left + mean
    spread = np.sum(expected * (1 - expected) / weight, 1) * weight.sum() / len(weight) ** 2
    stakes = _stakes(spread + 1 / total, least, most, left, total, goal)
    return np.log1p(-stakes * (estimate - np.where(np.isfinite(least), least, 0.0))[:, None, :])


def _remaining(values: np.ndarray, steps: int) -> np.ndarray:
    """Sums over the last axis from each of the first so many places on."""
    before = np.cumsum(values[..., :steps], -1) - values[..., :steps]
    return values.sum(-1, keepdims=True) - before


def scouted(race: Race, new: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> Race:
    """The race with further scouts, another guide, and another order of the images left.

    Args:
        race: so far.
        new: positions of the scouts `[A]`.
        right: bool `[A, R]`, what they got right of the images left, in their order.
        rng: decides the order.
    """
    rest = race.order[race.images :]
    scouts = race.scouts.copy()
    scouts[new] = True
    race = _noted(race._replace(scouts=scouts), new, rest, right)
    guide = _guide(race)
    # As if each came from those left with a probability in proportion to its weight, one by one
    # (Efraimidis & Spirakis, Inf. Process. Lett. 97, 2006).
    waits = rng.exponential(size=len(rest)) / guide.weight[rest]
    order = np.concatenate([race.order[: race.images], rest[np.argsort(waits)]])
    return race._replace(guide=guide, order=order)


def drop(race: Race, costs: np.ndarray, *, error: float) -> Race:
    """The race without those that are worse beyond doubt, or for certain."""
    behind = _needed(race, costs) - race.right.sum(1)
    alive = race.alive & (behind <= len(race.order) - race.seen.sum(1))
    falling = np.flatnonzero(alive)
    best = np.where(race.scouts, -np.inf, race.best)[falling]
    falling, best = falling[np.argsort(-best, kind="stable")], -np.sort(-best)
    beyond = best >= np.log((len(best) - np.arange(len(best))) / error)
    alive[falling[np.logical_and.accumulate(beyond)]] = False
    return race._replace(alive=alive)


def _front_runners(race: Race, costs: np.ndarray) -> np.ndarray:
    """Who seems to be on the front, but is no scout yet: int `[A]`."""
    left = np.flatnonzero(race.alive)
    front = left[pareto_front(_accuracy(race)[left], costs[left])]
    return front[~race.scouts[front]]


def _accuracy(race: Race) -> np.ndarray:
    """Of all images, by those that each has seen: float64 `[N]`.

    Each stratum counts for as much as there is of it. One image that is right as expected is added
    to what was seen of it, so that a stratum of which nothing was seen has an accuracy too.
    """
    accuracy = np.zeros(len(race.alive))
    for stratum in np.unique(race.guide.stratum):
        images = race.guide.stratum == stratum
        right, seen = race.right[:, images].sum(1), race.seen[:, images].sum(1)
        added = seen < images.sum()
        expected = race.guide.expected[images][0]
        accuracy += images.mean() * (right + added * expected) / (seen + added)
    return accuracy


def _noted(race: Race, who: np.ndarray, images: np.ndarray, right: np.ndarray) -> Race:
    """The race that knows what some got right of images."""
    answers, seen = race.right.copy(), race.seen.copy()
    answers[np.ix_(who, images)], seen[np.ix_(who, images)] = right, True
    return race._replace(right=answers, seen=seen)


def _needed(race: Race, costs: np.ndarray) -> np.ndarray:
    """Images that each must get right of all, if it is to be on the front: float64 `[N]`.

    More than any scout that comes before it, and as many as any of the same cost; -inf where there
    is none.
    """
    scored = np.where(race.scouts, race.right.sum(1), -np.inf)
    before = np.maximum.accumulate(np.concatenate([[-np.inf], scored[:-1]]))
    same = np.full(len(costs), -np.inf)
    group = np.searchsorted(costs, costs)  # the first of equal cost
    np.maximum.at(same, group, scored)
    return np.maximum(before + 1, same[group])


def _guide(race: Race) -> Guide:
    """What all scouts, and the other answers so far, say of images.

    The variance of what a candidate gets right of all, estimated from one image, is least if images
    come in proportion to the standard deviation of their answers, sqrt(p (1 - p)) (Neyman 1934).
    Bets also need that no surprise is large: an unexpected right answer, 1 - p over the weight,
    bounds the stake. So hard images weigh a part of 1 - p at least.
    """
    right, count = race.right[race.scouts].sum(0), race.scouts.sum()
    some = 1 + np.minimum(right * STRATA // count, STRATA - 1)
    stratum = np.where(right == 0, 0, np.where(right == count, STRATA + 1, some))
    others = race.alive & ~race.scouts
    hits, looks = (
        np.bincount(stratum, answers[others].sum(0), STRATA + 2)
        for answers in (race.right, race.seen)
    )
    p = ((hits + 0.5) / (looks + 1))[stratum]
    return Guide(stratum, p, np.maximum(np.sqrt(p * (1 - p)), HARD * (1 - p)))


def _expected(race: Race, who: np.ndarray) -> np.ndarray:
    """How likely some candidates are right, of each image left: float64 `[A, R]`."""
    seen, rest = race.order[: race.images], race.order[race.images :]
    base = race.guide.expected
    scouts = race.right[race.scouts].T.astype(float)
    told = np.concatenate([scouts, np.eye(STRATA + 2)[race.guide.stratum]], 1)
    surprises = race.right[np.ix_(who, seen)].T - base[seen][:, None]
    gram = told[seen].T @ told[seen] + RIDGE * np.eye(told.shape[1])
    more = told[rest] @ np.linalg.solve(gram, told[seen].T @ surprises)
    return np.clip(base[rest] + more.T, MARGIN, 1 - MARGIN)


def _stakes(
    variance: np.ndarray,
    least: np.ndarray,
    most: np.ndarray,
    left: np.ndarray,
    total: int,
    goal: float,
) -> np.ndarray:
    """How much to bet, `[A, J, T]`.

    If the mean of the rest is g less than `least` demands, wealth grows fastest, by g^2 / 2 v in
    the logarithm, at a stake of g / v (Kelly). A lack of G K images in all makes g = G K / left.
    Which G there is, is not known: stake j is on the G at which the goal is reached when the share
    `STOPS[j]` of the images has been seen.

    Args:
        variance: v of the estimate from one image, `[A]`.
        least: of the mean on the rest, `[A, T]`.
        most: that the estimate can be, `[A, T]`.
        left: images left before each, int `[T]`.
        total: K.
        goal: what the logarithm of the wealth must reach.
    """
    stops = np.asarray(STOPS)
    lacks = np.sqrt(2 * goal * total * (1 - stops) / stops / variance[:, None])  # G K / v, [A, J]
    # Beyond these ends there is nothing to win, or `drop` finds it out for certain.
    open_ = (least > 0) & (least < 1)
    bound = RISK / np.where(open_, most - least, 1.0)
    stakes = np.minimum(lacks[:, :, None] / left, bound[:, None, :])
    return np.where(open_[:, None], stakes, 0.0)
