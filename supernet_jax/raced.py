"""A race of subnets of a run: what each got right is kept on disk, image by image.

Shape letters: `N` candidates, `E` batches, `B` images of a batch, `K` images in all.
"""

import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax import choices, evaluate, experiment, progress, results
from supernet_jax.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import Run
from supernet_jax.search import racing

SAVE_SECONDS = 20.0  # between writes of the book


class Book:
    """What candidates got right, of as many images as they were asked for.

    An image of a candidate is evaluated once: what the file knows is not computed again, and a kill
    at any moment costs less than a minute.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        archs: the candidates, `[N]`.
        seed: of the order of the images.
        file: where the book is kept, `*.npz`; None keeps it in memory only.

    Attributes:
        right: bool `[N, E * B]`, in the order of the images; False where not yet known.
        loss: float32 `[N, E]`, summed cross-entropy of each batch.
        batches: int `[N]`, how many are known.
        total: K.
        batch: B.
        calibration: images that each candidate is calibrated on.

    Raises:
        UserError: the file is damaged, or the book of something else.
    """

    def __init__(
        self, run: Run, split: str, archs: Sequence[Arch], *, seed: int, file: pathlib.Path | None
    ):
        self._run, self._archs, self._file = run, choices.stack(list(archs)), file
        self._data = experiment.evaluation_data(run.experiment, split, shuffle=seed)
        self._stats: dict[int, np.ndarray] = {}
        self._identity = {
            **results.conditions(run, split),
            "order": seed,
            "archs": _digest(np.asarray(choices.pack(self._archs), np.int32).tobytes()),
        }
        batches, batch = self._data.labels.shape
        self.batch = int(batch)
        self.total = int(self._identity["images"])
        self.calibration = int(np.prod(self._identity["calibration"]))
        self.right = np.zeros((len(archs), batches * self.batch), bool)
        self.loss = np.zeros((len(archs), batches), np.float32)
        self.batches = np.zeros(len(archs), np.int64)
        if file is not None and file.exists():
            self._read(file)

    def look(
        self, where: np.ndarray, start: int, end: int, advance: progress.Advance | None = None
    ) -> np.ndarray:
        """What some candidates get right of the images from `start` to `end`: bool `[A, T]`.

        `start` is where those candidates stand, `end` a multiple of the batch or K. A candidate is
        calibrated when it is first evaluated; `advance` hears of every chunk that is done.
        """
        last = -(-end // self.batch)
        saved = time.monotonic()
        chunk = self._run.experiment.config.evaluation.chunk
        todo = where[self.batches[where] < last]
        for i in range(0, len(todo), chunk):
            self._compute(todo[i : i + chunk], start // self.batch, last)
            if advance is not None:
                advance(len(todo[i : i + chunk]) * (end - start))
            if time.monotonic() - saved > SAVE_SECONDS:
                self._write()
                saved = time.monotonic()
        if len(todo):
            self._write()
        return self.right[where, start:end]

    def mean_loss(self, images: np.ndarray) -> np.ndarray:
        """Mean cross-entropy of each candidate over its first so many images: float32 `[N]`."""
        seen = np.arange(self.loss.shape[1]) * self.batch < images[:, None]
        return np.where(seen, self.loss, 0).sum(1, dtype=np.float32) / images.astype(np.float32)

    def forget(self, kept: np.ndarray) -> None:
        """Frees the statistics of all but some candidates."""
        self._stats = {int(c): self._stats[c] for c in kept if c in self._stats}

    def _compute(self, where: np.ndarray, first: int, last: int) -> None:
        how, params = experiment.evaluation_how(self._run.experiment), self._run.params
        new = np.array([c for c in where if c not in self._stats], int)
        if len(new):
            found = evaluate.calibrated(how, params, self._some(new), self._data)
            for places, stats in found:
                self._stats |= dict(zip(new[places].tolist(), stats, strict=True))
        stats = np.stack([self._stats[c] for c in where])
        found_scores = evaluate.scored(
            how, params, self._some(where), stats, self._data, batches=(first, last)
        )
        for places, scores in found_scores:
            rows = where[places]
            images = slice(first * self.batch, last * self.batch)
            self.right[rows, images] = scores.right[:, first:last].reshape(len(rows), -1)
            self.loss[rows, first:last] = scores.loss[:, first:last]
            self.batches[rows] = last

    def _some(self, where: np.ndarray) -> Arch:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[where], self._archs)

    def _write(self) -> None:
        if self._file is None or jax.process_index() != 0:
            return
        unfinished = self._file.with_name(f".{self._file.name}.unfinished")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as stream:
                np.savez(
                    stream,
                    identity=np.array(json.dumps(self._identity)),
                    right=np.packbits(self.right, axis=1),
                    loss=self.loss,
                    batches=self.batches,
                )
            unfinished.replace(self._file)
        except OSError as error:
            raise UserError(
                f"cannot write {self._file} ({error}); make room or choose another place"
            ) from error

    def _read(self, file: pathlib.Path) -> None:
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                there = json.loads(str(archive["identity"][()]))
                right = np.unpackbits(archive["right"], axis=1, count=self.right.shape[1])
                loss, batches = archive["loss"], archive["batches"]
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
        self.right, self.loss, self.batches = right.astype(bool), loss, batches


def race(
    run: Run, split: str, archs: Sequence[Arch], *, error: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Races subnets of a run for the front of accuracy and MACs.

    Each image of each subnet is kept in the folder `races` of the run, so that an interrupted race
    goes on where it stopped. Who saw all images is recorded in `evaluations.jsonl` too, others are
    not: their accuracy is that of the images they saw.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        archs: the candidates; of equal ones the first races.
        error: the most probability that the front is not that of full evaluation.
        seed: of the order of the images.

    Returns:
        The records of the front, cheapest first, as `results.Scorer` gives them; and a report as
        JSON values, with what the race cost and the records of all, each with the number of images
        it stands for. The report is also in the folder `races`.
    """
    scorer = results.Scorer(run, split, what="")
    unique = list({results.key(arch): arch for arch in archs}.values())
    name = _digest(json.dumps([results.conditions(run, split), seed, len(unique)]).encode())
    name += "-" + _digest(b"".join(map(results.key, unique)))
    folder = run.folder / "races"
    book = Book(run, split, unique, seed=seed, file=folder / f"{name}.npz")
    costs = np.array([scorer.macs(arch) for arch in unique], np.float64)
    full = len(unique) * book.total
    with progress.bar("racing", full, unit="image") as advance:
        bar = _Bar(advance, len(unique), book.total)

        def look(where: np.ndarray, start: int, end: int) -> np.ndarray:
            return book.look(where, start, end, bar.evaluated)

        def on_round(alive: np.ndarray, images: int) -> None:
            book.forget(alive)
            bar.left(len(alive), images)

        raced = racing.race(
            costs, look, total=book.total, batch=book.batch, error=error, on_round=on_round
        )
    accuracy, loss = raced.right / raced.images, book.mean_loss(raced.images)
    whole = np.flatnonzero(raced.images == book.total)
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
                "images": int(raced.images[i]),
            }
            for i, arch in enumerate(unique)
        ],
    }
    results.write_json(folder / f"{name}.json", report)
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
        """After a round, in which some may have dropped out or come from the file."""
        self._note = f"{alive} of {self._candidates} left"
        done = self._candidates * self._total - alive * (self._total - images)
        self._advance(done - self._done, self._note)
        self._done = done


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
