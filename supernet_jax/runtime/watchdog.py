"""A job that hangs is ended, with a status that tells a scheduler to start it again."""

import contextlib
import faulthandler
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from supernet_jax.runtime import stopping

HUNG = 124  # exit status, as of timeout(1)

_beaten = 0.0  # when the work last went on


def beat() -> None:
    """Says that the work goes on, as after each step."""
    global _beaten
    _beaten = time.monotonic()


@contextlib.contextmanager
def watching(seconds: float) -> Iterator[None]:
    """While entered, the process ends with status `HUNG` when `beat` was not called for so long.

    The stacks of all threads are then in a file, which a line on stderr names: it lies in the
    folder of temporary files, since what hangs may be the file system of the run.

    Args:
        seconds: of work, in which the process itself was not stopped; 0 watches nothing.
    """
    if not seconds:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        idle, pause = 0.0, min(1.0, seconds / 10)
        last = _beaten
        while not done.wait(pause):
            # Time that the process was stopped for is not counted.
            idle = 0.0 if _beaten != last else idle + pause
            last = _beaten
            if idle >= seconds:
                _end(seconds)

    beat()
    thread = threading.Thread(target=watch, daemon=True, name="watchdog")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _end(seconds: float) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="supernet-stacks-", suffix=".txt", delete=False
    ) as file:
        faulthandler.dump_traceback(file, all_threads=True)
    print(
        f"supernet: no step was made for {seconds:g} s, so this process ends; where each of its "
        f"threads was is in {file.name}; {stopping.what_next}",
        file=sys.stderr,
        flush=True,
    )
    stopping.leave(HUNG)
