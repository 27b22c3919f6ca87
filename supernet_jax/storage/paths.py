"""Paths as people give them, made ones that mean the same folder to everybody who opens it: local
ones, and those in a bucket.
"""

import glob
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any

from etils import epath
from etils.epath import stat_utils

from supernet_jax.errors import UserError
from supernet_jax.storage import buckets, files
from supernet_jax.storage.buckets import Bucket

_Posix: Any = type(epath.Path("/"))


class Local(_Posix):
    """A local path as Orbax takes it, of any name and anybody's.

    The class of `etils` takes the characters `*?[` of a folder's own name for a pattern when it
    looks for files in it, asks who the owner of a file is, which fails where the owner or the group
    has a number but no name, and takes the local folder `/s3` for all buckets of S3.
    """

    _uri_scheme = None  # what it asks for to tell buckets

    def glob(self, pattern: str) -> Iterator["Local"]:
        """Whatever in this folder matches a pattern."""
        return (self / name for name in sorted(glob.glob(pattern, root_dir=self)))

    def stat(self) -> stat_utils.StatResult:
        """Size, time and mode; the owner and the group by their numbers."""
        found = os.stat(self)
        return stat_utils.StatResult(
            is_directory=stat.S_ISDIR(found.st_mode),
            length=found.st_size,
            mtime=int(found.st_mtime),
            owner=str(found.st_uid),
            group=str(found.st_gid),
            mode=found.st_mode,
        )


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path without the `~` that it may begin with; one in a bucket as a `Bucket`.

    Raises:
        UserError: it is none; it stands for the home of somebody who is not known here; or it is
            a URL of another kind than those of buckets.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"a path was wanted, as text or a Path, but {_seen(path)} was given")
    if isinstance(path, Bucket):
        return path
    text = os.fspath(path)
    if isinstance(text, str) and _SCHEME.match(text):
        if isinstance(path, str):
            check_url(text)
        # What `pathlib.Path` leaves of a URL has one slash.
        if text.partition(":")[0] in buckets.DRIVERS:
            return _in_bucket(text)
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path} begins with a home folder, but it is not known which that is (HOME is not "
            "set, or there is no such user); give the whole path"
        ) from None


def joined(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """A path that may be relative to a folder, absolute."""
    whole = isinstance(path, Bucket) or path.is_absolute()
    return (path if whole else folder / path).absolute()


def on_this_machine(path: pathlib.Path, why: str) -> pathlib.Path:
    """The path, if it is a local one.

    Raises:
        UserError: it is in a bucket, and `why` says what is done with it.
    """
    if isinstance(path, Bucket):
        raise UserError(f"{path} is in a bucket, and {why}; copy it to this machine first")
    return path


def shortened(text: str) -> str:
    """A path as its last name, without what tells of this machine; of data as a configuration names
    them, that of their path.

    `/home/me/runs/a` becomes `a`, `npz:/home/me/a.npz` becomes `npz:a.npz`, and `tfds:NAME` stays.
    """
    kind, colon, path = text.partition(":")
    if kind == "tfds":
        return text
    if not colon or "/" in kind or path.startswith("//"):
        return pathlib.PurePosixPath(text).name
    return f"{kind}:{pathlib.PurePosixPath(path).name}"


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_url(text: str) -> None:
    """Raises a `UserError` if a text is a URL, or nearly one, but none of a bucket."""
    found = _SCHEME.match(text)
    scheme = text.partition(":")[0]
    known = " and ".join(f"{name}://" for name in buckets.DRIVERS)
    if found and scheme == "hf":
        raise UserError(f"{text} is written hf:ORG/NAME, without a slash before ORG")
    if found and text.startswith(f"{scheme}://"):
        if scheme not in buckets.DRIVERS:
            raise UserError(f"{text} is neither a local path nor in a bucket ({known})")
        if not text.removeprefix(f"{scheme}://").strip("/"):
            raise UserError(f"{text} names no bucket; write {scheme}://BUCKET/FOLDER")
    elif found and scheme in buckets.DRIVERS:
        raise UserError(
            f"{text} has one slash; write {text.replace(':/', '://', 1)} for the bucket, or the "
            "whole path for a local folder of that name"
        )


def _in_bucket(text: str) -> Bucket:
    path = Bucket(text)
    if len(path.parts) < 2 or ".." in path.parts:
        raise UserError(f"{path} is no path in a bucket; write {path.scheme}://BUCKET/FOLDER")
    files.check_utf8(path, "names in buckets need")
    return path


def _seen(value: Any) -> str:
    """What was given in the place of a path, in a few words."""
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def absolute(folder: str | os.PathLike[str]) -> Any:
    """The absolute path of a folder: a `Local`, as Orbax takes it, or a `Bucket`.

    Raises:
        UserError: its `~` cannot be expanded, or its name holds what TensorStore does not keep
            apart: a backslash, which it takes for a slash, or what is not UTF-8.
    """
    path = expanded(folder).absolute()
    if isinstance(path, Bucket):
        return path
    if ".." in path.parts:  # TensorStore leaves a symbolic link before it out
        path = path.resolve()
    files.check_utf8(path, "arrays on disk need")
    if "\\" in str(path) or "\0" in str(path):
        raise UserError(
            f"{str(path)!r} cannot hold arrays: no folder of its path may have a backslash in its "
            "name; choose another place, or rename it"
        )
    return Local(path)
