"""Races inside a search: the front so far and what a generation proposes, one race a generation.

What can no longer enter the front is dropped after few images, and the searcher is told an estimate
of its score. Who saw all images is recorded like any other. What each subnet got right lies in a
book beside the state of the search, so that the front of one generation is not evaluated again for
the next, and a search that was killed goes on to the same end.

Shape letters: `N` archs, `A` candidates of a race, `D` decisions, `C` costs.
"""

import hashlib
import math
import pathlib
from typing import Any

import numpy as np

from supernet_jax import searching
from supernet_jax.elastic import choices, notation
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import results
from supernet_jax.experiment.budgets import Goal
from supernet_jax.experiment.race import Book
from supernet_jax.experiment.run import Run
from supernet_jax.searching import History
from supernet_jax.searching.loop import Known
from supernet_jax.searching.racing import Look

ESTIMATE = "estimate"  # of a dropped subnet, instead of the metric, so that none takes it for that


def against(
    front: int, prices: np.ndarray, look: Look, *, total: int, **how: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Races new candidates against a front whose answers to all images are known.

    Args:
        front: how many of the candidates, the first ones, are that front.
        prices: `[A]`, what each costs.
        look: says what candidates get right, see `searching.race`.
        total: images in all.
        **how: further arguments of `searching.race`.

    Returns:
        The share of all images that each gets right, an estimate for who has not seen all (at most
        the share of the best that costs no more), float64 `[A]`; and how many each saw, int `[A]`.
    """
    raced = searching.race(prices, look, total=total, scouts=np.arange(front), **how)
    whole = raced.examples == total
    share = np.where(whole, raced.right / total, raced.accuracy)
    best = np.where(whole & (prices <= prices[:, None]), share, -np.inf).max(1)
    return np.minimum(share, best), raced.examples


class Races:
    """The races of one search.

    Args:
        run: the trained run.
        wanted: the metric, and at most one cost that is to be small or large.
        scorer: keeps the records of who saw all images.
        file: where the book is kept, `*.npz`, or None for memory only.
        error: the most probability, in each generation, that the front is not that of evaluating
            all its candidates on all images.
        seed: of the order in which images are seen.
        known: what the searcher knows from elsewhere. The front of that sees all images first.

    Raises:
        UserError: the metric is no share of examples that are right, the objectives are others, or
            the book cannot be read.
    """

    def __init__(
        self,
        run: Run,
        wanted: Goal,
        scorer: results.Scorer,
        *,
        file: pathlib.Path | None,
        error: float,
        seed: int,
        known: Known | None = None,
    ):
        self._book = Book(run, "held-out", [], file=file)
        _check(wanted, scorer.metric.name)
        self._space, self._costs, self._scorer = run.space, wanted.costs, scorer
        self._error, self._seed = error, seed
        self._before = self._warm = np.zeros(0, int)
        if known is not None:
            archs, scores, costs = known
            objectives = self._costs.objectives(scores, costs)
            objectives[~self._costs.allows(costs)] = math.nan
            rows = np.asarray(choices.pack(archs))[searching.pareto_front(objectives)]
            self._before = self._warm = self._places(choices.unpack(run.space.menu, rows))
            self._see(self._warm)

    def score(self, archs: Arch) -> np.ndarray:
        """What the searcher is told of archs `[N]` after their race with the front so far.

        The score of who saw all images, an estimate for who was dropped (at most the score of the
        best that costs no more), NaN where the loss is not a number: float64 `[N, 1]`.
        """
        book, new, front = self._book, self._places(archs), self._front()
        who = np.array(list(dict.fromkeys([*front.tolist(), *new.tolist()])))
        prices, candidates = self._prices(who), book.archs(who)
        # An order of images of its own, since proposals depend on what former races have seen.
        drawn = hashlib.sha256(b"%d" % self._seed + choices.pack(candidates).tobytes()).digest()
        with book.saved():
            score, seen = against(
                len(front),
                prices,
                lambda some, order, start, end: book.look(who[some], order, start, end),
                total=book.total,
                batch=book.batch,
                error=self._error,
                seed=int.from_bytes(drawn[:8]),
                on_round=lambda alive, _: book.forget(who[alive]),
            )
        whole, broken = seen == book.total, book.broken()[who]
        # A loss is not known where two processes asked for some of the same images: then the
        # scorer evaluates the subnet as it does without a race.
        sure = np.flatnonzero(whole & (broken | np.isfinite(book.mean_loss()[who])))
        some = choices.unstack(candidates)
        self._scorer.add([some[i] for i in sure], score[sure], book.mean_loss()[who[sure]])
        for i, record in zip(np.flatnonzero(whole), self._measured(who[whole]), strict=True):
            score[i] = self._scorer.score(record)
        told = dict(zip(who.tolist(), np.where(broken, np.nan, score.round(6)), strict=True))
        return np.array([[told[place]] for place in new.tolist()])

    def goes_on(self, history: History) -> None:
        """Takes note of all that was scored so far: the next race is against the front of that."""
        places = self._places(choices.unpack(self._space.menu, history.archs))
        self._before = np.concatenate([self._warm, places])
        self._see(places[~self._book.answers.known[places].any(1)])  # if the book was lost

    def records(self, history: History) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What became of all that was scored.

        Returns:
            Records of those that saw all images, in the order of scoring; and as JSON values what
            the races took, with the `dropped`: arch, MACs, parameters, the estimate (None where
            the loss is not a number) and how many images each saw.
        """
        places, book = self._places(choices.unpack(self._space.menu, history.archs)), self._book
        seen = book.answers.known.sum(1)
        dropped = np.flatnonzero(seen[places] < book.total)
        estimates = history.scores[dropped, 0]
        archs = choices.unstack(book.archs(places[dropped]))
        everyone = np.unique(np.concatenate([self._warm, places]))
        rows = [
            {
                "arch": notation.to_notation(self._space.menu, arch),
                **self._scorer.costs(arch),
                ESTIMATE: None if math.isnan(score) else float(score),
                "images": int(images),
            }
            for arch, score, images in zip(archs, estimates, seen[places[dropped]], strict=True)
        ]
        report = {
            "error": self._error,
            "images_seen": int(seen[everyone].sum()),
            "images_of_full_evaluation": len(places) * book.total,
            "calibration_images": len(everyone) * book.calibration,
            "dropped": rows,
        }
        return self._measured(np.delete(places, dropped)), report

    def _measured(self, places: np.ndarray) -> list[dict[str, Any]]:
        return self._scorer(choices.unstack(self._book.archs(places)))

    def _front(self) -> np.ndarray:
        """Places of the front so far, int `[A]`, of those that saw all images."""
        some, answers = self._before, self._book.answers
        if not len(some):  # no cost need take no archs
            return some
        prices = self._prices(some)
        sound = answers.known[some].all(1) & ~self._book.broken()[some] & np.isfinite(prices)
        won = np.where(sound, answers.right[some].sum(1), np.nan)
        return some[searching.pareto_front(np.stack([won, -prices], axis=1))]

    def _prices(self, places: np.ndarray) -> np.ndarray:
        """What a race takes for the costs of candidates, `[A]`: none outside the budgets beats one
        within.
        """
        costs = self._costs(self._book.archs(places))
        price = sum((-aim * costs[:, i] for i, aim in enumerate(self._costs.aims) if aim), 0.0)
        return np.where(self._costs.allows(costs), price, np.inf)

    def _places(self, archs: Arch) -> np.ndarray:
        """Where the networks of archs `[N]` stand in the book: int `[N]`."""
        return self._book.joined(np.asarray(choices.pack(elastic_space.normal(self._space, archs))))

    def _see(self, places: np.ndarray) -> None:
        """Has some see all images."""
        with self._book.saved():
            self._book.look(places, np.arange(self._book.total), 0, self._book.total)


def _check(wanted: Goal, metric: str) -> None:
    """Raises a `UserError` unless subnets can race for what a search wants."""
    aimed = [one.name for one in wanted.priced if one.aim]
    if wanted.measured != ((metric, 1),) or len(aimed) > 1:
        names = [name for name, _ in wanted.measured] + aimed
        raise UserError(
            f"a race weighs a large {metric} against one cost, but the objectives are "
            f"{', '.join(names)}; leave --race out, or name them: --objective {metric}:max "
            f"--objective {aimed[0] if aimed else 'macs'}:min"
        )
