"""Local copies of what lies in a bucket, for what reads local files alone: data sets, extracted
networks, weights of others. They lie in the user's cache folder and are made again where the bucket
has changed.
"""

import atexit
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile

from supernet_jax.errors import LOG, UserError
from supernet_jax.runtime import cache
from supernet_jax.storage import buckets, files
from supernet_jax.storage.buckets import Bucket

INDEX = "index.json"  # generations of the objects that were copied, by name
LARGE = 16 * 1024**2  # bytes of a copy of which it is said that it is made


def local(path: pathlib.Path) -> pathlib.Path:
    """A path of this machine with what a path holds: the same if it is local, else a copy.

    Raises:
        UserError: there is nothing in the bucket, or the copy cannot be written.
    """
    if not isinstance(path, Bucket):
        return path
    place = _folder() / hashlib.sha256(str(path).encode()).hexdigest()[:16]
    copy, known, size = place / "content" / path.name, _known(place), 0
    there = {name: g for name, g in known.items() if (copy / name).exists()}
    for name, content, generation in buckets.changed(path, there):
        if ".." in name.split("/") or name.startswith("/"):
            raise UserError(f"{path} holds an object {name!r}, which is no name for a file")
        if generation is None:
            (copy / name).unlink(missing_ok=True)
            there.pop(name)
            continue
        if content is not None:
            _write(copy / name if name else copy, content)
            there[name] = generation
            if size < LARGE <= size + len(content):
                LOG.warning(f"note: {path} is copied to {copy}, which is done once")
            size += len(content)
    if not there:
        raise UserError(f"there is no file or folder {path}")
    if there != known:
        index = {name: generation.hex() for name, generation in there.items()}
        files.write_json(place / INDEX, index)
    return copy


def _write(file: pathlib.Path, content: bytes) -> None:
    files.write_bytes(file, lambda stream: stream.write(content))


def _known(place: pathlib.Path) -> dict[str, bytes]:
    try:
        return {name: bytes.fromhex(g) for name, g in files.read_json(place / INDEX).items()}
    except (UserError, AttributeError, TypeError, ValueError):  # nothing was copied as a whole
        return {}


@functools.cache
def _folder() -> pathlib.Path:
    """In the user's cache; of this process alone, where there is none that can be written."""
    own = cache.cache_folder()
    if own is not None and files.is_writable(own / "buckets"):
        return own / "buckets"
    made = tempfile.mkdtemp(prefix=f"supernet-{os.getpid()}-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return pathlib.Path(made)
