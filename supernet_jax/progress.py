"""Progress of long work: a live bar in a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

Advance = Callable[..., None]  # advance(count=1, note="")
SILENT_SECONDS = 10.0  # between lines where there is no terminal


@contextlib.contextmanager
def bar(what: str, total: int, *, done: int = 0, unit: str = "step") -> Iterator[Advance]:
    """Shows what is done, how far, how fast and how long still.

    Args:
        what: is being done, as "training".
        total: units of work in all.
        done: units finished before now, as after a resume; they do not count for the speed.
        unit: singular name of a unit of work.

    Yields:
        `advance(count=1, note="")`, to be called as work gets finished.
    """
    console = rich.console.Console(stderr=True)
    if console.is_terminal:
        with _live(console, what, total, done, unit) as advance:
            yield advance
    else:
        yield _plain(what, total, done, unit)


@contextlib.contextmanager
def _live(
    console: rich.console.Console, what: str, total: int, done: int, unit: str
) -> Iterator[Advance]:
    columns = (
        rich.progress.TextColumn("{task.description:<12}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[speed]}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    start, finished = time.monotonic(), 0
    with rich.progress.Progress(*columns, console=console) as live:
        task = live.add_task(what, total=total, completed=done, note="", speed="")

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal finished
            finished += count
            speed = finished / max(time.monotonic() - start, 1e-9)
            live.update(task, advance=count, speed=f"{speed:.1f} {unit}s/s", note=note)

        yield advance


def _plain(what: str, total: int, done: int, unit: str) -> Advance:
    start = last = time.monotonic()
    finished = 0

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal finished, last
        finished += count
        now = time.monotonic()
        if now - last < SILENT_SECONDS and done + finished < total:
            return
        last = now
        speed = finished / max(now - start, 1e-9)
        left = (total - done - finished) / max(speed, 1e-9)
        print(
            f"{what}: {done + finished} of {total} {unit}s, {speed:.1f}/s, {left:.0f} s left"
            + (f", {note}" if note else ""),
            file=sys.stderr,
            flush=True,
        )

    return advance
