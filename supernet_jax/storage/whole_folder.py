"""A folder that is there as a whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from supernet_jax.errors import UserError
from supernet_jax.storage import buckets, files
from supernet_jax.storage.buckets import Bucket

UNFINISHED = ".unfinished"  # in a bucket, an object that is there while others are written
LAST = ("network.json", "config.json")  # files by which others know what a folder is


def is_free(folder: pathlib.Path) -> bool:
    """Whether a folder may be written: it is not there, empty, or was left unfinished in a bucket.

    Raises:
        OSError: it cannot be looked into.
    """
    if isinstance(folder, Bucket) and buckets.has(folder / UNFINISHED):
        return True
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextlib.contextmanager
def unfinished(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A local folder beside the wanted one, which takes its name at the end or is removed. What is
    to lie in a bucket is written to a temporary folder of this machine, and then copied.

    Args:
        folder: absolute; it is free.

    Raises:
        UserError: it cannot be written.
    """
    if isinstance(folder, Bucket):
        with temporary(folder.name) as path:
            with _named(path, folder):
                yield path
            _copy(path, folder)
        return
    path = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    shutil.rmtree(path, ignore_errors=True)
    try:
        with _named(path, folder):
            path.mkdir(parents=True)
            yield path
            path.replace(folder)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def temporary(name: str) -> Iterator[pathlib.Path]:
    """An empty local folder of this name, which is removed at the end.

    Raises:
        UserError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with files.writing("a temporary folder, whose place TMPDIR names"):
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="supernet-"))
            path = pathlib.Path(made) / name
            path.mkdir()
        yield path


@contextlib.contextmanager
def _named(path: pathlib.Path, folder: pathlib.Path) -> Iterator[None]:
    """Errors name the wanted folder."""
    try:
        yield
    except OSError as error:
        raise files.unwritable(folder, error) from error
    except UserError as error:  # of a name that is gone when it is read
        raise UserError(str(error).replace(str(path), str(folder))) from error


def _copy(source: pathlib.Path, folder: Bucket) -> None:
    if buckets.has(folder / UNFINISHED):
        buckets.remove_all(folder)
    buckets.write(folder / UNFINISHED, b"")
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    # One after the other: their contents are in memory.
    for path in sorted(paths, key=lambda path: path.name in LAST and path.parent == source):
        buckets.write(folder / path.relative_to(source), path.read_bytes())
    buckets.remove(folder / UNFINISHED)
