"""What a run wrote while it trained: metrics, events of the guard, times.

Shape letters: `T` lines of metrics.
"""

import array
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.reporting.tolerant_json import Broken, Lines, number
from supernet_jax.tasks import Metric

MOST = 64  # names of metrics that are kept
EVENTS = 10_000  # events that are kept


class Event(NamedTuple):
    """A step that the guard refused, or a return to an earlier checkpoint."""

    kind: str  # refused, rollback
    step: int
    text: str


class Stretch(NamedTuple):
    """Steps that ran between two rollbacks: from `start` up to `stop`, without it."""

    rollbacks: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class History:
    """Metrics of a run.

    Attributes:
        steps: float64 `[T]`.
        values: by name, float64 `[T]`; NaN where a line lacks the name or is not finite.
        events: as they happened.
        stretches: of the run, in order; what was trained, also where a rollback undid it.
        undone: lines of steps that a rollback undid, which are not in `steps`.
        refused: number of steps that the guard refused.
        broken: lines that could not be read.
    """

    steps: np.ndarray
    values: dict[str, np.ndarray]
    events: list[Event]
    stretches: list[Stretch]
    undone: int
    refused: int
    broken: Broken | None


@dataclasses.dataclass
class _Reading:
    """What was read so far, of metrics whose names begin so (and the gradient's norm)."""

    series: tuple[str, ...]
    steps: array.array = dataclasses.field(default_factory=lambda: array.array("d"))
    values: dict[str, array.array] = dataclasses.field(default_factory=dict)
    events: list[Event] = dataclasses.field(default_factory=list)
    stretches: list[Stretch] = dataclasses.field(default_factory=list)
    start: int = 0
    rollbacks: int = 0
    undone: int = 0
    refused: int = 0


def read(path: pathlib.Path, metric: Metric) -> History:
    """Reads `metrics.jsonl`, whatever state it is in; an empty history where there is none.

    Args:
        path: of the file.
        metric: of the run.
    """
    found, lines = _Reading(("loss/", f"{metric.name}/")), Lines(path)
    for line in lines:
        if not _take(found, line):
            lines.note("no step")
    steps = np.array(found.steps, np.float64)
    last = int(steps[-1]) if steps.size else found.start
    if last > found.start:
        found.stretches.append(Stretch(found.rollbacks, found.start, last))
    values = {name: np.array(column, np.float64) for name, column in found.values.items()}
    return History(
        steps, values, found.events, found.stretches, found.undone, found.refused, lines.broken
    )


def _take(found: _Reading, line: Mapping[str, Any]) -> bool:
    """Adds a line. False where it says nothing that can be understood."""
    if line.get("event") == "rollback":
        return _go_back(found, line)
    step = number(line.get("step"))
    if step is None or not 0 <= step < 2**53:
        return False
    if line.get("event") == "refused" or line.get("applied") == 0:
        found.refused += 1
        _event(found, Event("refused", int(step), f"step {int(step):,} refused"))
    if "event" not in line:
        _add(found, step, line)
    return True


def _go_back(found: _Reading, line: Mapping[str, Any]) -> bool:
    start, end = number(line.get("to")), number(line.get("from"))
    if start is None or end is None or not 0 <= start <= end < 2**53:
        return False
    text = f"rollback from step {int(end):,} to {int(start):,}"
    _event(found, Event("rollback", int(end), text))
    found.stretches.append(Stretch(found.rollbacks, found.start, int(end)))
    found.start, found.rollbacks = int(start), found.rollbacks + 1
    kept = len(found.steps)
    while kept and found.steps[kept - 1] > start:
        kept -= 1
    found.undone += len(found.steps) - kept
    for column in (found.steps, *found.values.values()):
        del column[kept:]
    return True


def _add(found: _Reading, step: float, line: Mapping[str, Any]) -> None:
    nan = float("nan")
    for name in line:
        drawn = name.startswith(found.series) or name == "gradient_norm"
        if drawn and name not in found.values and len(found.values) < MOST:
            found.values[name] = array.array("d", [nan]) * len(found.steps)
    for name, column in found.values.items():
        value = number(line.get(name))
        column.append(nan if value is None else value)
    found.steps.append(step)


def _event(found: _Reading, event: Event) -> None:
    if len(found.events) < EVENTS:
        found.events.append(event)


class Times(NamedTuple):
    """When a run trained, and on what.

    Attributes:
        steps: float64 `[T]`, ends of the stretches of steps that were timed.
        rates: float64 `[T]`, steps per second in each.
        first: time of the first line, seconds since 1970, or None.
        last: of the last line.
        starts: what each process said of itself when it began: machine, versions, command.
        broken: lines that could not be read.
    """

    steps: np.ndarray
    rates: np.ndarray
    first: float | None
    last: float | None
    starts: list[Mapping[str, Any]]
    broken: Broken | None


def read_times(path: pathlib.Path) -> Times:
    """Reads `times.jsonl`; empty times where there is none."""
    lines = Lines(path)
    steps, rates, starts = array.array("d"), array.array("d"), []
    first = last = None
    before: tuple[float, float] | None = None
    for line in lines:
        step, time = number(line.get("step")), number(line.get("time"))
        if step is None or time is None:
            lines.note("no step or no time")
            continue
        first, last = first or time, time
        if line.get("event") == "start":
            starts.append(line)
            before = None  # what comes before the first line is mostly compilation
            continue
        if before and step > before[0] and time > before[1]:
            steps.append(step)
            rates.append((step - before[0]) / (time - before[1]))
        before = step, time
    return Times(
        np.array(steps, np.float64), np.array(rates, np.float64), first, last, starts, lines.broken
    )
