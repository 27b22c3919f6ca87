"""Batches for training, one after the other from any step on, read ahead where images are in files.

What a step gets is a function of (seed, step): order, examples and crops. So nothing about reading
is saved in a checkpoint, and the numbers of threads and workers change only the speed.
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.data import decode
from supernet_jax.data.batches import batch_indices
from supernet_jax.data.decode import Part
from supernet_jax.data.images import Images, Stored
from supernet_jax.data.splits import CROP, random_stream
from supernet_jax.errors import UserError

CHUNK = 32  # images that a thread decodes at once
AHEAD = 2  # batches that are decoded before they are asked for


class Examples(NamedTuple):
    """Training examples of a step, or those of them that one process needs."""

    images: np.ndarray  # uint8 [R, H, W, C]; of text [R, T]
    labels: np.ndarray  # int32 [R]; of text [R, T]
    ids: np.ndarray  # int32 [R], which of the training examples they are


class Reading(NamedTuple):
    """Who decodes images that are not in memory.

    Attributes:
        threads: in this process, or in each worker; 0 for as many as there are cores to share.
        workers: processes of their own, for hosts on which Python's lock limits the threads.
    """

    threads: int = 0
    workers: int = 0


def feed(
    images: Images,
    batch: int,
    *,
    seed: int,
    start: int,
    stop: int,
    rows: np.ndarray | None = None,
    reading: Reading | None = None,
) -> Generator[Examples, None, None]:
    """The batches of the steps `start` to `stop - 1`. Close it if it is not used up.

    Args:
        images: the training examples; those of text are read as they are asked for.
        batch: B, examples of a step.
        seed: of order and crops.
        start: first step, at least 0.
        stop: the step after the last.
        rows: int [R], which places of each batch are wanted; None for all.
        reading: for images in files.

    Raises:
        UserError: naming the images of a step that do not decode. None is left out silently.
    """
    rows = np.arange(batch) if rows is None else rows
    order = _Order(len(images.labels), batch, seed, rows)
    pixels = images.images
    if not isinstance(pixels, Stored):
        for step in range(start, stop):
            ids = order.ids(step)
            yield Examples(pixels[ids], images.labels[ids], ids.astype(np.int32))
        return
    decoded = _decoded(_Chunks(pixels, order), start, stop, reading or Reading())
    try:
        for step in range(start, stop):
            ids = order.ids(step)
            yield Examples(next(decoded), images.labels[ids], ids.astype(np.int32))
    finally:
        decoded.close()


class _Order(NamedTuple):
    """Which examples a process needs in each step."""

    n: int
    batch: int
    seed: int
    rows: np.ndarray

    def ids(self, step: int) -> np.ndarray:
        return batch_indices(self.n, self.batch, seed=self.seed, step=step)[self.rows]


@dataclasses.dataclass(frozen=True, eq=False)
class _Chunks:
    """Steps cut in chunks: the unit of work of a thread. Travels to workers."""

    images: Stored
    order: _Order

    @property
    def per_step(self) -> int:
        return -(-len(self.order.rows) // CHUNK)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrives at a worker, which leaves to its parent what a terminal or a scheduler sends all
        processes: Ctrl-C, SIGUSR1.
        """
        self.__dict__.update(state)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and multiprocessing.parent_process() is not None:
            for number in (signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)

    def __call__(self, number: int) -> tuple[np.ndarray, list[str]]:
        """Pixels of a chunk, and what is wrong with images that do not decode."""
        step, place = divmod(int(number), self.per_step)
        ids = self.order.ids(step)[place * CHUNK : (place + 1) * CHUNK]
        try:
            return self.images.read(ids, [self.part(step, int(i)) for i in ids])
        except UserError as error:  # a worker could not raise it as such
            return np.zeros((len(ids), *self.images.shape[1:]), np.uint8), [str(error)]

    def part(self, step: int, example: int) -> Part:
        """Which part of an example a step takes: a function of (seed, step, example)."""
        if self.images.crop != "random":
            return decode.fixed_part(self.images.crop)
        rng = random_stream(self.order.seed, CROP, step, example)
        return functools.partial(decode.random_box, rng)


def _decoded(
    chunks: _Chunks, start: int, stop: int, reading: Reading
) -> Generator[np.ndarray, None, None]:
    """Pixels of each step, decoded ahead by Grain."""
    if start >= stop:
        return
    import grain  # takes a while, which only streams should pay
    from absl import flags

    per_step = chunks.per_step
    workers = min(reading.workers, (stop - start) * per_step)
    threads = reading.threads or max(1, (os.cpu_count() or 1) // max(workers, 1))
    ahead = -(-AHEAD * per_step // max(workers, 1))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    dataset = grain.MapDataset.range(start * per_step, stop * per_step).map(chunks)
    stream = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers ask for absl's flags
            flags.FLAGS.mark_as_parsed()
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
        stream = stream.mp_prefetch(processes)
    iterator = iter(stream)
    try:
        for step in range(start, stop):
            parts = [next(iterator) for _ in range(per_step)]
            _refuse([one for _, wrong in parts for one in wrong], step)
            yield np.concatenate([pixels for pixels, _ in parts])
    finally:
        iterator.close()


def _refuse(bad: list[str], step: int) -> None:
    try:
        decode.refuse(bad)
    except UserError as error:
        raise UserError(
            f"in the batch of step {step + 1}, {error}; then the same command goes on"
        ) from None
