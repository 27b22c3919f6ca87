"""Buckets (`gs://`, `s3://`): paths in them, and their objects, read and written by TensorStore,
which reads and writes arrays there, too.

A bucket has no folders, no renames, no appends and no locks. An object is written whole or not at
all, and may be written on the condition that nobody has written it since it was read: it still has
the *generation* that it had then. A listing may be stale, as in some stores that speak S3; what is
read by its name is not.
"""

import contextlib
import fnmatch
import functools
import os
import pathlib
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from supernet_jax.errors import LOG, UserError

DRIVERS = {"gs": "gcs", "s3": "s3"}  # of TensorStore, by what a path begins with
# For so long; then the bucket is taken to be out of order.
RETRIES = {"max_retries": 32, "initial_delay": "1s", "max_delay": "32s"}
WAIT_MINUTES = 15
SAY_SECONDS = 30.0  # after which it is said what is waited for
LOGIN = {
    "gs": "log in by `gcloud auth application-default login`, or name a key file in "
    "GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
ALONE_SECONDS = 30.0
AT_ONCE = 8  # objects that are read or written at the same time
Refusals = (ValueError, RuntimeError, OSError)  # what TensorStore raises


class Closed(UserError):
    """The credentials of this machine do not suffice."""


class Bucket(pathlib.PosixPath):
    """A path in a bucket, as `gs://bucket/runs/a`.

    It can say what is there; all else is done by `storage.files`. What a local path could do beside
    that is an error here, so that nothing goes to a local file of such a name by mistake.
    """

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def scheme(self) -> str:
        """`gs` or `s3`."""
        return self.parts[0].rstrip(":")

    @property
    def bucket(self) -> str:
        """The name of the bucket itself."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """The name of the object, within the bucket."""
        return "/".join(self.parts[2:])

    def is_file(self, **_: Any) -> bool:
        """Whether there is such an object."""
        return has(self)

    def is_dir(self, **_: Any) -> bool:
        """Whether there are objects below."""
        return bool(below(self))

    def exists(self, **_: Any) -> bool:
        """Whether there is such an object, or others below."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Generator["Bucket", None, None]:
        """What is in this folder, sorted."""
        yield from (self / name for name in sorted({name.split("/")[0] for name in below(self)}))

    def glob(self, pattern: str, **_: Any) -> Generator["Bucket", None, None]:
        """What is in this folder and has such a name, sorted."""
        yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def absolute(self) -> "Bucket":
        """The same path."""
        return self

    def expanduser(self) -> "Bucket":
        """The same path."""
        return self

    def resolve(self, strict: bool = False) -> "Bucket":
        """The same path."""
        return self

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self} lies in a bucket, and is to be used through storage.files")

    stat = lstat = open = mkdir = unlink = rename = replace = rmdir = touch = rglob = walk = _refuse
    read_text = read_bytes = write_text = write_bytes = chmod = symlink_to = _refuse


def spec(path: Bucket) -> dict[str, Any]:
    """A folder as TensorStore's key-value store.

    An S3 store that is not Amazon's is found by AWS_ENDPOINT_URL and AWS_REGION.
    """
    driver, key = DRIVERS[path.scheme], path.key
    made: dict[str, Any] = {"driver": driver, "bucket": path.bucket}
    made[f"{driver}_request_retries"] = RETRIES
    made["path"] = f"{key}/" if key else ""
    if path.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            # Amazon's own takes conditions; TensorStore has to be told that others do.
            made |= {"endpoint": endpoint, "use_conditional_write": True}
            made["aws_region"] = region or "us-east-1"
        elif region:
            made["aws_region"] = region
        if os.environ.get("AWS_ACCESS_KEY_ID"):  # else it says on stderr which files it misses
            made["aws_credentials"] = {"type": "environment"}
    return made


def read(path: Bucket) -> bytes | None:
    """The content of an object, None where there is none."""
    return read_generation(path)[0]


def read_generation(path: Bucket) -> tuple[bytes | None, bytes]:
    """The content of an object, None where there is none; and its generation."""
    found = _done(path, lambda store: store.read(path.key))
    return (found.value if found.state == "value" else None), found.stamp.generation


def has(path: Bucket) -> bool:
    """Whether there is such an object."""
    if not path.key:
        return False
    return _done(path, lambda s: s.read(path.key, byte_range=slice(0, 0))).state == "value"


def write(path: Bucket, content: bytes, *, generation: bytes | None = None) -> bytes | None:
    """Writes an object, whole or not at all.

    Args:
        path: of the object.
        content: of it.
        generation: which it must have, as of `read_generation`; None writes it in any case.

    Returns:
        Its new generation; None where it had another one, and was not written. Where an answer of
        the bucket is lost, that may be said of what was written.
    """
    stamp = _done(path, lambda store: store.write(path.key, content, if_equal=generation))
    return stamp.generation or None


def may_write(folder: Bucket) -> bool:
    """Whether objects may be written there, found out by writing one."""
    probe = folder / f".{secrets.token_hex(4)}.probe"
    try:
        write(probe, b"")
        remove(probe)
    except Closed:
        return False
    return True


