"""What arrays on disk fail with, in words: Orbax raises whatever it stumbles over, and TensorStore
has the system's errors as text.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator

import jax
from etils import epath

from supernet_jax.errors import UserError
from supernet_jax.runtime import peers, stopping
from supernet_jax.storage import files, paths


def reading(what: str, error: Exception, advice: str) -> UserError:
    """What to tell whoever wanted arrays that could not be read: which of all reasons it is.

    Args:
        what: "the checkpoint of step 4 in ...".
        error: what its reader raised.
        advice: what to do if it is damaged; it must lose nothing.

    Raises:
        Exception: `error` itself, where memory ran out or a device failed: what is on disk is as
            it was.
    """
    cause = _root(error)
    number = _number(cause)
    if _is_memory(cause, number):
        raise cause
    said = first_line(cause)
    if number in (errno.EACCES, errno.EPERM):
        return UserError(
            f"{what} is not readable by this user ({said}); ask its owner for the right"
        )
    if number not in (None, errno.ENOENT, errno.ENOTDIR):
        return UserError(f"{what} could not be read ({said}); it may well be whole")
    return UserError(f"{what} is damaged ({said}); {advice}")


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the refusal to write arrays into a `UserError` about this folder."""
    try:
        yield
    except (OSError, ValueError) as error:
        cause = _root(error)
        number = _number(cause)
        if _is_memory(cause, number):
            raise
        if number is not None or isinstance(cause, OSError):
            said = OSError(number or 0, first_line(cause))
            raise files.unwritable(folder, said) from error
        if not re.match(r"[A-Z_]+: ", str(cause)):
            raise
        raise UserError(
            f"cannot write {folder} ({first_line(cause)}); choose another place"
        ) from error


def end_process(folder: str | os.PathLike[str], error: BaseException) -> None:
    """Ends a process of several whose thread could not write, with a line that says why.

    A save is done when all have written, so the others would wait for this one, and it for them.
    They hear how it ends (`runtime.peers`), and end too. What was saved before stays. Where it is
    another process that is gone, the one that is noticed first says so.
    """
    if isinstance(_root(error), jax.errors.JaxRuntimeError) or peers.is_lost(error):
        return
    try:
        with writing(folder):
            raise error
    except UserError as told:
        line = str(told)
    except BaseException:
        line = f"cannot write {folder} ({first_line(error)}); start the same command again"
    print(f"supernet: {line}", file=sys.stderr, flush=True)
    stopping.leave(2)


class FailedSave(logging.Filter):
    """Orbax only logs at once that a save failed, and tells its caller when all have saved."""

    def __init__(self, folder: str | os.PathLike[str]):
        super().__init__()
        self._folder = folder

    def filter(self, record: logging.LogRecord) -> bool:
        """Of what Orbax logs, nothing below a crash is shown; a failed save ends the process."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.threadName == "async_save":
            end_process(self._folder, error)
        return record.levelno >= logging.CRITICAL


def remove(folder: epath.Path, pattern: str) -> None:
    """Removes folders that a failed save left, by a pattern of their names; not in buckets."""
    if not isinstance(folder, paths.Local) or jax.process_index():
        return
    for path in folder.glob(pattern):
        for _ in range(20):  # threads that Orbax gave up may still be writing
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)
            if not path.exists():
                break


def first_line(error: BaseException) -> str:
    """An error without TensorStore's pages of detail."""
    line = re.split(r" \[[\w ]+='", f"{type(error).__name__}: {error}".splitlines()[0])[0]
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-120:]}"


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_memory(error: BaseException, number: int | None) -> bool:
    """Whether memory ran out, or a device failed: nothing that is on disk is the reason."""
    told = number is None and "RESOURCE_EXHAUSTED" in str(error)
    return (
        isinstance(error, MemoryError | jax.errors.JaxRuntimeError)
        or number == errno.ENOMEM
        or told
    )


def _number(error: BaseException) -> int | None:
    """The system's number of an error; TensorStore's end with the text of one."""
    if isinstance(error, OSError):
        return error.errno
    texts = {os.strerror(number): number for number in (*files.REMEDIES, errno.ENOMEM)}
    return next((number for text, number in texts.items() if text in str(error)), None)
