"""Racing: the front of full evaluation from fewer examples, within a stated error probability.

A few candidates, the *scouts*, are evaluated on all examples: those that seem to be the front after
a first look, and again after a few more rounds. What they get right in all is then known, and
whoever is on the front of full evaluation beats every scout that costs no more. Against that
hypothesis we bet, example by example, for each candidate that is no scout. Bets against a true one
do not grow on average, so large ones are evidence (Ville 1939). A candidate gets no more examples
once the bets against it have grown beyond doubt; or when the examples that are left cannot turn it,
for certain.

- *Surprises.* What a candidate is expected to get right is subtracted from what it does, and put in
  again as a mean over all examples that are left, so that only surprises count. It is predicted
  from the scouts' answers, by how it agreed with each of them so far (ridge regression).
- *Examples that tell.* What nearly all get right says little about who is better. All candidates
  see the examples in one random order, in which those that tell more tend to come early.
- *Without replacement.* Full evaluation is a sum over finitely many examples. What a candidate
  lacks on those seen it must win on those left, which makes bets the safer the fewer are left
  (Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, J. R. Stat. Soc.
  B 86, 2024, arXiv 2010.09686; with unequal probabilities: Shekhar, Xu, Lipton, Liang & Ramdas,
  Risk-limiting financial audits via weighted sampling without replacement, UAI 2023,
  arXiv 2305.06884). The promise is about the result of full evaluation on these examples, not about
  examples to come.
- *Whatever is known may be used.* Expectations, probabilities and stakes may depend on everything
  seen before, also on what the scouts say of examples to come: all that is random is the order.
- *Many comparisons.* Only members of the front can be dropped wrongly, and there are few. The mean
  of the bets against all of them, whoever they are, exceeds 1/error with probability at most error
  (closed testing with e-values: Vovk & Wang, E-values: calibration, combination and applications,
  Ann. Stat. 49, 2021). If k members at the most lost all that was bet against them, then bets of
  (k + 1)/error prove that another candidate is not one more. Scouts that were named before the
  first bet do not count.
- *Two laps.* So how much proves it is known when the front is. In the first lap, candidates against
  whom bets have grown wait; those nearest to the front go on until they have seen all examples.
  Then all of these are scouts, and predict better what those get right that waited. They go on,
  those that have seen most first, until the bets against them prove it.

Of equal scores the cheaper one is on the front, of equal costs too the first.

Shape letters: `N` candidates, `A` some of them, `K` examples in all, `R` those not yet seen, `T`
the next of these.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.searching.pareto import pareto_front

# (positions [A], order [K], first, end) -> what they get right of examples order[first:end],
# bool [A, end - first]
Look = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]

GROWTH = 1.05  # of the examples seen, from one round to the next
SCOUTING = (0.02, 0.05, 0.1, 0.2, 0.4)  # shares of all examples after which scouts are named
HARD = 0.3  # weight of examples that hardly anyone gets right
STRATA = 8  # of examples that some scouts got right and some did not
RISK = 0.5  # largest part of a stake that one example may lose
WAIT = 2.0  # times its stake, for a bet to make a candidate wait
PAUSE = 1.1  # examples seen when candidates next begin to wait; so many of them go on together
RIDGE = 30.0  # examples that speak for agreeing with a scout as others do
MARGIN = 0.01  # nothing is expected with more certainty
CHUNK = 128  # candidates for which stakes are computed at once, for the sake of memory


class Guide(NamedTuple):
    """What the scouts say of examples.

    Attributes:
        stratum: int `[K]`, examples of which about as many scouts are right share one.
        expected: float64 `[K]`, how likely a candidate is right that nothing else is known of,
            above 0 and below 1.
        weight: float64 `[K]`, above 0: of those that are left, an example comes next with a
            probability in proportion to it.
        told: float64 `[K, .]`, what the answers of others are predicted from: those of the scouts,
            and the strata, one column each.
    """

    stratum: np.ndarray
    expected: np.ndarray
    weight: np.ndarray
    told: np.ndarray


class Race(NamedTuple):
    """What a race knows. Candidates stand by rising cost, equals as they were given.

    Attributes:
        alive: bool `[N]`, all but those that are not on the front for certain.
        scouts: bool `[N]`, those evaluated on all examples.
        first: bool `[N]`, those of them that were named before anything was bet.
        waiting: bool `[N]`, those that get no examples, for the bets against them.
        right: bool `[N, K]`, what each got right of the examples that it saw.
        seen: bool `[N, K]`, which those are.
        won: int `[N]`, how many each got right.
        looks: int `[N]`, how many it saw.
        order: int `[K]`, the examples, in the order in which candidates see them.
        examples: how many of that order those that race have seen.
        guide: to the examples.
        wealth: float64 `[N]`, logarithm of what a stake of 1 against them has become.
    """

    alive: np.ndarray
    scouts: np.ndarray
    first: np.ndarray
    waiting: np.ndarray
    right: np.ndarray
    seen: np.ndarray
    won: np.ndarray
    looks: np.ndarray
    order: np.ndarray
    examples: int
    guide: Guide
    wealth: np.ndarray

    @property
    def racing(self) -> np.ndarray:
        """Those that see examples round by round: int `[A]`."""
        return np.flatnonzero(self.alive & ~self.scouts & ~self.waiting)


class Raced(NamedTuple):
    """How a race ended.

    Attributes:
        front: int `[F]`, the cheapest first; all of them have seen all examples.
        right: int `[N]`, examples that each got right, of those it saw.
        examples: int `[N]`, how many it saw.
        accuracy: float64 `[N]`, an estimate of what share of all examples each gets right; exact
            for those that saw all. Not `right / examples`: the examples seen are the hard ones.
    """

    front: np.ndarray
    right: np.ndarray
    examples: np.ndarray
    accuracy: np.ndarray


def race(
    costs: np.ndarray,
    look: Look,
    *,
    total: int,
    error: float = 0.05,
    batch: int,
    seed: int = 0,
    scouts: Sequence[int] | np.ndarray = (),
    on_round: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Raced:
    """Races candidates until it is known who is on the front.

    Args:
        costs: `[N]`, without NaN.
        look: says what candidates get right of examples, which have numbers from 0 to K - 1. Asked
            in an order that is random and no business of its own; of no example twice.
        total: K, examples in all.
        error: the most probability, above 0 and below 1, that the front differs from
            front of full evaluation on the K examples. It is over the order of the
            examples.
        batch: rounds end at multiples of it, and at K.
        seed: of the order.
        scouts: positions of candidates that see all examples before the others see any, as the
            front of earlier candidates, whose answers are known.
        on_round: called after each round with the positions of those that may be on the front, also
            of those that wait, and how many examples each of them has seen.

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

    def asked(who: np.ndarray, start: int, end: int) -> np.ndarray:
        return np.asarray(look(by_cost[who], state.order, start, end), bool)

    if len(scouts):
        known = np.flatnonzero(np.isin(by_cost, scouts))
        state = scouted(state, known, asked(known, 0, total), rng)
    first_lap, pause = True, 0.0
    while True:
        for end in rounds(total, batch=batch, seen=state.examples):
            if not len(state.racing):
                break
            state = watch(state, costs, asked(state.racing, state.examples, end))
            if due and due[0] <= end < total:
                due = [examples for examples in due if examples > end]
                new = front_runners(state, costs)
                state = scouted(state, new, asked(new, end, total), rng)
            if not first_lap:
                enough = beyond_doubt(state, costs, error=error)
            elif end >= pause:
                enough, pause = math.log(WAIT), end * PAUSE
            else:
                enough = math.inf
            state = drop(state, costs, enough)
            if on_round is not None:
                open_ = left(state, costs, error=error)
                on_round(by_cost[open_], state.looks[open_])
        open_ = left(state, costs, error=error)
        if not len(again := open_[state.waiting[open_]]):
            break
        state, due, first_lap = taken_back(state, again, rng), [], False
    front, back = by_cost[_front(state, costs)], np.argsort(by_cost)
    return Raced(front, state.won[back], state.looks[back], _accuracy(state)[back])


