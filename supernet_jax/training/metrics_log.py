"""The metrics and times of a run, as lines of files."""

import inspect
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from supernet_jax import __version__
from supernet_jax.errors import LOG
from supernet_jax.runtime import hardware
from supernet_jax.storage import files, user_code
from supernet_jax.training.recipe import Metrics

TIMES = "times.jsonl"  # beside the metrics: when steps were done, and what did them
# Called with a step and what its line of the metrics holds; NaN and infinities where that has null.
OnMetrics = Callable[[int, dict[str, float]], Any]


class MetricsLog:
    """Metrics on their way from the device to the file, which the first process writes.

    Args:
        path: of the metrics. Lines after the step at which training begins, as a killed process
            leaves them, are taken out.
        every: steps between lines.
        start: the step at which training begins.
        rollbacks: how often it had gone back before.
        on_metrics: who else gets each line, on the first process.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        every: int,
        start: int,
        rollbacks: int,
        on_metrics: Sequence[OnMetrics] = (),
    ):
        self._path, self._every, self._listeners = path, every, list(on_metrics)
        self._pending: list[tuple[int, Metrics]] = []
        self._begun: dict[str, Any] | None = {"event": "start", "step": start, "time": time.time()}
        self._writes = jax.process_index() == 0
        if self._writes:
            files.keep_lines(path, lambda line: _before(line, start, rollbacks))

    def add(self, step: int, metrics: Metrics) -> None:
        """Remembers a step's metrics without waiting for them."""
        self._pending.append((step, metrics))

    def flush(self, rollbacks: int) -> list[dict[str, float]]:
        """Waits for the pending steps, at least one, and writes their lines.

        When the last of them was done goes to a file beside the metrics, at first also what does
        them: the metrics are the same whenever and wherever a run is trained.

        Args:
            rollbacks: how often training had gone back before these steps.

        Returns:
            The metrics of each.
        """
        steps, metrics = zip(*self._pending, strict=True)
        self._pending.clear()
        host = [
            {name: float(value) for name, value in own.items()} for own in jax.device_get(metrics)
        ]
        for step, values in zip(steps, host, strict=True):
            if step % self._every == 0:
                self.event({"step": step, **values}, rollbacks)
                self._tell(step, {**values, "rollbacks": rollbacks})
            elif not values["applied"]:
                self.event({"event": "refused", "step": step, **values}, rollbacks)
        if self._writes:
            lines: list[dict[str, Any]] = [{"step": steps[-1], "time": time.time()}]
            if self._begun is not None:
                made_by = {"command": shlex.join(sys.argv), "supernet_jax": __version__}
                lines.insert(0, {**self._begun, **made_by, **hardware.describe()})
                self._begun = None
            files.append_lines(self._path.with_name(TIMES), lines)
        return host

    def event(self, value: dict[str, Any], rollbacks: int) -> None:
        """Writes one JSON line, which says after how many rollbacks it was."""
        if self._writes:
            files.append_lines(self._path, [{**value, "rollbacks": rollbacks}])

    def _tell(self, step: int, values: dict[str, float]) -> None:
        """Passes a line on. A listener that fails gets nothing more: it has tried again itself, if
        it is a client of a server, and each further failure would make training wait as long.
        """
        for listener in list(self._listeners) if self._writes else ():
            try:
                listener(step, dict(values))
            except Exception as error:
                self._listeners.remove(listener)
                kind: Any = listener if inspect.isroutine(listener) else type(listener)
                name = kind.__qualname__ if kind is listener else user_code.name_of(listener)
                where = user_code.source(kind) if user_code.is_own(listener) else None
                LOG.warning(
                    f"warning: {name} failed at step {step} ({user_code.told(error, where)}) and "
                    f"gets no more metrics of this process; training goes on, and {self._path} "
                    "has all of them"
                )


def _before(line: str, step: int, rollbacks: int) -> bool:
    """Whether a line is history for a run at this step, after so many rollbacks."""
    try:
        value = json.loads(line)
    except ValueError:  # of a disk that lost a part of it
        return False
    if not isinstance(value, dict):
        return False
    then = value.get("rollbacks", 0)
    return then < rollbacks or (then == rollbacks and value.get("step", 0) <= step)
