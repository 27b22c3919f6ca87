"""Progress of long work: a live bar in a terminal or a notebook, lines now and then elsewhere."""

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import rich.console
import rich.progress

Advance = Callable[..., None]  # advance(count=1, note="")
SILENT_SECONDS = 10.0  # between lines where there is no terminal
REDRAW_SECONDS = 0.2  # between two pictures of a bar in a notebook


@contextlib.contextmanager
def bar(what: str, total: int, *, done: int = 0, unit: str = "step") -> Iterator[Advance]:
    """Shows what is done, how far, how fast and how long still; in process 0 of several.

    Args:
        what: is being done, as "training".
        total: units of work in all.
        done: units finished before now, as after a resume; they do not count for the speed.
        unit: singular name of a unit of work.

    Yields:
        `advance(count=1, note="")`, to be called as work gets finished.
    """
    if jax.distributed.is_initialized() and jax.process_index() != 0:
        yield lambda count=1, note="": None
        return
    console = rich.console.Console(stderr=True)
    if console.is_jupyter:
        with _notebook(what, total, done, unit) as advance:
            yield advance
    elif console.is_terminal:
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
    pace, finished = _Pace(), 0
    with rich.progress.Progress(*columns, console=console) as live:
        task = live.add_task(what, total=total, completed=done, note="", speed="")

        def advance(count: int = 1, note: str = "") -> None:
            nonlocal finished
            finished += count
            speed = f"{pace(finished):.1f} {unit}s/s"
            live.update(task, advance=count, speed=speed, note=note)

        yield advance


@contextlib.contextmanager
def _notebook(what: str, total: int, done: int, unit: str) -> Iterator[Advance]:
    """A bar of HTML, which needs nothing but what every notebook has."""
    import IPython.display  # is there where a notebook is

    pace, finished, said, drawn = _Pace(), 0, "", time.monotonic()

    def page() -> Any:
        text = f"{what} {done + finished}/{total}{said}"
        return IPython.display.HTML(
            f'<progress max="{total}" value="{done + finished}" style="width: 20em"></progress> '
            f"<code>{html.escape(text)}</code>"
        )

    handle: Any = IPython.display.display(page(), display_id=True)

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal finished, said, drawn
        finished += count
        speed = pace(finished)
        left = (total - done - finished) / max(speed, 1e-9)
        said = f", {speed:.1f} {unit}s/s, {left:.0f} s left{f', {note}' if note else ''}"
        if time.monotonic() - drawn > REDRAW_SECONDS:
            drawn = time.monotonic()
            handle.update(page())

    try:
        yield advance
    finally:
        handle.update(page())


class _Pace:
    """Units per second since the first were finished: before it, programs are compiled."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: tuple[float, int] | None = None

    def __call__(self, finished: int) -> float:
        """The pace now that so many are finished."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, finished)
        then, before = self._first
        if finished == before:
            then, before = self._start, 0
        return (finished - before) / max(now - then, 1e-9)


def _plain(what: str, total: int, done: int, unit: str) -> Advance:
    pace, finished = _Pace(), 0
    last = time.monotonic()

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal finished, last
        finished += count
        speed = pace(finished)
        now = time.monotonic()
        if now - last < SILENT_SECONDS and done + finished < total:
            return
        last = now
        left = (total - done - finished) / max(speed, 1e-9)
        with contextlib.suppress(OSError):  # a reader that has gone is no reason to stop
            print(
                f"{what}: {done + finished} of {total} {unit}s, {speed:.1f}/s, {left:.0f} s left"
                + (f", {note}" if note else ""),
                file=sys.stderr,
                flush=True,
            )

    return advance
