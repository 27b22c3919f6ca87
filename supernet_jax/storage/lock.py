"""One writer: a run folder is locked by the process that writes it. Readers never wait.

The lock is a file that stays in the folder. On one machine the system holds it (`flock`) and frees
it when its process is dead, however it died. Machines that share a folder but not such locks see
who holds it from what is written in the file, and that it is alive from its time, which the holder
renews; a lock that was not renewed for `STALE_SECONDS` is no obstacle, and is waited for.

In a bucket the lock is an object, which is written on the condition that it is as it was read, so
only one of several that want it gets it. Clocks of hosts are compared there, and only of a sign of
life older than `SKEW_SECONDS`; any other lock is waited for to see whether it is renewed.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.runtime import stopping
from supernet_jax.storage import buckets, files
from supernet_jax.storage.buckets import Bucket

FILE = "writer.lock"
RENEW_SECONDS = 20.0
STALE_SECONDS = 120.0  # after which the lock of another host is taken for that of a dead process
SKEW_SECONDS = 900.0  # that clocks of two hosts may differ by
SETTLE_SECONDS = 2.0  # after which two hosts that take a lock at once see who has it
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """While entered, this process is the one that writes the folder, which must exist.

    Raises:
        UserError: another process does, the message says which; or the folder cannot be written.
    """
    path = folder / FILE
    if isinstance(path, Bucket):
        with _held_in_bucket(path):
            yield
        return
    with files.writing(path):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    stop = threading.Event()
    try:
        with files.writing(path):
            before, own = _take(number, folder), _self()
            _sign(number, own)
            if before:  # another host may take it at this very moment
                time.sleep(SETTLE_SECONDS)
                if _holder(number) != own:
                    raise _taken(folder, _holder(number))
        renewing = threading.Thread(target=_renew, args=(number, stop), daemon=True, name="lock")
        renewing.start()
        try:
            yield
        finally:
            stop.set()
            renewing.join()
            with contextlib.suppress(OSError):  # a full disk; its time will tell
                _sign(number, {})
    finally:
        os.close(number)  # which frees the lock


@contextlib.contextmanager
def _held_in_bucket(path: Bucket) -> Iterator[None]:
    """`held`, by an object."""
    own = {**_self(), "token": secrets.token_hex(8)}
    _own.add(own["token"])
    _take_in_bucket(path, own)
    stop = threading.Event()
    renewing = threading.Thread(
        target=_renew_in_bucket, args=(path, own, stop), daemon=True, name="lock"
    )
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join(RENEW_SECONDS)  # no longer, where the bucket does not answer
        _own.discard(own["token"])
        with contextlib.suppress(UserError):  # a bucket that does not answer; time will tell
            buckets.update(path, lambda there: b"{}\n" if _is_of(there, own) else None)


def _take_in_bucket(path: Bucket, own: dict[str, Any]) -> None:
    """Gets the lock, and signs it.

    Raises:
        UserError: somebody holds it.
    """
    content, generation = buckets.read_generation(path)
    holder = _signature(content)
    here = holder.get("host") == socket.gethostname()
    age = time.time() - float(holder.get("time") or 0)
    # A container that was started again may be the same host, and have the same number in it.
    other = holder.get("pid") != os.getpid() or holder.get("token") in _own
    if here and other and age < STALE_SECONDS and _is_alive(holder.get("pid")):
        raise _taken(path.parent, holder)
    if holder and not here and age < SKEW_SECONDS:
        _say_waiting(path.parent, holder, STALE_SECONDS)
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end:
            time.sleep(min(2.0, STALE_SECONDS / 10))
            if buckets.read_generation(path)[1] != generation:
                raise _taken(path.parent, holder)
    signed = files.dumps({**own, "time": time.time()}).encode()
    if buckets.write(path, signed, generation=generation) is None:
        there = buckets.read(path)
        if not _is_of(there, own):  # else only the answer was lost
            raise _taken(path.parent, _signature(there))


def _renew_in_bucket(path: Bucket, own: dict[str, Any], stop: threading.Event) -> None:
    def renewed(there: bytes | None) -> bytes | None:
        return files.dumps({**own, "time": time.time()}).encode() if _is_of(there, own) else None

    while not stop.wait(RENEW_SECONDS):
        with contextlib.suppress(UserError):  # a bucket that does not answer for a while
            if buckets.update(path, renewed) is None and not stop.is_set():
                print(
                    f"supernet: {path.parent} was taken over by "
                    f"{_named(_signature(buckets.read(path)))}, since this process gave no sign of "
                    "life for a while; it ends, and what was saved stays",
                    file=sys.stderr,
                    flush=True,
                )
                stopping.leave(2)


_own: set[str] = set()  # tokens of the locks that this process holds


def _is_of(content: bytes | None, own: dict[str, Any]) -> bool:
    return _signature(content).get("token") == own["token"]


def _take(number: int, folder: pathlib.Path) -> dict[str, Any]:
    """Gets the lock, and returns who held it before without being known to be dead.

    Raises:
        UserError: somebody holds it.
    """
    known = True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(folder, _holder(number)) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        known = False
    holder = _holder(number)
    here = holder.get("host") == socket.gethostname()
    if not holder or (here and (known or not _is_alive(holder.get("pid")))):
        return {}
    signed = os.fstat(number).st_mtime
    # Times of one file server are compared with each other, not with this machine's clock.
    # Theirs may have jumped back since: a sign of life from the future is not worth more.
    left = min(STALE_SECONDS, STALE_SECONDS - (_now(folder) - signed))
    if left > 0:
        _say_waiting(folder, holder, left)
    end = time.monotonic() + left
    while time.monotonic() < end:
        time.sleep(0.5)
        if os.fstat(number).st_mtime != signed:
            raise _taken(folder, holder)
    return holder


def _say_waiting(folder: pathlib.Path, holder: dict[str, Any], seconds: float) -> None:
    print(
        f"supernet: {folder} was being written by {_named(holder)}; waiting {seconds:.0f} s at "
        "most for a sign of its life",
        file=sys.stderr,
        flush=True,
    )


def _taken(folder: pathlib.Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"{folder} is being written by {_named(holder)}; wait until it has ended, or choose "
        "another --out"
    )


def _named(holder: dict[str, Any]) -> str:
    if {"pid", "host", "started"} <= holder.keys():
        return f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
    return "another process"


def _is_alive(number: Any) -> bool:
    """Whether there is a process of this number here."""
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _self() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


def _holder(number: int) -> dict[str, Any]:
    """Who has signed the file; nobody if it is empty or cut short."""
    try:
        return _signature(os.pread(number, 4096, 0))
    except OSError:
        return {}


def _signature(content: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _sign(number: int, holder: dict[str, Any]) -> None:
    content = files.dumps(holder).encode() + b"\n"
    os.pwrite(number, content, 0)
    os.ftruncate(number, len(content))


def _renew(number: int, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # a file server that does not answer for a while
            os.utime(number)


def _now(folder: pathlib.Path) -> float:
    """The time of the folder's file system."""
    probe = folder / f".{FILE}.{socket.gethostname()}.{os.getpid()}"
    number = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(number, b"\n")
        return os.fstat(number).st_mtime
    finally:
        os.close(number)
        os.unlink(probe)
