"""Compiled programs by what they are for, some of them compiled ahead by threads."""

import collections
import contextvars
import functools
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Any

WORKERS = min(os.cpu_count() or 1, 4)  # threads; of tracing, which is Python's, one runs at a time
Make = Callable[[], Any]


class Programs:
    """Programs by key; each is compiled once, whoever needs it first.

    Threads that compile ahead end when there is nothing left to do, and before the process does.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Future[Any]] = {}
        self._ahead = _Ahead()
        weakref.finalize(self, self._ahead.stop)  # at the end of the process too

    def __len__(self) -> int:
        return len(self._made)

    @property
    def waiting(self) -> int:
        """How many threads have still to begin with."""
        return len(self._ahead.tasks)

    def get(self, key: Hashable, make: Make) -> Any:
        """The program of a key: compiled here and now unless a thread is at it already.

        Args:
            key: what the program does; equal keys are for one program.
            make: compiles it.
        """
        future = self._made.get(key)
        if future is None:
            future = _made(self._made, key, make)
        return future.result()

    def ahead(self, wanted: Iterable[tuple[Hashable, Make]]) -> None:
        """Lets threads compile what will be wanted, in this order, after what they have to do.

        An error comes to whoever gets the program.
        """
        tasks = [(key, make) for key, make in wanted if key not in self._made]
        self._ahead.add(contextvars.copy_context(), self._made, tasks)


def _made(made: dict[Hashable, Future[Any]], key: Hashable, make: Make) -> Future[Any]:
    own: Future[Any] = Future()
    future = made.setdefault(key, own)  # atomic: one thread gets its own back
    if future is own:
        try:
            own.set_result(make())
        except BaseException as error:
            own.set_exception(error)
    return future


class _Ahead:
    """What threads have to do, and the threads; it knows no `Programs`, so that those can go."""

    def __init__(self) -> None:
        self.tasks: collections.deque[Callable[[], Any]] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def add(
        self, context: contextvars.Context, made: dict[Hashable, Future[Any]], tasks: Any
    ) -> None:
        with self._lock:
            for key, make in tasks:
                # A context can be entered by one thread at a time.
                self.tasks.append(functools.partial(context.copy().run, _made, made, key, make))
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            for _ in range(min(WORKERS, len(self.tasks)) - len(self._threads)):
                thread = threading.Thread(target=self._work, name="compile", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self.tasks:
                    self._threads.remove(threading.current_thread())
                    return
                task = self.tasks.popleft()
            task()

    def stop(self) -> None:
        """Drops what was not begun, and waits for what was."""
        with self._lock:
            self.tasks.clear()
            threads = [t for t in self._threads if t is not threading.current_thread()]
        for thread in threads:
            thread.join()
