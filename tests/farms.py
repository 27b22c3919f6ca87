"""Farms for tests."""

from typing import Any

from supernet_jax.runtime.farm import Answer, Begin, Worker


class Here:
    """A farm whose workers are in this process. All begin first, then the last is done first.

    Args:
        workers: how many.
        deaths: after how many pieces each of them dies, by name, in the middle of the next.
        silent: whether workers never begin.
    """

    def __init__(self, workers: int, *, deaths: dict[str, int] | None = None, silent: bool = False):
        self.names = [f"worker {i + 1}" for i in range(workers)]
        self.deaths, self.silent = deaths or {}, silent
        self.pieces: list[tuple[str, Any]] = []  # all that were sent
        self.stopped = 0
        self._begun: list[Answer] = []
        self._answers: list[Answer] = []

    def start(self, begin: Begin) -> list[str]:
        self.workers = {name: Worker() for name in self.names}
        for name, worker in self.workers.items():
            if self.deaths.get(name) == -1:
                self._begun.append(Answer(name, died="killed"))
            elif not self.silent:
                self._begun.append(Answer(name, *worker.begin(begin)))
        return self.names

    def send(self, worker: str, piece: Any) -> None:
        self.pieces.append((worker, piece))
        done = sum(name == worker for name, _ in self.pieces)
        if done > self.deaths.get(worker, len(self.pieces)):
            self._answers.append(Answer(worker, died="killed"))
        else:
            self._answers.append(Answer(worker, *self.workers[worker].work(piece)))

    def receive(self, seconds: float) -> Answer | None:
        waiting = self._begun or self._answers
        return waiting.pop() if waiting else None

    def stop(self) -> None:
        self.stopped += 1
