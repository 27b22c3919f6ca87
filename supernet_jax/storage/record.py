"""The files of a finished folder and their sizes, noted in it: so a lost or cut one is named."""

import json
import os
import pathlib

from supernet_jax.errors import UserError
from supernet_jax.storage import files
from supernet_jax.storage.buckets import Bucket

NAME = "files.json"


def note(folder: str | os.PathLike[str]) -> None:
    """Notes the sizes of all files of a folder.

    Raises:
        UserError: it cannot be written.
    """
    local = pathlib.Path(folder)
    found = {str(p.relative_to(local)): p.stat().st_size for p in local.rglob("*") if p.is_file()}
    files.write_json(local / NAME, found)


def check(folder: str | os.PathLike[str]) -> None:
    """Looks whether all files are there that were noted, in their sizes. No note is no error.

    Raises:
        ValueError: one is missing or has another size; the message says which.
        OSError: one cannot be looked at.
        UserError: the note itself cannot be read.
    """
    if isinstance(folder, Bucket):  # which keeps objects whole
        return
    local = pathlib.Path(folder)
    if not (local / NAME).exists():
        return
    try:
        noted = json.loads(files.read_text(local / NAME))
    except (ValueError, RecursionError):
        noted = None
    if not isinstance(noted, dict) or not all(type(size) is int for size in noted.values()):
        raise UserError(
            f"{local / NAME} does not hold the sizes of files, so it was cut short or written by "
            "somebody else; move it aside, and the folder is read without it"
        )
    for name, size in noted.items():
        try:
            seen = (local / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{name} is missing") from None
        if seen != size:
            raise ValueError(f"{name} has {seen} of {size} bytes")
