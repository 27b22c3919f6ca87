"""Workers on other processors or machines, each of which does pieces of one job.

A `Farm` starts workers and carries messages; Ray is one (`runtime.ray_farm`). What holds for every
farm is here: pieces go to the worker that is free, a piece whose worker dies goes to another, and
what comes back is taken in any order. What a piece is, and what is done with it, a farm does not
know.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from supernet_jax.errors import LOG, UserError
from supernet_jax.runtime import disk_cache

SAY_SECONDS = 30.0  # of waiting for the first worker, after which it is said
BEGIN_SECONDS = 300.0  # that workers have to begin, where none has begun yet
TICK_SECONDS = 0.2  # between two looks at what came back, so that signals are heard

Work = Callable[[Any], Any]  # piece -> what becomes of it
Begin = Callable[[], tuple[Any, Work]]  # what the worker says of itself, and how it works


class NoWorkers(RuntimeError):
    """All workers of a farm are gone, or none came. What they had sent is kept, and the same
    command goes on; so the command line ends with the status of what is unfinished.
    """


class Answer(NamedTuple):
    """What came back from a worker.

    Attributes:
        worker: its name.
        value: at first what the worker says of itself, then what became of the piece it was sent.
        refused: the message of a `UserError` that was raised there; "" if there was none.
        died: how the worker ended; "" if it lives.
    """

    worker: str
    value: Any = None
    refused: str = ""
    died: str = ""


@runtime_checkable
class Farm(Protocol):
    """What an engine has to do: start workers, and carry messages to them and back."""

    def start(self, begin: Begin) -> list[str]:
        """Starts workers, which call `begin` first and answer with what they say of themselves.

        Args:
            begin: travels to each of them as the engine sends things.

        Returns:
            Their names, as messages have them.
        """

    def send(self, worker: str, piece: Any) -> None:
        """Has a worker that is free work on a piece."""

    def receive(self, seconds: float) -> Answer | None:
        """The next answer of any worker; None if there is none for so long. A bug in a worker is
        raised here.
        """

    def stop(self) -> None:
        """Ends the workers, whatever they do; called twice, it does nothing."""


class Worker:
    """One worker, as an engine runs it in a process of its own."""

    def begin(self, begin: Begin) -> tuple[Any, str]:
        """What the worker says of itself, or the message of a `UserError`."""
        return self._answered(lambda: self._begun(begin))

    def work(self, piece: Any) -> tuple[Any, str]:
        """What becomes of a piece, or the message of a `UserError`."""
        return self._answered(lambda: self._work(piece))

    def _begun(self, begin: Begin) -> Any:
        said, self._work = begin()
        return said

    def _answered(self, act: Callable[[], Any]) -> tuple[Any, str]:
        try:
            return act(), ""
        except UserError as error:
            return None, str(error)


class Workers:
    """The workers of a farm that live, and what each of them has been sent.

    Args:
        farm: starts them, now.
        begin: as `Farm.start` takes it.
        check: called with a worker's name and what it says of itself, before its first piece.

    Attributes:
        idle: those that have begun and wait for a piece.
    """

    def __init__(self, farm: Farm, begin: Begin, check: Callable[[str, Any], None]):
        self._farm, self._check = farm, check
        self._beginning = set(farm.start(begin))
        self._all = len(self._beginning)
        self._sent: dict[str, Any] = {}  # None where nobody waits for what becomes of it
        self._again: list[Any] = []  # pieces of workers that have died
        self.idle: list[str] = []

    def __len__(self) -> int:
        return len(self._beginning) + len(self._sent) + len(self.idle)

    def results(self, pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """What becomes of pieces, as it comes. Each, which is not None, is taken from the iterable
        when a worker is free for it. What is left of an earlier call is dropped.

        Yields:
            A piece, and what became of it.

        Raises:
            UserError: a worker raised it, or does not pass the check.
            NoWorkers: none is left.
        """
        left = iter(pieces)
        self._again.clear()
        self._sent = dict.fromkeys(self._sent)
        while True:
            while (
                self.idle
                and (piece := self._again.pop() if self._again else next(left, None)) is not None
            ):
                worker = self.idle.pop()
                self._sent[worker] = piece
                self._farm.send(worker, piece)
            if self.idle and all(piece is None for piece in self._sent.values()):
                return
            answer = self._next()
            piece = self._sent.get(answer.worker)
            if self._heard(answer) and piece is not None:
                yield piece, answer.value

    def wait(self) -> None:
        """Returns when all workers that live have begun; raises what `results` does."""
        while self._beginning:
            self._heard(self._next())

    def _heard(self, answer: Answer) -> bool:
        """Takes note of an answer. Whether the worker lives, and so is free now."""
        piece, begins = self._sent.pop(answer.worker, None), answer.worker in self._beginning
        self._beginning.discard(answer.worker)
        if answer.refused and (begins or piece is not None):
            raise UserError(f"{answer.worker}: {answer.refused}")
        if answer.died:
            self._again += [] if piece is None else [piece]
            self._lost(answer)
            return False
        if begins:
            self._check(answer.worker, answer.value)
        self.idle.append(answer.worker)
        return True

    def _next(self) -> Answer:
        """Waits for an answer: for ever where somebody works, else as long as one has to begin."""
        begun, said = time.monotonic(), False
        while (answer := self._farm.receive(TICK_SECONDS)) is None:
            waited = time.monotonic() - begun
            if self._sent or waited < SAY_SECONDS:
                continue
            if waited > BEGIN_SECONDS:
                raise NoWorkers(
                    f"{len(self._beginning)} of {self._all} workers of the farm have not begun "
                    f"within {BEGIN_SECONDS:.0f} s: others may use their processors"
                )
            if not said:
                said = True
                LOG.warning(
                    f"note: {len(self._beginning)} of {self._all} workers of the farm have not "
                    f"begun; waiting for them, {BEGIN_SECONDS:.0f} s at most"
                )
        return answer

    def _lost(self, answer: Answer) -> None:
        how = f"{answer.worker} of the farm has died ({answer.died})"
        if not len(self):
            raise NoWorkers(
                f"{how}, and no other is left of {self._all}; what was finished is kept"
            )
        LOG.warning(f"warning: {how}; others go on with its work, {len(self)} of {self._all}")


def environment(cores: int, *, here: bool) -> dict[str, str]:
    """The environment variables of a worker that computes on so many cores.

    Args:
        cores: at least 1. XLA starts so many threads (NPROC), and so do libraries below NumPy.
        here: whether it runs on this machine, and so may share its compiled programs.
    """
    config: Any = jax.config
    threads = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    found = {**dict.fromkeys(threads, str(cores)), "JAX_PLATFORMS": "cpu"}
    found["JAX_NUM_CPU_DEVICES"] = "1"
    if precision := config.jax_default_matmul_precision:  # set by a program, not by a variable
        found["JAX_DEFAULT_MATMUL_PRECISION"] = str(precision)
    if here and (folder := disk_cache.folder()) is not None:
        seconds = config.jax_persistent_cache_min_compile_time_secs
        found["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(seconds)
    return found


def cores() -> int:
    """Of this machine, as far as this process may use them."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