def update(path: Bucket, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
    """Changes an object, whatever others do with it at the same time.

    Args:
        path: of the object.
        change: from its content, None where there is no object, to what is to be written, None to
            leave it as it is. Called again where somebody else was sooner.

    Returns:
        What was written.
    """
    while True:
        before, generation = read_generation(path)
        content = change(before)
        if content is None or write(path, content, generation=generation) is not None:
            return content
        # Somebody was sooner; or it was this process, and the bucket's answer was lost, upon which
        # TensorStore has tried again. Others may have appended to it since.
        seen = read(path)
        if seen is not None and seen.startswith(content):
            return content


def remove(path: Bucket) -> None:
    """Removes an object, if it is there."""
    _done(path, lambda store: store.write(path.key, None))


def remove_all(folder: Bucket, *, first: Iterable[str] = ()) -> None:
    """Removes what is below a folder.

    Args:
        folder: which.
        first: names of objects that are removed before the others, whether or not they are listed.
    """
    for name in first:
        remove(folder / name)
    _in_turns(folder, below(folder), lambda store, key: store.write(key, None))


def below(folder: Bucket) -> list[str]:
    """Names of all objects below a folder, from there on, sorted."""
    start = f"{folder.key}/".encode() if folder.key else b""
    import tensorstore  # takes a moment, which only those who use buckets should pay

    within = tensorstore.KvStore.KeyRange(start, _after(start))
    found = _done(folder, lambda store: store.list(within, strip_prefix_length=len(start)))
    if not found:
        read(folder / "nothing")  # TensorStore takes a listing that is refused for an empty one
    # One that ends with a slash is what some programs make for a folder.
    return sorted(key.decode("utf-8", "replace") for key in found if key and key[-1:] != b"/")


def _after(prefix: bytes) -> bytes:
    """The first key after all that begin so; "" for no end."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b""


@contextlib.contextmanager
def alone(folder: Bucket) -> Iterator[None]:
    """Keeps other processes that say so too out of a folder for a moment, by an object in it. One
    that stays the same for `ALONE_SECONDS` is that of a dead process.
    """
    path, own = folder / ".alone", secrets.token_bytes(16)
    since, seen = time.monotonic(), b""
    while True:
        there, generation = read_generation(path)
        if there == own:  # the answer was lost
            break
        if there != seen:
            since, seen = time.monotonic(), there or b""
        free = not there or time.monotonic() - since > ALONE_SECONDS
        if free and write(path, own, generation=generation) is not None:
            break
        time.sleep(0.0 if free else 0.2)
    try:
        yield
    finally:
        if read(path) == own:
            remove(path)


def changed(
    folder: Bucket, known: dict[str, bytes]
) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Objects below a folder that are others than those of some generations.

    Args:
        folder: which; one object is a folder that holds one of the name "".
        known: generations, by name.

    Yields:
        Name, content and generation of each object; content None where it is known, both None
        where it is gone.
    """
    names = [""] if has(folder) else below(folder)
    for some in (names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)):
        paths = [folder / name if name else folder for name in some]
        asked = [
            _store(p).read(p.key, if_not_equal=known.get(name))
            for p, name in zip(paths, some, strict=True)
        ]
        for name, path, future in zip(some, paths, asked, strict=True):
            found = _result(path, future)
            if found.state != "missing":  # of a stale listing
                content = found.value if found.state == "value" else None
                yield name, content, found.stamp.generation or known[name]
    for name in known.keys() - set(names):
        yield name, None, None


def refusal(path: Bucket, error: BaseException) -> UserError | None:
    """What to tell of a bucket that refuses, or does not answer; None for other errors."""
    text = " ".join(str(error).split())
    code, _, rest = text.partition(": ")
    said = re.split(r" \[[\w ]+='", rest)[0]
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        return Closed(
            f"the bucket {path.bucket} refuses {path} with the credentials of this machine "
            f"({said}); {LOGIN[path.scheme]}"
        )
    if code == "NOT_FOUND" and "404" in text:
        return UserError(
            f"there is no bucket {path.scheme}://{path.bucket}; make it, or correct the name"
        )
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNKNOWN"):
        return UserError(
            f"the bucket of {path} does not answer as it should ({text[:160]}); start the same "
            "command again when it does"
        )
    return None


def _done(path: Bucket, ask: Callable[[Any], Any]) -> Any:
    return _result(path, ask(_store(path)))


def _result(path: Bucket, future: Any) -> Any:
    try:
        with contextlib.suppress(TimeoutError):
            return future.result(timeout=SAY_SECONDS)
        LOG.warning(
            f"note: waiting for {path}, {WAIT_MINUTES} minutes at most if it does not answer"
        )
        return future.result()
    except Refusals as error:
        told = refusal(path, error)
        line = str(error).splitlines()[0][:200]
        raise (told or UserError(f"{path} could not be read or written ({line})")) from error


def _in_turns(folder: Bucket, names: list[str], ask: Callable[[Any, str], Any]) -> None:
    for some in (names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)):
        paths = [folder / name for name in some]
        for path, future in [(path, ask(_store(path), path.key)) for path in paths]:
            _result(path, future)


def _store(path: Bucket) -> Any:
    root = Bucket(f"{path.scheme}://{path.bucket}")
    server = os.environ.get("TENSORSTORE_GCS_HTTP_URL")
    try:
        return _opened(root, server, tuple(str(item) for item in spec(root).items()))
    except Refusals as error:
        line = str(error).splitlines()[0][:200]
        raise UserError(f"{root} cannot be a bucket ({line}); correct the name") from error


@functools.lru_cache(maxsize=16)
def _opened(root: Bucket, *_: Any) -> Any:
    import tensorstore

    return tensorstore.KvStore.open(spec(root)).result()
