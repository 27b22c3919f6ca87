"""The checkpoints of a run in a bucket, which has no renames.

A checkpoint is finished when an object says so (`commit_success.txt`, as Orbax has it), which is
written last and removed first. One without is not seen. Beside the checkpoints, `latest.json` names
those that were finished when it was written: it is read by its name, so a listing that is stale
loses none. Whether any of those named or listed is there is asked of its last object.
"""

import itertools
import json
import re
import threading
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from supernet_jax.errors import UserError
from supernet_jax.storage import bucket_arrays, buckets, chunked_arrays, failures, files
from supernet_jax.storage.buckets import Bucket

FINISHED = "commit_success.txt"
LATEST = "latest.json"
WAIT_SECONDS = 600  # for other processes to write what they hold
_saves = itertools.count()


def steps(folder: Bucket) -> tuple[int, ...]:
    """Steps of the finished checkpoints in a folder, ascending."""
    listed = [re.fullmatch(rf"(\d+)/{FINISHED}", name) for name in buckets.below(folder)]
    likely = {int(found[1]) for found in listed if found} | _noted(folder)
    return tuple(step for step in sorted(likely) if buckets.has(folder / str(step) / FINISHED))


def _noted(folder: Bucket) -> set[int]:
    try:
        return set(map(int, json.loads(buckets.read(folder / LATEST) or b"[]")))
    except (ValueError, TypeError):  # written by somebody else
        return set()


class Manager:
    """Where one training run writes its checkpoints; with those methods of Orbax's manager that
    `checkpoint.Checkpoints` uses.

    Args:
        folder: of the checkpoints.
        keep: how many of them stay.
    """

    def __init__(self, folder: Bucket, *, keep: int):
        self._folder, self._keep = folder, keep
        self._steps = list(steps(folder))
        self._saving: int | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        if jax.process_index() == 0:
            listed = {name.split("/")[0] for name in buckets.below(folder)}
            for name in listed - {LATEST, *map(str, self._steps)}:
                buckets.remove_all(folder / name)  # a save that was killed

    def all_steps(self) -> list[int]:
        """Steps of the checkpoints that are finished or being saved."""
        return self._steps if self._saving is None else [*self._steps, self._saving]

    def latest_step(self) -> int | None:
        """The last that is finished."""
        return max(self._steps, default=None)

    def save(self, step: int, state: Any, how: Any, meta: Mapping[str, Any]) -> None:
        """Starts to save a checkpoint, when that before it is finished; `state` may be given away
        when this returns.
        """
        held = bucket_arrays.held(state, how)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        arguments = (step, held, shapes, meta, ocp.multihost.get_barrier_sync_fn())
        self._thread = threading.Thread(
            target=self._in_thread, args=arguments, daemon=True, name="saving"
        )
        self._saving = step
        self._thread.start()

    def _in_thread(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except Exception as error:
            if jax.process_count() > 1:
                failures.end_process(self._folder, error)
            self._error = error

    def _write(
        self, step: int, held: Any, shapes: Any, meta: Mapping[str, Any], barrier: Any
    ) -> None:
        place, number = self._folder / str(step), next(_saves)
        bucket_arrays.write(place / "state", held)
        barrier(key=f"written.{number}", timeout_ms=1000 * WAIT_SECONDS)
        steps = sorted({*self._steps, step})
        old = steps[: -self._keep]
        if jax.process_index() == 0:
            bucket_arrays.join(place / "state", shapes)
            files.write_text(place / "meta" / "metadata", files.dumps(meta))
            chunked_arrays.check(place / "state", chunked_arrays.stored(shapes))
            if json.loads(files.read_text(place / "meta" / "metadata")) != meta:
                raise ValueError("meta is not what was saved")
            files.write_text(place / "_CHECKPOINT_METADATA", files.dumps(_described()))
            for part in (place / "state", place / "meta", place):
                files.write_text(part / FINISHED, f"Checkpoint commit was successful to {place}")
            files.write_text(self._folder / LATEST, files.dumps(steps))
            for one in old:
                self._remove(one)
        barrier(key=f"finished.{number}", timeout_ms=1000 * WAIT_SECONDS)
        self._steps = steps[-self._keep :]

    def delete(self, step: int) -> None:
        """Removes a checkpoint."""
        if jax.process_index() == 0:
            self._remove(step)
        self._steps.remove(step)

    def _remove(self, step: int) -> None:
        buckets.remove_all(self._folder / str(step), first=[FINISHED])

    def wait_until_finished(self) -> None:
        """Returns when the checkpoint is finished.

        Raises:
            UserError: it could not be written, or does not read back.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = self._saving = None
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, UserError):
            raise error
        told = buckets.refusal(self._folder, error)
        raise told or UserError(
            f"cannot write {self._folder} ({failures.first_line(error)}); start the same command "
            "again"
        ) from error

    def close(self) -> None:
        """Waits."""
        self.wait_until_finished()


def _described() -> dict[str, Any]:
    """What Orbax notes of a checkpoint, for those who read a copy of it by Orbax alone."""
    handlers = {
        "state": "orbax.checkpoint._src.handlers.standard_checkpoint_handler."
        "StandardCheckpointHandler",
        "meta": "orbax.checkpoint._src.handlers.json_checkpoint_handler.JsonCheckpointHandler",
    }
    return {
        "item_handlers": handlers,
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": None,
        "commit_timestamp_nsecs": None,
        "custom_metadata": {},
    }
