"""Named arrays in a safetensors file, read as if somebody hostile had written it.

A safetensors file is eight bytes that say how long the header is, the header (JSON: by name a
dtype, a shape and where the bytes are), and the bytes. Reading it executes nothing. What the header
says is checked against the file's length before anything of that size is allocated. A name is a
path of keys, as "params/stem/conv/kernel".
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from supernet_jax.errors import UserError
from supernet_jax.storage import files

LONGEST_HEADER = 16 * 2**20  # bytes; 100,000 tensors take about 10 MB
LONGEST_NAME = 512
MOST_AXES = 8
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
MAGIC = {  # what other files begin with
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80\x02": "a Python pickle, as torch.save wrote until 1.5",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\x93NUMPY": "a NumPy file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
}


def shapes(path: str | pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes in a safetensors file; of the numbers only how many there are.

    Raises:
        UserError: no such file, or one that is not a safetensors file, is cut off, or has a header
            that is too long, broken, or does not fit the file's length.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(max(8, *map(len, MAGIC)))
            length = _header_length(path, start, size)
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise files.unreadable(path, error, kind="safetensors file") from None
    return _parsed(path, text, size - 8 - length)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, by name, with the dtypes that they have there.

    Raises:
        UserError: as of `shapes`.
    """
    path = pathlib.Path(path)
    declared = shapes(path)
    try:
        found = safetensors.deserialize(path.read_bytes())
    except OSError as error:
        raise files.unreadable(path, error, kind="safetensors file") from None
    except safetensors.SafetensorError as error:
        raise _broken(path, str(error)) from None
    arrays = {name: _array(entry) for name, entry in found}
    if {name: (a.shape, a.dtype) for name, a in arrays.items()} != {
        name: (s.shape, s.dtype) for name, s in declared.items()
    }:
        raise _broken(path, "it changed while it was read")
    return {name: arrays[name] for name in declared}


def write(
    path: str | pathlib.Path, arrays: Mapping[str, Any], *, said: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
        path: of the file.
        arrays: NumPy or JAX, by name.
        said: the header's metadata, texts by name.

    Raises:
        UserError: it cannot be written.
    """
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = safetensors.numpy.save(whole, metadata=None if said is None else dict(said))
    files.write_bytes(path, lambda file: file.write(content))


def nested(flat: Mapping[str, Any], where: str | pathlib.Path) -> dict[str, Any]:
    """Nested dicts of what has paths as names.

    Args:
        flat: by names as "params/stem/conv/kernel".
        where: the file, for messages.

    Raises:
        UserError: a name is also the beginning of another one.
    """
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise UserError(f"{where}: {name!r} stands for an array and for a group of arrays")
        node[last] = leaf
    return tree


def check_finite(arrays: Mapping[str, np.ndarray], where: str | pathlib.Path) -> None:
    """Makes sure that no array holds nan or infinity.

    Raises:
        UserError: one does; the message names it.
    """
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            continue
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UserError(
                f"{where}: {bad:,} of {array.size:,} numbers of {name} are not finite; the network "
                "diverged, or the file is damaged: take an earlier checkpoint, or copy it again"
            )


def _header_length(path: pathlib.Path, start: bytes, size: int) -> int:
    if size < 8:
        raise _broken(path, f"it has {size} bytes, fewer than the 8 that any has")
    length = int.from_bytes(start[:8], "little")
    if length <= min(LONGEST_HEADER, size - 8):
        return length
    for magic, what in MAGIC.items():  # here, since a length may look like the start of a pickle
        if start.startswith(magic):
            raise UserError(f"{path} is not a safetensors file but {what}")
    if length > LONGEST_HEADER:
        most = f"at most {LONGEST_HEADER:,} are read"
        raise _broken(path, f"its header would be {length:,} bytes, {most}")
    raise _broken(path, f"its header would be {length:,} bytes, but {size - 8:,} follow")


def _parsed(path: pathlib.Path, text: bytes, available: int) -> dict[str, jax.ShapeDtypeStruct]:
    try:
        value = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _broken(path, "its header is not a JSON object")
    value.pop("__metadata__", None)  # which the library looks at
    for name in value:
        _check_name(name, path)
    declared = {name: _declared(path, name, entry, available) for name, entry in value.items()}
    needed = sum(math.prod(s.shape) * np.dtype(s.dtype).itemsize for s in declared.values())
    if needed != available:
        what = "is cut off" if needed > available else "holds more than that"
        raise _broken(
            path, f"its tensors take {needed:,} bytes, {available:,} are there: it {what}"
        )
    return declared


def _check_name(name: str, path: pathlib.Path) -> None:
    """A name is a path of keys, and so must not lead anywhere else."""
    keys = set(re.split(r"[/\\]", name))
    if len(name) > LONGEST_NAME or not name.isprintable() or "\\" in name or {"", ".", ".."} & keys:
        raise UserError(
            f"{path} has an array named {name[:80]!r}; names are printable keys joined by /, of at "
            f"most {LONGEST_NAME} characters"
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _declared(path: pathlib.Path, name: str, entry: Any, available: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one tensor; where it lies is left to the library to check.

    Args:
        path: of the file.
        name: of the tensor.
        entry: what the header says of it.
        available: bytes that follow the header; no axis can be longer.
    """
    if not (isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}):
        raise _broken(path, f"{name} is not described by dtype, shape and data_offsets")
    kind, shape = entry["dtype"], entry["shape"]
    if not (isinstance(kind, str) and kind in DTYPES):
        raise UserError(f"{path}: {name} is of type {kind!r}, allowed: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MOST_AXES:
        raise _broken(path, f"the shape of {name} is not a list of at most {MOST_AXES} sizes")
    if not all(type(n) is int and 0 < n <= available for n in shape):
        raise _broken(
            path, f"{name} has a size that is not 1 to {available:,}, the bytes there are"
        )
    return jax.ShapeDtypeStruct(tuple(shape), DTYPES[kind])


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _broken(path: pathlib.Path, why: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {why}; copy or convert it again")
