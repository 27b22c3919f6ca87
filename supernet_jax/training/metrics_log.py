"""The metrics and times of a run, as lines of files."""

import collections
import json
import shlex
import sys
import time
from typing import Any

import jax

from supernet_jax import __version__
from supernet_jax.runtime import hardware
from supernet_jax.storage import files
from supernet_jax.training import recipe
from supernet_jax.training.job import Job

SLOW_SECONDS = 0.5  # a step that takes longer is waited for before the next is begun
TIMES = "times.jsonl"  # beside the metrics: when steps were done, and what did them


class MetricsLog:
    """Metrics on their way from the device to the file, and what the guard saw."""

    def __init__(self, job: Job, start: int, rollbacks: int):
        self.start = self.shown = start
        self.rollbacks = rollbacks
        self.returned: int | None = None  # to which step, the last time
        self._job = job
        self._pending: collections.deque[tuple[int, recipe.Metrics]] = collections.deque()
        self._times = job.metrics.with_name(TIMES)
        self._start: dict[str, Any] | None = {"event": "start", "step": start, "time": time.time()}
        self._writes = jax.process_index() == 0
        self._settled, self._seconds = time.monotonic(), 0.0
        if self._writes:
            kept = [x for x in files.lines(job.metrics) if _before(x, start, rollbacks)]
            files.write_text(job.metrics, "".join(f"{line}\n" for line in kept))

    def add(self, step: int, metrics: recipe.Metrics) -> None:
        """Remembers a step's metrics without waiting for them."""
        self._pending.append((step, metrics))

    def settle(self) -> float:
        """Waits until no more than one step is under way, and none if they are slow: what was
        given to the device cannot be taken back when a signal asks to stop. Returns what a step
        takes, in seconds.
        """
        under_way = 0 if self._seconds > SLOW_SECONDS else 1
        if len(self._pending) > under_way:
            jax.block_until_ready(self._pending[-1 - under_way][1])
        now = time.monotonic()
        self._seconds, self._settled = now - self._settled, now
        return self._seconds

    def flush(self) -> tuple[str, int, int]:
        """Waits for the pending steps. Returns a line to show, how many steps in a row are refused
        now, and how many were at worst.
        """
        host = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
        self._pending.clear()
        for step, metrics in host:
            values = {name: float(value) for name, value in metrics.items()}
            if step % self._job.log_every == 0:
                self.event({"step": step, **values})
            elif not values["applied"]:
                self.event({"event": "refused", "step": step, **values})
        self._time(host[-1][0])
        refused = [int(metrics["refused"]) for _, metrics in host]
        losses = {k: v for k, v in host[-1][1].items() if k.startswith("loss/")}
        note = ", ".join(f"{k[5:]} {float(v):.3f}" for k, v in losses.items())
        return note, refused[-1], max(refused)

    def event(self, value: dict[str, Any]) -> None:
        """Writes one JSON line, which says after how many rollbacks it was."""
        if self._writes:
            files.append_lines(self._job.metrics, [{**value, "rollbacks": self.rollbacks}])

    def _time(self, step: int) -> None:
        """Writes when a step was done; at first also what does them. Not in the metrics, which
        are the same whenever and wherever a run is trained.
        """
        if not self._writes:
            return
        lines: list[dict[str, Any]] = [{"step": step, "time": time.time()}]
        if self._start is not None:
            made_by = {"command": shlex.join(sys.argv), "supernet_jax": __version__}
            lines.insert(0, {**self._start, **made_by, **hardware.describe()})
            self._start = None
        files.append_lines(self._times, lines)


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
