"""Arrays with names in one NumPy archive, written whole or not at all and read without pickle."""

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.storage import files


def write(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Replaces a file by an archive.

    Raises:
        UserError: it cannot be written.
    """
    made = io.BytesIO()  # an archive that a full disk has cut short could not be closed properly
    np.savez(made, **arrays)
    files.write_bytes(path, lambda file: file.write(made.getbuffer()))


def read(path: str | os.PathLike, *, kind: str, damaged: str) -> dict[str, np.ndarray]:
    """What an archive holds.

    Args:
        path: of the file.
        kind: what it should be, as "race".
        damaged: what to do if it is not.

    Raises:
        UserError: it is missing, not readable, cut short, or no archive; the message says which.
    """
    content = files.read_bytes(path, kind=kind)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive makes its reader fail in any way
        raise UserError(f"{files.unreadable(path, error, kind=kind)}; {damaged}") from error
