"""A race of subnets of a run: what each got right is kept on disk, image by image.

Shape letters: `N` candidates, `A` some of them, `K` images in all, `E` batches, `B` images of one.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import searching as racing
from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least, one_of
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import build, results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.evaluate import SPLITS
from supernet_jax.experiment.front import Front
from supernet_jax.experiment.read_archs import archs_of
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed, progress
from supernet_jax.storage import arrays, files
from supernet_jax.storage.paths import expanded

SAVE_SECONDS = 20.0  # between writes of the book
BOOK = 2  # version of its format, so that one of another format is not taken for this
DAMAGED = "give it another name, and the race begins anew"


class Answers(NamedTuple):
    """What candidates got right.

    Attributes:
        right: bool `[N, K]`; of no meaning where not known.
        known: bool `[N, K]`.
        loss: float64 `[N]`, summed cross-entropy, nats; not finite where that of some image is not.
        summed: int `[N]`, of how many images. Fewer than are known where two processes that did
            not know of each other asked for some of the same images.
    """

    right: np.ndarray
    known: np.ndarray
    loss: np.ndarray
    summed: np.ndarray

    def among(self, where: np.ndarray, candidates: int) -> "Answers":
        """The same answers, as those of some `[N]` among so many candidates; others have none."""

        def put(column: np.ndarray) -> np.ndarray:
            made = np.zeros((candidates, *column.shape[1:]), column.dtype)
            made[where] = column
            return made

        return Answers(*map(put, self))

    def with_those(self, other: "Answers") -> "Answers":
        """All answers of both."""
        apart = ~(self.known & other.known).any(1)
        more = other.summed > self.summed

        def joined(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            return np.where(apart, mine + theirs, np.where(more, theirs, mine))

        loss = joined(self.loss, other.loss)
        broken = ~np.isfinite(self.loss + other.loss)
        return Answers(
            np.where(self.known, self.right, other.right),
            self.known | other.known,
            np.where(broken, np.nan, loss),
            joined(self.summed, other.summed),
        )


class Book:
    """What candidates got right, of those images that they were asked for.

    What the file knows is not computed again, and a kill at any moment costs less than a minute.
    `save` writes what is known and was not written yet. Several processes may keep one file: what
    one writes, the others know when they write next.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        archs: the candidates, `[N]`; none for a book that they join one after the other.
        file: where the book is kept, `*.npz`; None keeps it in memory only.

    Attributes:
        answers: of N candidates to K images, which have the numbers of the split.
        total: K.
        batch: B.
        calibration: images that each candidate is calibrated on.

    Raises:
        UserError: the file cannot be read, is damaged, or the book of something else.
    """

    def __init__(
        self, run: Run, split: str, archs: Sequence[Arch], *, file: pathlib.Path | None = None
    ):
        self._run, self._file = run, file
        self._rows = np.zeros((0, len(jax.tree.leaves(run.experiment.space.menu))), np.int32)
        if len(archs):
            self._rows = np.asarray(choices.pack(choices.stack(list(archs))), np.int32)
        self._won = _race_score(run)
        self._data = build.evaluation_data(run.experiment, split)
        self._order = np.arange(self._data.real.size)  # in which the images lie on the devices
        self._stats: dict[int, np.ndarray] = {}
        self._saved, self._news = time.monotonic(), False
        self._place = self._places()
        self._identity = {
            **results.conditions(run, split),
            "archs": _digest(self._rows.tobytes()),
        }
        self.batch = int(self._data.real.shape[1])
        self.total = int(self._identity["images"])
        self.calibration = int(np.prod(self._identity["calibration"]))
        nothing = np.zeros((len(archs), self.total), bool)
        self.answers = Answers(
            nothing, nothing.copy(), np.zeros(len(archs)), np.zeros(len(archs), int)
        )
        if file is not None and files.exists(file):
            self.answers = self._read(file)

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """Where packed archs `[A, D]` are among the candidates, int `[A]`; new ones join them."""
        before, at = len(self._rows), {row.tobytes(): i for i, row in enumerate(self._rows)}
        where = np.array([at.setdefault(row.tobytes(), len(at)) for row in rows], int)
        first = np.unique(where, return_index=True)[1]
        if len(new := first[where[first] >= before]):
            self._rows = np.concatenate([self._rows, rows[new]])
            self.answers = self.answers.among(np.arange(before), len(self._rows))
            self._place = self._places()
        return where

    def archs(self, where: np.ndarray) -> Arch:
        """Some candidates, `[A]`."""
        return choices.unpack(self._run.experiment.space.menu, self._rows[where])

    def _places(self) -> np.ndarray:
        """The place of each candidate where those stand together that begin alike: int `[N]`."""
        if not len(self._rows):
            return np.zeros(0, int)
        everyone = self.archs(np.arange(len(self._rows)))
        return np.argsort(np.lexsort(_networks(self._run.experiment.space, everyone).T[::-1]))

    def look(
        self,
        where: np.ndarray,
        order: np.ndarray,
        start: int,
        end: int,
        advance: progress.Advance | None = None,
    ) -> np.ndarray:
        """What some candidates get right of the images `order[start:end]`: bool `[A, end - start]`.

        Nothing, where a loss is not a number: such a candidate is to beat nobody.

        Args:
            where: the candidates, int `[A]`. Each is calibrated when it is first evaluated.
            order: int `[K]`, all images. A change of it moves them on the devices.
            start: a multiple of B.
            end: a multiple of B, or K.
            advance: hears of every chunk that is done.
        """
        images = order[start:end]
        todo = where[~self.answers.known[np.ix_(where, images)].all(1)]
        todo = todo[np.argsort(self._place[todo])]  # those that begin alike share what is alike
        if len(todo):
            self._arrange(order)
        chunk = self._run.experiment.config.evaluation.chunk
        for i in range(0, len(todo), chunk):
            some = todo[i : i + chunk]
            self._compute(some, images, (start // self.batch, -(-end // self.batch)))
            if advance is not None:
                advance(len(some) * (end - start))
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self.save()
        return self.answers.right[np.ix_(where, images)] & ~self.broken()[where, None]

    def mean_loss(self) -> np.ndarray:
        """Mean cross-entropy of each candidate over all images, NaN if not known: float32 `[N]`."""
        whole = self.answers.summed == self.total
        return np.where(whole, self.answers.loss / self.total, np.nan).astype(np.float32)

    def broken(self) -> np.ndarray:
        """Candidates with a loss that is not a number: bool `[N]`."""
        return ~np.isfinite(self.answers.loss)

    def forget(self, kept: np.ndarray) -> None:
        """Frees the statistics of all but some candidates."""
        self._stats = {int(c): self._stats[c] for c in kept if c in self._stats}

    def _arrange(self, order: np.ndarray) -> None:
        """Brings the images into an order; what fills the last batch up stays behind them."""
        wanted = np.concatenate([order, np.arange(self.total, self._data.real.size)])
        if not np.array_equal(wanted, self._order):
            at = np.argsort(self._order)[wanted]
            data = self._data
            parts = {"inputs": data.inputs, "targets": data.targets, "real": data.real}
            self._data = data._replace(**jax.tree.map(lambda x: _taken(x, at), parts))
            self._order = wanted

    def _compute(self, where: np.ndarray, images: np.ndarray, batches: tuple[int, int]) -> None:
        how, params = build.evaluation_how(self._run.experiment), self._run.params
        new = np.array([c for c in where if c not in self._stats], int)
        if len(new):
            found = evaluate.calibrated(how, params, self.archs(new), self._data)
            for places, stats in found:
                self._stats |= dict(zip(new[places].tolist(), stats, strict=True))
        stats = np.stack([self._stats[c] for c in where])
        found_scores = evaluate.scored(
            how, params, self.archs(where), stats, self._data, batches=batches
        )
        for places, scores in found_scores:
            rows = where[places]
            right, loss = (
                np.asarray(x)[:, slice(*batches)].reshape(len(rows), -1)[:, : len(images)]
                for x in (scores[self._won], scores["loss"])
            )
            self._note(rows, images, right, loss)
        self._news = True

    def _note(
        self, rows: np.ndarray, images: np.ndarray, right: np.ndarray, loss: np.ndarray
    ) -> None:
        """Takes down answers. Cut off anywhere, it leaves at most losses that do not count."""
        here = np.ix_(rows, images)
        new = ~self.answers.known[here]
        self.answers.right[here] = right
        self.answers.known[here] = True
        self.answers.loss[rows] += np.where(new, loss, 0.0).sum(1)
        self.answers.summed[rows] += new.sum(1)

    @contextlib.contextmanager
    def saved(self) -> Iterator[None]:
        """Writes what is known when what is done within has ended, or has failed."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(UserError):  # what went wrong before says more
                self.save()
            raise
        self.save()

    def save(self) -> None:
        """Writes what is known, if there is anything new, with what others have written since.

        Raises:
            UserError: the file cannot be written, or not be read again.
        """
        if self._file is None or jax.process_index() != 0 or not self._news:
            return
        files.make_folder(self._file.parent)
        with files.alone(self._file.parent):
            there = self._read(self._file) if files.exists(self._file) else self.answers
            both = self.answers.with_those(there)
            content = {
                "identity": np.array(json.dumps(self._identity)),
                "archs": self._rows,
                "right": np.packbits(both.right, axis=1),
                "known": np.packbits(both.known, axis=1),
                "loss": both.loss,
                "summed": both.summed,
            }
            arrays.write(self._file, content)
        if jax.process_count() == 1:  # those of one run must know the same
            self.answers = both
        self._saved, self._news = time.monotonic(), False

    def _read(self, file: pathlib.Path) -> Answers:
        found = arrays.read(file, kind="book of a race", damaged=DAMAGED)
        try:
            there = json.loads(str(found["identity"][()]))
            right, known = (
                np.unpackbits(found[name], axis=1, count=self.total).astype(bool)
                for name in ("right", "known")
            )
            loss = found["loss"].astype(np.float64)
            summed = found.get("summed", known.sum(1)).astype(int)
            rows = found.get("archs", self._rows).astype(np.int32)
            shapes = {right.shape[:1], known.shape[:1], loss.shape, summed.shape}
            fit = shapes == {rows.shape[:1]} and rows.shape[1:] == self._rows.shape[1:]
            if not fit and there == self._identity:
                raise ValueError("its parts do not fit together")
            differing = [k for k, v in self._identity.items() if there.get(k) != v]
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{files.unreadable(file, error, kind='book of a race')}; {DAMAGED}"
            ) from error
        if differing:
            raise UserError(
                f"{file} was written for other candidates or conditions: {', '.join(differing)} "
                "differ; choose another file"
            )
        where = self.joined(rows)
        return Answers(right, known, loss, summed).among(where, len(self._rows))


