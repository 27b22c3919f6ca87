"""A race of subnets of a run: what each got right is kept on disk, image by image.

Shape letters: `N` candidates, `A` some of them, `K` images in all, `E` batches, `B` images of one.
"""

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices, evaluate, experiment, network, progress, results
from supernet_jax.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import Run
from supernet_jax.network import Space
from supernet_jax.search import racing
from supernet_jax.storage import files

SAVE_SECONDS = 20.0  # between writes of the book
BOOK = 2  # version of its format, so that one of another format is not taken for this


class Book:
    """What candidates got right, of those images that they were asked for.

    What the file knows is not computed again, and a kill at any moment costs less than a minute.
    `save` writes what is known and was not written yet.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        archs: the candidates, `[N]`.
        file: where the book is kept, `*.npz`; None keeps it in memory only.

    Attributes:
        right: bool `[N, K]`; False where not known. Images have the numbers of the split.
        known: bool `[N, K]`.
        loss: float64 `[N]`, summed cross-entropy of the known images, nats.
        total: K.
        batch: B.
        calibration: images that each candidate is calibrated on.

    Raises:
        UserError: the file is damaged, or the book of something else.
    """

    def __init__(
        self, run: Run, split: str, archs: Sequence[Arch], *, file: pathlib.Path | None = None
    ):
        self._run, self._archs, self._file = run, choices.stack(list(archs)), file
        self._data = experiment.evaluation_data(run.experiment, split)
        self._order = np.arange(self._data.labels.size)  # in which the images lie on the devices
        self._stats: dict[int, np.ndarray] = {}
        self._saved, self._news = time.monotonic(), False
        self._place = np.argsort(np.lexsort(_networks(run.experiment.space, self._archs).T[::-1]))
        self._identity = {
            **results.conditions(run, split),
            "archs": _digest(np.asarray(choices.pack(self._archs), np.int32).tobytes()),
        }
        self.batch = int(self._data.labels.shape[1])
        self.total = int(self._identity["images"])
        self.calibration = int(np.prod(self._identity["calibration"]))
        self.right = np.zeros((len(archs), self.total), bool)
        self.known = np.zeros((len(archs), self.total), bool)
        self.loss = np.zeros(len(archs))
        if file is not None and file.exists():
            self._read(file)

    def look(
        self,
        where: np.ndarray,
        order: np.ndarray,
        start: int,
        end: int,
        advance: progress.Advance | None = None,
    ) -> np.ndarray:
        """What some candidates get right of the images `order[start:end]`: bool `[A, end - start]`.

        Args:
            where: the candidates, int `[A]`. Each is calibrated when it is first evaluated.
            order: int `[K]`, all images. A change of it moves them on the devices.
            start: a multiple of B.
            end: a multiple of B, or K.
            advance: hears of every chunk that is done.
        """
        images = order[start:end]
        todo = where[~self.known[np.ix_(where, images)].all(1)]
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
        return self.right[np.ix_(where, images)]

    def mean_loss(self) -> np.ndarray:
        """Mean cross-entropy of each candidate over the images that are known: float32 `[N]`."""
        return (self.loss / np.maximum(self.known.sum(1), 1)).astype(np.float32)

    def forget(self, kept: np.ndarray) -> None:
        """Frees the statistics of all but some candidates."""
        self._stats = {int(c): self._stats[c] for c in kept if c in self._stats}

    def _arrange(self, order: np.ndarray) -> None:
        """Brings the images into an order; what fills the last batch up stays behind them."""
        wanted = np.concatenate([order, np.arange(self.total, self._data.labels.size)])
        if not np.array_equal(wanted, self._order):
            at = np.argsort(self._order)[wanted]
            images, labels = (_taken(x, at) for x in (self._data.images, self._data.labels))
            self._data = self._data._replace(images=images, labels=labels)
            self._order = wanted

    def _compute(self, where: np.ndarray, images: np.ndarray, batches: tuple[int, int]) -> None:
        how, params = experiment.evaluation_how(self._run.experiment), self._run.params
        new = np.array([c for c in where if c not in self._stats], int)
        if len(new):
            found = evaluate.calibrated(how, params, self._some(new), self._data)
            for places, stats in found:
                self._stats |= dict(zip(new[places].tolist(), stats, strict=True))
        stats = np.stack([self._stats[c] for c in where])
        found_scores = evaluate.scored(
            how, params, self._some(where), stats, self._data, batches=batches
        )
        for places, scores in found_scores:
            rows = where[places]
            right, loss = (
                np.asarray(x)[:, slice(*batches)].reshape(len(rows), -1)[:, : len(images)]
                for x in scores
            )
            here = np.ix_(rows, images)
            self.loss[rows] += np.where(self.known[here], 0.0, loss).sum(1)
            self.right[here], self.known[here] = right, True
        self._news = True

    def _some(self, where: np.ndarray) -> Arch:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[where], self._archs)

    def save(self) -> None:
        """Writes what is known, if there is anything new.

        Raises:
            UserError: the file cannot be written.
        """
        if self._file is None or jax.process_index() != 0 or not self._news:
            return
        unfinished = self._file.with_name(f".{self._file.name}.unfinished")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as stream:
                np.savez(
                    stream,
                    identity=np.array(json.dumps(self._identity)),
                    right=np.packbits(self.right, axis=1),
                    known=np.packbits(self.known, axis=1),
                    loss=self.loss,
                )
            unfinished.replace(self._file)
            self._saved, self._news = time.monotonic(), False
        except OSError as error:
            raise UserError(
                f"cannot write {self._file} ({error}); make room or choose another place"
            ) from error

    def _read(self, file: pathlib.Path) -> None:
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                there = json.loads(str(archive["identity"][()]))
                right, known = (
                    np.unpackbits(archive[name], axis=1, count=self.total).astype(bool)
                    for name in ("right", "known")
                )
                loss = archive["loss"]
        except Exception as error:  # a damaged archive makes its reader fail in any way
            raise UserError(
                f"{file} is damaged ({type(error).__name__}: {error}); remove it, and what it knew "
                "is computed again"
            ) from error
        differing = [k for k, v in self._identity.items() if there.get(k) != v]
        if differing:
            raise UserError(
                f"{file} was written for other candidates or conditions: {', '.join(differing)} "
                "differ; choose another file"
            )
        self.right, self.known, self.loss = right, known, loss


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
    run: Run, split: str, archs: Sequence[Arch], *, error: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Races subnets of a run for the front of accuracy and MACs.

    Each image of each subnet is kept in the folder `races` of the run, so that an interrupted race
    goes on where it stopped. Who saw all images is recorded in `evaluations.jsonl` too, others are
    not: their accuracy is an estimate, and they have no loss.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        archs: the candidates; of those that are the same network the first races.
        error: the most probability that the front is not that of full evaluation.
        seed: of the order in which images are seen.

    Returns:
        The records of the front, cheapest first, as `results.Scorer` gives them; and a report as
        JSON values, with what the race cost and the records of all, each with the number of images
        it saw. The report is also in the folder `races`.
    """
    scorer = results.Scorer(run, split, what="")
    unique = distinct(run.experiment.space, archs)
    about = [BOOK, results.conditions(run, split), seed, len(unique)]
    name = _digest(json.dumps(about).encode()) + "-" + _digest(b"".join(map(results.key, unique)))
    folder = run.folder / "races"
    book = Book(run, split, unique, file=folder / f"{name}.npz")
    costs = np.array([scorer.macs(arch) for arch in unique], np.float64)
    full = len(unique) * book.total
    with progress.bar("racing", full, unit="image") as advance:
        bar = _Bar(advance, len(unique), book.total)

        def look(where: np.ndarray, order: np.ndarray, start: int, end: int) -> np.ndarray:
            return book.look(where, order, start, end, bar.evaluated)

        def on_round(alive: np.ndarray, images: np.ndarray) -> None:
            book.forget(alive)
            bar.left(len(alive), int(np.sum(book.total - images)))

        raced = racing.race(
            costs,
            look,
            total=book.total,
            batch=book.batch,
            error=error,
            seed=seed,
            on_round=on_round,
        )
    book.save()
    whole = np.flatnonzero(raced.images == book.total)
    accuracy, loss = raced.accuracy, book.mean_loss()
    accuracy[whole] = raced.right[whole] / book.total
    scorer.add([unique[i] for i in whole], accuracy[whole], loss[whole])
    front = scorer([unique[i] for i in raced.front])
    report = {
        "run": str(run.folder),
        "file": str(folder / f"{name}.json"),
        **results.conditions(run, split),
        "error": error,
        "seed": seed,
        "candidates": len(unique),
        "images_seen": int(raced.images.sum()),
        "images_of_full_evaluation": full,
        "calibration_images": len(unique) * book.calibration,
        "front": front,
        "all": [
            {
                **scorer.record(arch, float(accuracy[i]), float(loss[i])),
                **({} if raced.images[i] == book.total else {"loss": None}),
                "images": int(raced.images[i]),
            }
            for i, arch in enumerate(unique)
        ],
    }
    files.write_json(folder / f"{name}.json", report)
    return front, report


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


def distinct(space: Space, archs: Sequence[Arch]) -> list[Arch]:
    """The first of those archs that differ in nothing but decisions about skipped blocks."""
    networks = _networks(space, choices.stack(list(archs)))
    _, first = np.unique(networks, axis=0, return_index=True)
    return [archs[i] for i in np.sort(first)]


def _networks(space: Space, archs: Arch) -> np.ndarray:
    """What the archs are: int `[N, .]`, equal rows for the same network, alike ones begin alike."""
    resolutions = np.asarray(choices.get(archs, space.resolution))
    blocks = np.asarray(network.identity(space, space.resolutions[0], archs))
    return np.concatenate([resolutions[:, None], blocks], axis=1)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
