"""What a run wrote while it trained: metrics, events of the guard, times.

Shape letters: `T` lines of metrics.
"""

import array
import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.reporting.tolerant_json import Broken, Lines, number, share
from supernet_jax.tasks import Metric

MOST = 64  # names of metrics that are kept
DECISIONS, OPTIONS = 256, 64  # of a code, that are kept
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
class Moves:
    """How likely a learning sampler made options.

    Attributes:
        steps: float64 `[T]`.
        values: by decision and option, float64 `[T]`; NaN where a line has no probability.
        more: decisions that were not kept.
    """

    steps: np.ndarray
    values: dict[str, dict[str, np.ndarray]]
    more: int


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
        codes: of a sampler that learns; without steps for others.
    """

    steps: np.ndarray
    values: dict[str, np.ndarray]
    events: list[Event]
    stretches: list[Stretch]
    undone: int
    refused: int
    broken: Broken | None
    codes: Moves


@dataclasses.dataclass
class _Columns:
    """Values by name, at steps that come one by one."""

    steps: array.array = dataclasses.field(default_factory=lambda: array.array("d"))
    values: dict[Any, array.array] = dataclasses.field(default_factory=dict)

    def add(self, step: float, values: Mapping[Any, Any]) -> None:
        """Another step; what has no value in it gets NaN, as before its name first came."""
        for name in values:
            if name not in self.values:
                self.values[name] = array.array("d", [math.nan]) * len(self.steps)
        for name, column in self.values.items():
            value = number(values.get(name))
            column.append(math.nan if value is None else value)
        self.steps.append(step)

    def cut(self, last: float) -> int:
        """Forgets the steps after `last`; how many they were."""
        before = kept = len(self.steps)
        while kept and self.steps[kept - 1] > last:
            kept -= 1
        for column in (self.steps, *self.values.values()):
            del column[kept:]
        return before - kept


@dataclasses.dataclass
class _Reading:
    """What was read so far, of metrics whose names begin so (and the gradient's norm)."""

    series: tuple[str, ...]
    metrics: _Columns = dataclasses.field(default_factory=_Columns)
    codes: _Columns = dataclasses.field(default_factory=_Columns)
    decisions: dict[str, int] = dataclasses.field(default_factory=dict)  # options kept of each
    more: set[str] = dataclasses.field(default_factory=set)  # decisions that are not kept
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
    steps = np.array(found.metrics.steps, np.float64)
    last = int(steps[-1]) if steps.size else found.start
    if last > found.start:
        found.stretches.append(Stretch(found.rollbacks, found.start, last))
    values = {name: np.array(column, np.float64) for name, column in found.metrics.values.items()}
    return History(
        steps,
        values,
        found.events,
        found.stretches,
        found.undone,
        found.refused,
        lines.broken,
        _moves(found),
    )


def _moves(found: _Reading) -> Moves:
    moved: dict[str, dict[str, np.ndarray]] = {}
    for (decision, option), column in found.codes.values.items():
        moved.setdefault(decision, {})[option] = np.array(column, np.float64)
    return Moves(np.array(found.codes.steps, np.float64), moved, len(found.more))


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
    if line.get("event") == "codes":
        return _add_codes(found, step, line.get("codes"))
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
    found.undone += found.metrics.cut(start)
    found.codes.cut(start)
    return True


def _add(found: _Reading, step: float, line: Mapping[str, Any]) -> None:
    drawn = [n for n in line if n.startswith(found.series) or n == "gradient_norm"]
    known = found.metrics.values
    news = [name for name in drawn if name not in known][: max(MOST - len(known), 0)]
    found.metrics.add(step, {name: line[name] for name in drawn if name in known or name in news})


def _add_codes(found: _Reading, step: float, codes: Any) -> bool:
    """Adds what is new or known of a code, as `{decision: {option: probability}}`. False where it
    is none.
    """
    if not isinstance(codes, Mapping) or not all(isinstance(o, Mapping) for o in codes.values()):
        return False
    flat: dict[tuple[str, str], Any] = {}
    for decision, options in codes.items():
        if decision not in found.decisions and len(found.decisions) >= DECISIONS:
            found.more.add(decision)
            continue
        for option, probability in options.items():
            kept = found.decisions.setdefault(decision, 0)
            if (decision, option) not in found.codes.values:
                if kept >= OPTIONS:
                    continue
                found.decisions[decision] = kept + 1
            flat[decision, option] = share(probability)
    found.codes.add(step, flat)
    return True


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