def _taken(x: Any, at: np.ndarray) -> Any:
    """The rows of `[E, B, ...]` in another order, where they lie; of NumPy arrays too."""
    if isinstance(x, np.ndarray):
        return x.reshape(-1, *x.shape[2:])[at].reshape(x.shape)
    return _mover(x.sharding)(x, at)


@functools.cache
def _mover(place: jax.sharding.Sharding) -> Any:
    def move(x: jax.Array, at: jax.Array) -> jax.Array:
        return jnp.take(x.reshape(-1, *x.shape[2:]), at, axis=0).reshape(x.shape)

    return jax.jit(move, out_shardings=place)


def race(
    run: Run | str | os.PathLike[str],
    archs: Any,
    *,
    split: str = "held-out",
    error: float = 0.05,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Front:
    """Races subnets of a run for the front of accuracy and MACs.

    Each image of each subnet is kept in the folder `races` of the run, so that an interrupted race
    goes on where it stopped. Who saw all images is recorded in `evaluations.jsonl` too, others are
    not: their accuracy is an estimate, and they have no loss. Who has a loss that is not a number
    is never on the front.

    Args:
        run: a trained run, or its folder.
        archs: the candidates, as `sj.evaluate` takes them; of those that are the same network the
            first races.
        split: "held-out" (taken from the training images) or "test".
        error: the most probability that the front is not that of full evaluation, in (0, 1).
        seed: of the order in which images are seen.
        out: also write the records of the front to this JSON file; needed where nothing can be kept
            in the run's folder.

    Returns:
        The front. Its `result` is also in the folder `races`: what the race cost, and the records
        of all, each with the number of images it saw.

    Raises:
        UserError: no subnet has a loss that is a number; a file cannot be read or written.
    """
    one_of("--split", split, SPLITS)
    at_least("--seed", seed, 0)
    check_error(error)
    place = None if out is None else expanded(out)
    if place is not None:
        distributed.once(lambda: files.check_free("--out", place))
    run = experiment_run.opened(run)
    given = archs_of(run, archs)
    keep = results.are_kept(run, place)
    report = _report(run, split, given, error=error, seed=seed, keep=keep)
    if place is not None:
        if keep:  # it was free when this began; what is known is not computed again
            distributed.once(lambda: files.check_free("--out", place))
        distributed.once(lambda: files.write_json(place, report["front"]))
    return Front(run.space, report, data=run.experiment.dataset.name)


def _report(
    run: Run, split: str, archs: Sequence[Arch], *, error: float, seed: int, keep: bool
) -> dict[str, Any]:
    """Races, and returns what became of all as JSON values."""
    scorer = results.Scorer(run, split, what="", keep=keep)
    unique = elastic_space.distinct(run.experiment.space, archs)
    about = [BOOK, results.conditions(run, split), seed, len(unique)]
    name = _digest(json.dumps(about).encode()) + "-" + _digest(b"".join(map(results.key, unique)))
    file = run.folder / "races" / f"{name}.json" if keep else None
    book = Book(run, split, unique, file=None if file is None else file.with_suffix(".npz"))
    costs = np.array([scorer.macs(arch) for arch in unique], np.float64)
    with book.saved():
        raced = _raced(book, costs, error=error, seed=seed)
    whole = raced.examples == book.total
    accuracy, loss, broken = raced.accuracy, book.mean_loss(), book.broken()
    accuracy[whole] = raced.right[whole] / book.total
    told = np.flatnonzero(whole & ((book.answers.summed == book.total) | broken))
    scorer.add([unique[i] for i in told], accuracy[told], loss[told])
    results.require_numbers(len(unique), int(broken.sum()))
    front = scorer([unique[i] for i in raced.front if not broken[i]])
    records = scorer.records(unique, accuracy, np.where(whole, loss, np.nan))
    report = {
        "run": str(run.folder),
        "file": None if file is None else str(file),
        **results.conditions(run, split),
        "error": error,
        "seed": seed,
        "candidates": len(unique),
        "not_a_number": int(broken.sum()),
        "images_seen": int(raced.examples.sum()),
        "images_of_full_evaluation": len(unique) * book.total,
        "calibration_images": len(unique) * book.calibration,
        "front": front,
        "all": [
            {**record, "images": int(images)}
            for record, images in zip(records, raced.examples, strict=True)
        ],
    }
    if file is not None:
        distributed.once(lambda: files.write_json(file, report))
    return report


def _raced(book: Book, costs: np.ndarray, *, error: float, seed: int) -> racing.Raced:
    """The race itself, with a progress bar."""
    candidates = len(costs)
    with progress.bar("racing", candidates * book.total, unit="image") as advance:
        bar = _Bar(advance, candidates, book.total)

        def look(where: np.ndarray, order: np.ndarray, start: int, end: int) -> np.ndarray:
            return book.look(where, order, start, end, bar.evaluated)

        def on_round(alive: np.ndarray, images: np.ndarray) -> None:
            book.forget(alive)
            bar.left(len(alive), int(np.sum(book.total - images)))

        return racing.race(
            costs,
            look,
            total=book.total,
            batch=book.batch,
            error=error,
            seed=seed,
            on_round=on_round,
        )


class _Bar:
    """Progress in images of full evaluation: those evaluated, and those spared."""

    def __init__(self, advance: progress.Advance, candidates: int, total: int):
        self._advance, self._candidates, self._total = advance, candidates, total
        self._done, self._note = 0, f"{candidates} left"

    def evaluated(self, images: int) -> None:
        self._done += images
        self._advance(images, self._note)

    def left(self, alive: int, images: int) -> None:
        """After a round, in which some may have dropped out or come from the file.

        Args:
            alive: candidates that are left.
            images: that these have not seen.
        """
        self._note = f"{alive} of {self._candidates} left"
        done = self._candidates * self._total - images
        self._advance(done - self._done, self._note)
        self._done = done


def check_error(error: float) -> None:
    """Raises a `UserError` for what is no probability of an error."""
    if not 0 < error < 1:
        raise UserError(f"--race-error is {error}, but must be above 0 and below 1")


def _race_score(run: Run) -> str:
    """The name of what is won or lost example by example.

    Raises:
        UserError: the metric of the task is no mean of such.
    """
    metric = run.space.task.metric
    if metric.mean_of is None or not metric.higher_is_better:
        raise UserError(
            f"the {metric.name} of {run.space.task.name} is no share of examples that are right, "
            "so subnets cannot race for it; leave --race out"
        )
    return metric.mean_of


def _networks(space: Space, archs: Arch) -> np.ndarray:
    """What the archs are: int `[N, .]`, equal rows for the same network, alike ones begin alike."""
    sizes = np.asarray(space.which_size(archs))
    blocks = np.asarray(elastic_space.identity(space, space.sizes[0], archs))
    return np.concatenate([sizes[:, None], blocks], axis=1)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
