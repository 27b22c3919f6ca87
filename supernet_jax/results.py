"""Evaluations on disk: one JSON line per subnet, written as it comes and never computed twice."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax import choices, costs, evaluate, experiment, progress
from supernet_jax.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import Run
from supernet_jax.storage import files


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
    """Accuracies of archs of a run, from its file where they are known and computed where not.

    Args:
        run: the trained run.
        split: "held-out" or "test".
        what: the name of the progress bar; empty for none.

    Attributes:
        macs: counts those of an arch.
    """

    def __init__(self, run: Run, split: str, *, what: str = "evaluating"):
        self._run = run
        self._what = what
        self._conditions = conditions(run, split)
        self._path = run.folder / "evaluations.jsonl"
        self._split = split
        self.macs = costs.macs(run.experiment.space)
        self._parameters = costs.parameters(run.experiment.space)
        self._known = self._read()

    def __call__(self, archs: Sequence[Arch]) -> list[dict[str, Any]]:
        """One record per arch: its notation, accuracy in [0, 1], loss, MACs, parameters, and the
        conditions it was measured under.
        """
        keys = [key(arch) for arch in archs]
        todo = {k: a for k, a in zip(keys, archs, strict=True) if k not in self._known}
        if todo and self._what:
            done = len(set(keys)) - len(todo)
            with progress.bar(self._what, len(set(keys)), done=done, unit="subnet") as advance:
                self._compute(list(todo.values()), advance)
        elif todo:
            self._compute(list(todo.values()), lambda count=1, note="": None)
        return [self._known[k] for k in keys]

    def add(self, archs: Sequence[Arch], accuracy: np.ndarray, loss: np.ndarray) -> None:
        """Records what was measured elsewhere, on all images and under the same conditions.

        Args:
            archs: `[N]`; those already known stay as they are.
            accuracy: `[N]`, in [0, 1].
            loss: `[N]`, mean cross-entropy in nats.
        """
        new = [i for i, arch in enumerate(archs) if key(arch) not in self._known]
        records = [self.record(archs[i], float(accuracy[i]), float(loss[i])) for i in new]
        self._append([archs[i] for i in new], records)

    @functools.cached_property
    def _data(self) -> evaluate.EvaluationData:
        return experiment.evaluation_data(self._run.experiment, self._split)

    def _compute(self, archs: list[Arch], advance: progress.Advance) -> None:
        e = self._run.experiment
        results = evaluate.evaluate(
            experiment.evaluation_how(e), self._run.params, choices.stack(archs), self._data
        )
        for where, result in results:
            part = [archs[i] for i in where]
            records = [
                self.record(arch, float(accuracy), float(loss))
                for arch, accuracy, loss in zip(part, result.accuracy, result.loss, strict=True)
            ]
            self._append(part, records)
            best = max(record["accuracy"] for record in self._known.values())
            advance(len(part), f"best {best:.2%}")

    def record(self, arch: Arch, accuracy: float, loss: float) -> dict[str, Any]:
        """A record of one arch, with the conditions of all."""
        return {
            "arch": choices.to_notation(self._run.experiment.space.menu, arch),
            "accuracy": round(accuracy, 6),
            "loss": round(loss, 6),
            "macs": int(self.macs(arch)),
            "parameters": int(self._parameters(arch)),
            **self._conditions,
        }

    def _append(self, archs: list[Arch], records: list[dict[str, Any]]) -> None:
        self._known |= {key(a): r for a, r in zip(archs, records, strict=True)}
        if jax.process_index() == 0:
            files.append_lines(self._path, records)

    def _read(self) -> dict[bytes, dict[str, Any]]:
        """What the file knows under these conditions; a line cut off by a kill is forgotten."""
        known = {}
        menu = self._run.experiment.space.menu
        for number, line in enumerate(files.lines(self._path), 1):
            try:
                record = json.loads(line)
                if {k: record.get(k) for k in self._conditions} == self._conditions:
                    known[key(choices.from_notation(menu, record["arch"]))] = record
            except (ValueError, KeyError, AttributeError, UserError) as error:
                raise UserError(
                    f"{self._path}, line {number}, is damaged ({error}); remove the line, and what "
                    "it knew is computed again"
                ) from None
        return known


def dump(rows: list[Any]) -> str:
    """A JSON list with one line for each entry."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


def key(arch: Arch) -> bytes:
    """What tells an arch from the others of its space."""
    leaves = [np.asarray(leaf, np.int32) for leaf in jax.tree.leaves(arch)]
    return np.stack(leaves).tobytes()
