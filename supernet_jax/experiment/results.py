"""Evaluations on disk: one JSON line per subnet, written as it comes and never computed twice.

Equal networks are one subnet, however they are written: records name the arch in its normal form
(`space.normal`), and those of older files count for all archs of their network.

Several processes may evaluate subnets of one run at once: each appends whole lines, and looks at
what the others have appended before it computes more.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import choices, notation, space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import LOG, UserError
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.evaluation.chunks import Wanted
from supernet_jax.evaluation.evaluate import Result
from supernet_jax.experiment import build
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import progress
from supernet_jax.storage import files
from supernet_jax.tasks import Metric

Evaluator = Callable[[Arch, Wanted], Iterator[tuple[np.ndarray, Result]]]


def conditions(run: Run, split: str) -> dict[str, Any]:
    """All that a result depends on besides the arch, as JSON values."""
    settings, dataset = run.experiment.config, run.experiment.dataset
    images = {"held-out": dataset.held_out, "test": dataset.test}[split].labels.shape[0]
    if settings.evaluation.limit and split == "held-out":
        images = min(images, settings.evaluation.limit)
    # As many batches as there are images for, see `data.calibration_subset`.
    batch = min(settings.evaluation.batch, len(dataset.train.labels))
    batches = min(settings.evaluation.calibration_batches, len(dataset.train.labels) // batch)
    return {
        "space": run.experiment.space.name,
        "checkpoint": run.step,
        "split": split,
        "images": images,
        "data": dataset.fingerprint,
        "calibration": [batches, batch],
        "dtype": settings.train.dtype,
    }


class Scorer:
    """The metric of archs of a run, from its file where it is known and computed where not.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        what: the name of the progress bar; empty for none.
        keep: whether results are appended to the run's file.
        evaluator: computes what is not known, as `evaluate.evaluate` yields it; None for this
            process.

    Attributes:
        macs: counts those of an arch.
        metric: of the task.
        keep: as given.

    Raises:
        UserError: the run's file is there and cannot be read; of a call, that it cannot be written.
    """

    def __init__(
        self,
        run: Run,
        split: str,
        *,
        what: str = "evaluating",
        keep: bool = True,
        evaluator: Evaluator | None = None,
    ):
        self._run = run
        self._what = what
        self._evaluator = evaluator or self._evaluate
        self.keep = keep
        self.metric = run.experiment.space.task.metric
        self._conditions = conditions(run, split)
        self._path = file_of(run)
        self._split = split
        self.macs = costs.macs(run.experiment.space)
        self._parameters = costs.parameters(run.experiment.space)
        self._known: dict[bytes, dict[str, Any]] = {}
        self._end = 0  # of what was read of the file
        damaged = self._read()
        if damaged:
            LOG.warning(
                f"warning: {self._path} has damaged lines ({len(damaged)}, the first is line "
                f"{damaged[0]}); they stay as they are, and what they knew is computed again"
            )

    def __call__(self, archs: Sequence[Arch]) -> list[dict[str, Any]]:
        """One record per arch: the notation of its normal form, the task's metric under its name,
        loss (None where it is not a number), MACs, parameters, and the conditions it was measured
        under.
        """
        archs = self._normal(archs)
        keys = [key(arch) for arch in archs]
        self._catch_up()
        todo = {k: a for k, a in zip(keys, archs, strict=True) if k not in self._known}
        if todo and self._what:
            done = len(set(keys)) - len(todo)
            with progress.bar(self._what, len(set(keys)), done=done, unit="subnet") as advance:
                self._compute(list(todo.values()), advance, keys)
        elif todo:
            self._compute(list(todo.values()), lambda count=1, note="": None, keys)
        return [self._known[k] for k in keys]

    def lacks(self, archs: Sequence[Arch]) -> bool:
        """Whether any of the archs is not known yet."""
        return any(key(arch) not in self._known for arch in self._normal(archs))

    def add(self, archs: Sequence[Arch], value: np.ndarray, loss: np.ndarray) -> None:
        """Records what was measured elsewhere, on all images and under the same conditions.

        Args:
            archs: `[N]`; those already known stay as they are.
            value: `[N]`, the task's metric.
            loss: `[N]`, mean in nats.
        """
        self._catch_up()
        self._record(self._normal(archs), value, loss)

    @functools.cached_property
    def _data(self) -> evaluate.EvaluationData:
        return build.evaluation_data(self._run.experiment, self._split)

    def _compute(
        self, archs: list[Arch], advance: progress.Advance, asked: Sequence[bytes]
    ) -> None:
        """Evaluates normal archs, none of them twice or known yet. What is said to be the best is
        of those with the keys `asked`.
        """
        keys, rng = [key(a) for a in archs], np.random.default_rng()
        news = met = False

        def wanted(rest: np.ndarray) -> np.ndarray:
            if not news:
                return rest
            left = np.array([i for i in rest if keys[i] not in self._known], int)
            advance(len(rest) - len(left))
            return np.roll(left, rng.integers(len(left))) if met and len(left) else left

        for where, result in self._evaluator(choices.stack(archs), wanted):
            news = self._catch_up()
            recorded = self._record([archs[i] for i in where], result.value, result.loss)
            # Where another process evaluates the same archs in the same order, go on elsewhere.
            met = recorded < len(where)
            known = [self._known[k] for k in asked if k in self._known]
            scores = [self.score(record) for record in known if record["loss"] is not None]
            advance(len(where), best_of(self.metric, scores))

    def _evaluate(self, archs: Arch, wanted: Wanted) -> Iterator[tuple[np.ndarray, Result]]:
        how = build.evaluation_how(self._run.experiment)
        return evaluate.evaluate(how, self._run.params, archs, self._data, wanted=wanted)

    def score(self, record: Mapping[str, Any]) -> float:
        """What a search makes larger: the metric, or its negative; NaN where the loss or the metric
        is not a finite number, so that such a subnet is on no front.
        """
        if record["loss"] is None:
            return math.nan
        return self.metric.score(record[self.metric.name])

    def records(
        self, archs: Sequence[Arch], value: np.ndarray, loss: np.ndarray
    ) -> list[dict[str, Any]]:
        """Records of archs, with the conditions of all; arguments are those of `add`."""
        menu = self._run.experiment.space.menu
        return [
            {
                "arch": notation.to_notation(menu, arch),
                self.metric.name: round(float(measured), 6),
                "loss": round(float(nats), 6) if np.isfinite([nats, measured]).all() else None,
                **self.costs(arch),
                **self._conditions,
            }
            for arch, measured, nats in zip(self._normal(archs), value, loss, strict=True)
        ]

    def costs(self, arch: Arch) -> dict[str, int]:
        """MACs and parameters of an arch, as records have them."""
        return {"macs": int(self.macs(arch)), "parameters": int(self._parameters(arch))}

    def _record(self, archs: Sequence[Arch], value: np.ndarray, loss: np.ndarray) -> int:
        """Keeps what was measured of those normal archs that are not known; how many these are."""
        made = zip(map(key, archs), self.records(archs, value, loss), strict=True)
        new = {k: record for k, record in made if k not in self._known}
        if self.keep and jax.process_index() == 0 and new:
            files.append_lines(self._path, list(new.values()))
        self._known |= new
        return len(new)

    def _normal(self, archs: Sequence[Arch]) -> list[Arch]:
        """Archs as all of the same network are written."""
        if not archs:
            return []
        return choices.unstack(space.normal(self._run.experiment.space, choices.stack(archs)))

    def _catch_up(self) -> bool:
        """Takes over what others have evaluated since; whether there was any that is not known.

        The processes of one run must compute the same, so they look at the file once.
        """
        before = len(self._known)
        if jax.process_count() == 1:
            self._read()
        return len(self._known) > before

    def _read(self) -> list[int]:
        """Learns what is new in the file under these conditions; which lines of it are damaged."""
        lines, self._end = files.lines_after(self._path, self._end)
        menu = self._run.experiment.space.menu
        archs, records, damaged = [], [], []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if {k: record.get(k) for k in self._conditions} != self._conditions:
                    continue
                known = checked(record, self.metric)
                archs.append(notation.from_notation(menu, record["arch"]))
                records.append(known)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
                damaged.append(number)
        for arch, record in zip(self._normal(archs), records, strict=True):
            self._known[key(arch)] = {**record, "arch": notation.to_notation(menu, arch)}
        return damaged


def file_of(run: Run) -> pathlib.Path:
    """Where the evaluations of a run are kept."""
    return run.folder / "evaluations.jsonl"


def are_kept(run: Run, out: pathlib.Path | None) -> bool:
    """Whether results can be kept in the run's folder; if they cannot, that is said.

    Raises:
        UserError: they cannot, and no other place is given.
    """
    if files.is_writable(file_of(run)) and files.is_writable(run.folder):
        return True
    if out is None:
        raise UserError(
            f"this user cannot write to {run.folder}, where results are kept; give --out FILE, and "
            "they are written there alone"
        )
    LOG.warning(
        f"note: this user cannot write to {run.folder}, so no record is kept there: results are in "
        f"{out} alone, and an interrupted command begins anew"
    )
    return False


def checked(record: dict[str, Any], metric: Metric) -> dict[str, Any]:
    """A record that can be taken for one of ours; a loss that is no number becomes None.

    Raises:
        ValueError: something is missing or of another kind.
    """
    value, loss = record[metric.name], record["loss"]
    if not all(isinstance(record[name], int) for name in ("macs", "parameters")):
        raise ValueError("no whole number")
    if loss is None or not math.isfinite(loss):
        return {**record, "loss": None}
    if not math.isfinite(value) or (metric.unit == "%" and not 0 <= value <= 1):
        raise ValueError(f"{metric.name} is {value}")
    return record


def best_of(metric: Metric, scores: Sequence[float]) -> str:
    """The best of scores, in words."""
    if not scores:
        return "no loss is a number"
    return f"best {metric.shown(metric.score(max(scores)))}"


def require_numbers(subnets: int, broken: int) -> None:
    """Makes sure that not all subnets have a loss that is not a number.

    Raises:
        UserError: they have.
    """
    if broken == subnets:
        raise UserError(
            f"none of the {subnets:,} subnets has a loss that is a number, so none is best; the "
            "run's weights have diverged: train it again, with a smaller learning rate"
        )


def dump(rows: list[Any]) -> str:
    """A JSON list with one line for each entry."""
    return "[\n" + ",\n".join(map(files.dumps, rows)) + "\n]"


def key(arch: Arch) -> bytes:
    """What tells an arch from the others of its space."""
    leaves = [np.asarray(leaf, np.int32) for leaf in jax.tree.leaves(arch)]
    return np.stack(leaves).tobytes()
