"""TensorBoard: event files in the folder `tensorboard` of a run, written by tensorboardX.

tensorboardX is optional: `pip install "supernet_jax[tensorboard]"`. Its `SummaryWriter` writes in a
thread, which a full disk ends, and the next call then waits for it for ever; its events are written
here, at once.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet_jax.errors import require
from supernet_jax.reporting.loggers.logger import curves, loaded
from supernet_jax.storage import checkpoint, files
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import expanded


class TensorBoard:
    """A log for TensorBoard. Steps that are trained again replace what was logged of them.

    Args:
        folder: of the run, on a disk.

    Raises:
        UserError: tensorboardX is not installed, or the run lies in a bucket.
    """

    name = "tensorboard"

    def __init__(self, folder: str | os.PathLike[str]):
        loaded(self.name, "tensorboardX")
        run = expanded(folder)
        require(
            not isinstance(run, Bucket),
            f"the logger tensorboard writes to a disk, but {folder} is in a bucket; choose another "
            "logger, or train in a local folder",
        )
        self._folder = run / "tensorboard"
        self._done = max(checkpoint.steps(run / "checkpoints"), default=0)  # training goes on there
        self._last = -1  # step that was logged here
        self._writer: Any = None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a line of metrics."""
        from tensorboardX.proto.summary_pb2 import Summary

        if step <= self._last or self._last < 0:  # a rollback, or what a killed process left
            self._forget_from(step if step <= self._last else min(step, self._done + 1))
        points = [Summary.Value(tag=tag, simple_value=v) for tag, v in curves(values).items()]
        self._write(step=step, summary=Summary(value=points))
        self._writer.flush()
        self._last = step

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Logs a picture, uint8 `[height, width, 3]`."""
        from tensorboardX import summary

        self._write(step=step, summary=summary.image(name, picture, dataformats="HWC"))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; what was logged is in it already."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _forget_from(self, step: int) -> None:
        """Makes TensorBoard leave out all that earlier events say of this step and later ones."""
        from tensorboardX.proto import event_pb2

        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=step, session_log=start)

    def _write(self, **event: Any) -> None:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2

        if self._writer is None:
            files.make_folder(self._folder)
            # Files are read in the order of their names, which have whole seconds before this.
            suffix = f".{time.time_ns()}"
            self._writer = event_file_writer.EventsWriter(str(self._folder / "events"), suffix)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), **event))