def rounds(total: int, *, batch: int, growth: float = GROWTH, seen: int = 0) -> list[int]:
    """Examples seen after each round: one batch more, then growing, all of them at last."""
    ends = [seen]
    while ends[-1] < total:
        grown = -(-int(ends[-1] * growth) // batch) * batch
        ends.append(min(max(grown, ends[-1] + batch), total))
    return ends[1:]


def begin(candidates: int, order: np.ndarray) -> Race:
    """The race before the first example."""
    n, total = candidates, len(order)
    none, nothing, zero = np.zeros(n, bool), np.zeros((n, total), bool), np.zeros(n, int)
    guide = Guide(np.zeros(total, int), np.full(total, 0.5), np.ones(total), np.zeros((total, 0)))
    return Race(
        alive=~none,
        scouts=none,
        first=none,
        waiting=none,
        right=nothing,
        seen=nothing,
        won=zero,
        looks=zero,
        order=order,
        examples=0,
        guide=guide,
        wealth=np.zeros(n),
    )


def watch(race: Race, costs: np.ndarray, right: np.ndarray) -> Race:
    """Takes down what those that race got right of the next examples, and bets on it.

    Args:
        race: so far.
        costs: `[N]`, rising.
        right: bool `[A, T]`.
    """
    needed = _needed(race, costs) - race.won
    rest, wealth = race.order[race.examples :], race.wealth.copy()
    for start in range(0, len(race.racing), CHUNK):
        some = race.racing[start : start + CHUNK]
        grown = bets(
            right[start : start + CHUNK],
            needed[some],
            expected=_expected(race, some),
            weight=race.guide.weight[rest],
            total=len(race.order),
        )
        wealth[some] += grown.sum(1)
    examples = race.examples + right.shape[1]
    race = noted(race, race.racing, rest[: right.shape[1]], right)
    return race._replace(examples=examples, wealth=wealth)


def bets(
    right: np.ndarray, needed: np.ndarray, *, expected: np.ndarray, weight: np.ndarray, total: int
) -> np.ndarray:
    """By what each example multiplies a stake against "these candidates win what they need".

    The mean over the examples left of what a candidate gets right is estimated from the next one:
    its surprise, over the probability with which this example was to come, plus the mean of what
    was expected. If the mean is at least `needed` over the examples left, a stake times
    1 - lambda (estimate - needed / left) does not grow on average, with any lambda that was fixed
    before and does not let it become negative. If the mean is less by g, it grows fastest, by
    g^2 / 2 v in the logarithm, with a lambda of g / v (Kelly 1956); g is what a candidate is
    expected to lack, over the examples left, and v the variance of the estimate.

    Args:
        right: bool `[A, T]`, of the next examples.
        needed: `[A]`, examples that they must get right of those left; -inf if that is not known.
        expected: `[A, R]`, of the examples left, the next ones first.
        weight: `[R]`, likewise; each example was drawn in proportion to it from those then left.
        total: K.

    Returns:
        Logarithms, float64 `[A, T]`.
    """
    steps = right.shape[1]
    left = len(weight) - np.arange(steps)
    weights, mean = _remaining(weight, steps), _remaining(expected, steps) / left
    share = weight[:steps] * left / weights  # of the probability that all of them have
    estimate = (right - expected[:, :steps]) / share + mean  # [A, T]
    won = np.cumsum(right, 1) - right
    least = (needed[:, None] - won) / left
    # The most that any example could have made of the estimate: of one that is right.
    most = np.max((1 - expected) / weight, 1, keepdims=True) * weights / left + mean
    variance = np.sum(expected * (1 - expected) / weight, 1) * weight.sum() / len(weight) ** 2
    lack = np.maximum(needed - expected.sum(1), 0) / (variance + 1 / total)
    # Beyond these ends there is nothing to win, or `drop` finds it out for certain.
    open_ = (least > 0) & (least < 1)
    bound = RISK / np.where(open_, most - least, 1.0)
    stakes = np.where(open_, np.minimum(lack[:, None] / left, bound), 0.0)
    return np.log1p(-stakes * (estimate - np.where(open_, least, 0.0)))


def _remaining(values: np.ndarray, steps: int) -> np.ndarray:
    """Sums over the last axis from each of the first so many places on."""
    before = np.cumsum(values[..., :steps], -1) - values[..., :steps]
    return values.sum(-1, keepdims=True) - before


def scouted(race: Race, new: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> Race:
    """The race with further scouts, another guide, and another order of the examples left.

    Args:
        race: so far.
        new: positions of the scouts `[A]`.
        right: bool `[A, R]`, what they got right of the examples left, in their order.
        rng: decides the order.
    """
    rest = race.order[race.examples :]
    scouts = race.scouts | _mask(race, new)
    first = race.first if race.scouts.any() else scouts
    race = noted(race._replace(scouts=scouts, first=first), new, rest, right)
    guide = _guide(race)
    # As if each came from those left with a probability in proportion to its weight, one by one
    # (Efraimidis & Spirakis, Inf. Process. Lett. 97, 2006).
    waits = rng.exponential(size=len(rest)) / guide.weight[rest]
    order = np.concatenate([race.order[: race.examples], rest[np.argsort(waits)]])
    return race._replace(guide=guide, order=order)


def drop(race: Race, costs: np.ndarray, enough: float) -> Race:
    """The race without those that are not on the front for certain, and some more waiting.

    Args:
        race: so far.
        costs: `[N]`, rising.
        enough: logarithm of what a bet must have become for a candidate to wait.
    """
    behind = _needed(race, costs) - race.won
    examples_left = len(race.order) - race.looks
    race = race._replace(alive=race.alive & (behind <= examples_left))
    grown = _mask(race, race.racing) & (race.wealth >= enough)
    return race._replace(waiting=race.waiting | grown)


def beyond_doubt(race: Race, costs: np.ndarray, *, error: float) -> float:
    """Logarithm of what a bet must have become to prove that a candidate is not on the front.

    By the front of those that have seen all examples: exact where all others wait.
    """
    front = _front(race, costs)
    counted = front[~race.first[front]]
    lost = 1 / error - np.exp(np.minimum(race.wealth[counted], -math.log(error)))
    return math.log(1 / error + lost.sum())


def left(race: Race, costs: np.ndarray, *, error: float) -> np.ndarray:
    """Those that may be on the front, as far as one can know: int `[A]`."""
    enough = beyond_doubt(race, costs, error=error)
    return np.flatnonzero(race.alive & ~(race.waiting & (race.wealth >= enough)))


def taken_back(race: Race, who: np.ndarray, rng: np.random.Generator) -> Race:
    """The race of those that have seen most of some that wait; the others go on waiting.

    They see the examples that are left in another order, which is random whatever others have told
    of them. All that have seen everything are scouts.
    """
    looks = race.looks
    examples, first = looks[who].max(), race.seen[who[np.argmax(looks[who])]]
    # Who waits for a second time has seen other examples than those that wait for the first.
    again = _mask(race, who[(race.seen[who] == first).all(1)])
    order = race.order[np.argsort(~first[race.order], kind="stable")]
    race = race._replace(
        waiting=race.waiting & ~again,
        scouts=race.scouts | (looks == len(race.order)),
        examples=int(examples),
        order=order,
    )
    return scouted(race, np.zeros(0, int), np.zeros((0, len(order) - examples), bool), rng)


def noted(race: Race, who: np.ndarray, examples: np.ndarray, right: np.ndarray) -> Race:
    """The race that knows what some got right of examples that they had not seen: bool `[A, T]`."""
    answers, seen = race.right.copy(), race.seen.copy()
    answers[np.ix_(who, examples)], seen[np.ix_(who, examples)] = right, True
    won, looks = race.won.copy(), race.looks.copy()
    won[who] += right.sum(1)
    looks[who] += len(examples)
    return race._replace(right=answers, seen=seen, won=won, looks=looks)


def front_runners(race: Race, costs: np.ndarray) -> np.ndarray:
    """Who seems to be on the front, but is no scout yet, and does not wait: int `[A]`."""
    some = np.flatnonzero(race.alive & ~race.waiting)
    front = some[_by_cost(_accuracy(race)[some], costs[some])]
    return front[~race.scouts[front]]


def _front(race: Race, costs: np.ndarray) -> np.ndarray:
    """The front of those that have seen all examples: int `[A]`."""
    whole = np.flatnonzero(race.looks == len(race.order))
    return whole[_by_cost(race.won[whole], costs[whole])]


def _by_cost(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The front of scores `[A]` and costs `[A]`, the cheapest first."""
    return pareto_front(np.stack([scores, -costs], axis=1))


def _mask(race: Race, who: np.ndarray) -> np.ndarray:
    """Bool `[N]`, True for some."""
    mask = np.zeros(len(race.alive), bool)
    mask[who] = True
    return mask


def _accuracy(race: Race) -> np.ndarray:
    """Of all examples, by those that each has seen: float64 `[N]`.

    Each stratum counts for as much as there is of it. One example that is right as expected is
    added to what was seen of it, so that a stratum of which nothing was seen has an accuracy too.
    """
    accuracy = np.zeros(len(race.alive))
    for stratum in np.unique(race.guide.stratum):
        examples = race.guide.stratum == stratum
        right, seen = race.right[:, examples].sum(1), race.seen[:, examples].sum(1)
        added = seen < examples.sum()
        expected = race.guide.expected[examples][0]
        accuracy += examples.mean() * (right + added * expected) / (seen + added)
    return accuracy


def _needed(race: Race, costs: np.ndarray) -> np.ndarray:
    """Examples that each must get right of all, if it is to be on the front: float64 `[N]`.

    More than any scout that comes before it, and as many as any of the same cost; -inf where there
    is none.
    """
    scored = np.where(race.scouts, race.won, -np.inf)
    before = np.maximum.accumulate(np.concatenate([[-np.inf], scored[:-1]]))
    same = np.full(len(costs), -np.inf)
    group = np.searchsorted(costs, costs)  # the first of equal cost
    np.maximum.at(same, group, scored)
    return np.maximum(before + 1, same[group])


def _guide(race: Race) -> Guide:
    """What all scouts, and the other answers so far, say of examples.

    The variance of what a candidate gets right of all, estimated from one example, is least if
    examples come in proportion to the standard deviation of their answers, sqrt(p (1 - p)) (Neyman
    1934). Bets also need that no surprise is large: an unexpected right answer, 1 - p over the
    weight, bounds the stake. So hard examples weigh a part of 1 - p at least.
    """
    right, count = race.right[race.scouts].sum(0), race.scouts.sum()
    some = 1 + np.minimum(right * STRATA // count, STRATA - 1)
    stratum = np.where(right == 0, 0, np.where(right == count, STRATA + 1, some))
    hits, looks = (
        np.bincount(stratum, answers[race.racing].sum(0), STRATA + 2)
        for answers in (race.right, race.seen)
    )
    p = ((hits + 0.5) / (looks + 1))[stratum]
    weight = np.maximum(np.sqrt(p * (1 - p)), HARD * (1 - p))
    told = np.concatenate([race.right[race.scouts].T, np.eye(STRATA + 2)[stratum]], 1)
    return Guide(stratum, p, weight, told)


def _expected(race: Race, who: np.ndarray) -> np.ndarray:
    """How likely some candidates are right, of each example left: float64 `[A, R]`."""
    seen, rest = race.order[: race.examples], race.order[race.examples :]
    base, told = race.guide.expected, race.guide.told
    surprises = race.right[np.ix_(who, seen)].T - base[seen][:, None]
    of_seen = told[seen]
    gram = of_seen.T @ of_seen + RIDGE * np.eye(told.shape[1])
    more = told[rest] @ np.linalg.solve(gram, of_seen.T @ surprises)
    return np.clip(base[rest] + more.T, MARGIN, 1 - MARGIN)
