"""Small files: text in UTF-8 and JSON that any reader takes, written whole or not at all.

Every such file of a run is read and written here, so that a reader sees the old file or the new
one, two writers do not share a temporary file, and a failure is said in words that fit it: missing,
not readable by this user, cut short, or not what it should be. A path may be one in a bucket, where
all of this holds by other means; see `storage.buckets`.
"""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from supernet_jax.errors import UserError
from supernet_jax.storage import bucket_lines, buckets
from supernet_jax.storage.buckets import Bucket

# What the machine refuses, and what the user can do about it.
REMEDIES = {
    errno.ENOSPC: "free space there and start the same command again",
    errno.EDQUOT: "the quota is used up; free space there and start the same command again",
    errno.EACCES: "this user may not write there; ask for the right, or choose another place",
    errno.EPERM: "it may not be changed; ask for the right, or choose another place",
    errno.EROFS: "it lies on a file system that is read-only; choose another place",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another place",
    errno.EISDIR: "it is a folder, not a file; choose another place",
    errno.ENOENT: "its folder is gone; make it again or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "a file may not be as large there; choose another place",
    errno.EIO: "the device has failed; look at its health and choose another place",
    errno.ESTALE: "the file server has lost it; mount it again",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


def unwritable(path: str | os.PathLike, error: OSError) -> UserError:
    """What to tell whoever wanted a file that could not be written."""
    remedy = REMEDIES.get(error.errno or 0, "choose another place")
    return UserError(f"cannot write {path} ({_reason(error)}); {remedy}")


def unreadable(path: str | os.PathLike, error: Exception, *, kind: str = "file") -> UserError:
    """What to tell whoever wanted a file that could not be read: which of all reasons it is.

    None of the messages advises deleting anything: what could not be read may be whole.

    Args:
        path: of the file.
        error: what its reader raised.
        kind: what the file should be, as "JSON file"; for those that are not.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UserError(f"there is no file {path}")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path} is a folder, not a {kind}")
    if isinstance(error, PermissionError):
        return UserError(
            f"{path} is not readable by this user ({_reason(error)}); ask its owner for the right"
        )
    if isinstance(error, OSError):
        return UserError(f"{path} could not be read ({_reason(error)}); it may well be whole")
    if size_of(path) == 0:
        return UserError(f"{path} is empty, so it was cut short")
    return UserError(f"{path} is not a {kind}, or was cut short ({_short(error)})")


def check_utf8(path: str | os.PathLike, why: str) -> None:
    """Makes sure that a path, from the root on, is text for libraries that know only UTF-8.

    Args:
        path: any.
        why: who needs it, after "which".

    Raises:
        UserError: it is not: its name holds other bytes, or the locale takes UTF-8 for such.
    """
    try:
        os.fspath(path if isinstance(path, Bucket) else os.path.abspath(path)).encode()
    except UnicodeEncodeError:
        shown = os.fspath(path).encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"the path {shown} is not UTF-8 in this locale, which {why}; choose another path, or "
            "set PYTHONUTF8=1 if its name is UTF-8"
        ) from None


def read_text(path: str | os.PathLike, *, kind: str = "UTF-8 text file") -> str:
    """The text of a file.

    Raises:
        UserError: it is missing, not readable, or not UTF-8; the message says which.
    """
    try:
        if isinstance(path, Bucket):
            return content_of(path).decode("utf-8")
        return pathlib.Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error, kind=kind) from error


def read_bytes(path: str | os.PathLike, *, kind: str = "file") -> bytes:
    """The content of a file.

    Raises:
        UserError: it is missing or not readable; the message says which.
    """
    try:
        return content_of(path)
    except OSError as error:
        raise unreadable(path, error, kind=kind) from error


def content_of(path: str | os.PathLike) -> bytes:
    """The content of a file, for those who have words of their own for its failures.

    Raises:
        OSError: it is missing or not readable.
    """
    if not isinstance(path, Bucket):
        return pathlib.Path(path).read_bytes()
    content = buckets.read(path)
    if content is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return content


def read_json(path: str | os.PathLike) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: it is missing, not readable, cut short or not JSON; the message says which.
    """
    text = read_text(path, kind="JSON file")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, error, kind="JSON file") from error


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON, in ASCII: numbers that JSON does not have (NaN, infinities) become null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # rarely, and looking for them takes most of the time
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes strict JSON, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, dumps(value, indent=1) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text, whole or not at all; what has no code in UTF-8 as `?`.

    Raises:
        UserError: it cannot be written.
    """
    write_bytes(path, lambda file: file.write(text.encode("utf-8", "replace")))


def write_bytes(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces a file by what `write(stream)` writes; its folder is made if need be.

    The content goes into a temporary file of this process beside it, which is on the disk before
    it takes the file's name, and is removed if anything fails.

    Raises:
        UserError: it cannot be written.
    """
    if isinstance(path, Bucket):
        made = io.BytesIO()
        write(made)
        buckets.write(path, made.getvalue())
        return
    target = pathlib.Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Named before it is there: a signal at any moment finds it and removes it.
        name = target.parent / f".{target.name[:50]}.{secrets.token_hex(4)}.unfinished"
        try:
            with open(name, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def append_lines(path: str | os.PathLike, values: list[Any]) -> None:
    """Appends one line of strict JSON for each value; several processes may do so at once.

    All lines are in the file, or none; what a killed process left of a line is dropped.

    Raises:
        UserError: they cannot be written.
    """
    content = "".join(f"{dumps(value)}\n" for value in values).encode()
    if isinstance(path, Bucket):
        bucket_lines.append(path, content)
        return
    try:
        number = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: one write is whole
                fcntl.flock(number, fcntl.LOCK_EX)
            end = _whole(number)
            written = 0
            try:
                while written < len(content):
                    written += os.write(number, content[written:])
            except BaseException:
                os.ftruncate(number, end)
                raise
        finally:
            os.close(number)
    except OSError as error:
        raise unwritable(path, error) from error


def lines(path: str | os.PathLike) -> list[str]:
    """The whole lines of a file of JSON lines, [] where there is no file; the file is left alone.

    Raises:
        UserError: it is there and cannot be read.
    """
    return lines_after(path, 0)[0]


def lines_after(path: str | os.PathLike, start: int) -> tuple[list[str], int]:
    """The whole lines of a file from a place on, and the place after them, for the next call.

    Args:
        path: of a file of lines, to which others may be appending.
        start: 0, or the place that an earlier call gave.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        if isinstance(path, Bucket):
            content = bucket_lines.content(path, start)
        else:
            with open(path, "rb") as file:
                file.seek(start)
                content = file.read()
    except FileNotFoundError:
        return [], start
    except OSError as error:
        raise unreadable(path, error) from error
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").split("\n")[:-1], start + len(whole)


def keep_lines(path: str | os.PathLike, wanted: Callable[[str], bool]) -> None:
    """Takes the lines of a file out that are not wanted, while nobody else writes it.

    Raises:
        UserError: it cannot be read or written.
    """
    if not isinstance(path, Bucket):
        write_text(path, "".join(f"{line}\n" for line in lines(path) if wanted(line)))
        return
    bucket_lines.keep(path, wanted)


@contextlib.contextmanager
def alone(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes that say so too out of a folder, to read a file, change and write it.

    Does nothing where there is no such folder, or no locks.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(folder, Bucket):
            stack.enter_context(buckets.alone(folder))
        else:
            with contextlib.suppress(OSError):
                number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, number)
                fcntl.flock(number, fcntl.LOCK_EX)
        yield


def is_writable(path: str | os.PathLike) -> bool:
    """Whether a file may be written, or made, as far as the system says beforehand."""
    if isinstance(path, Bucket):
        return buckets.may_write(path)
    place = pathlib.Path(path).absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    wanted = os.W_OK | (os.X_OK if os.path.isdir(place) else 0)
    return os.access(place, wanted, effective_ids=os.access in os.supports_effective_ids)


def check_free(option: str, path: str | os.PathLike) -> None:
    """Raises a `UserError` if a file is there already, or cannot be made where it is to be.

    Args:
        option: that names the file, as "--out".
        path: of the file.
    """
    path = path if isinstance(path, Bucket) else pathlib.Path(path)
    if exists(path):
        raise UserError(f"{path} exists already; choose another {option}")
    if not may_hold(path.absolute().parent):
        raise UserError(f"there is no folder {path.parent}; make it or choose another {option}")
    if not is_writable(path):
        raise UserError(
            f"this user cannot write to the folder {path.parent}; choose another {option}"
        )


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a file or a folder, or a link."""
    return path.exists() if isinstance(path, Bucket) else os.path.lexists(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder, as far as this user sees; in a bucket, one that holds anything."""
    return path.is_dir() if isinstance(path, Bucket) else os.path.isdir(path)


def may_hold(folder: str | os.PathLike) -> bool:
    """Whether files can be put into a folder without making it first, as in a bucket."""
    return isinstance(folder, Bucket) or os.path.isdir(folder)


def head(path: str | os.PathLike, size: int) -> bytes:
    """The first bytes of a file.

    Raises:
        UserError: it is missing or not readable; the message says which.
    """
    if isinstance(path, Bucket):
        return read_bytes(path)[:size]
    with reading(path), open(path, "rb") as file:
        return file.read(size)


def text_lines(path: str | os.PathLike) -> Iterator[str]:
    """All lines of a file with their ends, one after the other, also one that was cut off.

    Raises:
        OSError: it is missing or cannot be read.
    """
    if isinstance(path, Bucket):
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield from io.StringIO(bucket_lines.content(path).decode("utf-8", "replace"))
        return
    with pathlib.Path(path).open(encoding="utf-8", errors="replace") as file:
        yield from file


def walk(
    folder: pathlib.Path, *, onerror: Callable[[OSError], Any] | None = None
) -> Iterator[tuple[pathlib.Path, list[str], list[str]]]:
    """Folders from one downwards, with the names of the folders and of the files in each, as
    `os.walk` has them: those taken out of the first list are left out.
    """
    if not isinstance(folder, Bucket):
        for place, folders, names in os.walk(folder, onerror=onerror):
            yield pathlib.Path(place), folders, names
        return
    listed = [tuple(name.split("/")) for name in buckets.below(folder)]
    todo: list[tuple[str, ...]] = [()]
    while todo:
        at = todo.pop(0)
        inside = [name[len(at) :] for name in listed if name[: len(at)] == at]
        folders = sorted({name[0] for name in inside if len(name) > 1})
        yield folder.joinpath(*at), folders, [name[0] for name in inside if len(name) == 1]
        todo += [(*at, name) for name in folders]


def size_of(path: str | os.PathLike) -> int:
    """How many bytes a file has; 0 where there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    if isinstance(path, Bucket):
        return len(buckets.read(path) or b"")
    return os.stat(path).st_size if os.path.exists(path) else 0


def last_change(path: str | os.PathLike) -> tuple[int, int]:
    """The size of a file of this machine and when it was last changed, in nanoseconds.

    Raises:
        OSError: it is missing or cannot be looked at.
    """
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns


def found(folder: str | os.PathLike, pattern: str = "*") -> list[pathlib.Path]:
    """What is in a folder and has such a name, sorted; [] where there is no folder."""
    path = folder if isinstance(folder, pathlib.Path) else pathlib.Path(folder)
    return sorted(path.glob(pattern))


def make_folder(folder: str | os.PathLike) -> None:
    """Makes a folder and those above it; a bucket needs none.

    Raises:
        UserError: it cannot be made.
    """
    if not isinstance(folder, Bucket):
        with writing(folder):
            os.makedirs(folder, exist_ok=True)


def remove_left_over(folder: pathlib.Path, *, seconds: float) -> None:
    """Removes temporary files of `write_bytes` that killed processes left in a folder.

    Args:
        folder: local, or in a bucket, where there are none.
        seconds: after which nobody is still writing one.
    """
    if isinstance(folder, Bucket):
        return
    for path in folder.glob(".*.unfinished"):
        with writing(path):
            if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                path.unlink(missing_ok=True)


def _whole(number: int) -> int:
    """The size of an open file after what a killed process left of a line has been cut off."""
    size = os.fstat(number).st_size
    end = size
    while end:
        start = max(0, end - 65536)
        at = os.pread(number, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(number, end)
    return end


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _short(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 160 else f"{text[:160]}..."


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns the system's refusal to write into a `UserError` about this path."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns the system's refusal to read into a `UserError` about this path."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error
