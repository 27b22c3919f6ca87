"""Named arrays in a safetensors file, read as if somebody hostile had written it.

The library `safetensors` reads and writes: it executes nothing, and refuses whatever does not fit
the file's length. What it takes and is refused here:

- names that lead elsewhere, cannot be printed or have no end. A name is a path of keys, as
  "params/stem/conv/kernel";
- dtypes that NumPy and JAX do not have, and more axes than any array here has;
- numbers that are not finite (`check_finite`), which only some readers must refuse.

A file of another kind is called what it is, where the library only says that a header is too large.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from supernet_jax.errors import UserError
from supernet_jax.storage import files

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


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, by name, with the dtypes that they have there.

    Raises:
        UserError: no such file, or one that is not a safetensors file, is cut off, or holds what is
            refused here; the message says which.
    """
    path = pathlib.Path(path)
    content = files.read_bytes(path, kind="safetensors file")
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise _refused(path, content, str(error)) from None
    by_name = sorted(found, key=lambda pair: pair[0])  # the library has no order
    return {name: _array(path, name, entry) for name, entry in by_name}


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
    content = content if said is None else _in_order(content)
    files.write_bytes(path, lambda file: file.write(content))


def _in_order(content: bytes) -> bytes:
    """The same file with its metadata in order, which the library writes in another one each time:
    what is the same is the same to the bit.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


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


def _array(path: pathlib.Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    keys = set(re.split(r"[/\\]", name))
    if len(name) > LONGEST_NAME or not name.isprintable() or "\\" in name or {"", ".", ".."} & keys:
        raise UserError(
            f"{path} has an array named {name[:80]!r}; names are printable keys joined by /, of at "
            f"most {LONGEST_NAME} characters"
        )
    kind, shape = entry["dtype"], entry["shape"]
    if kind not in DTYPES:
        raise UserError(f"{path}: {name} is of type {kind!r}, allowed: {', '.join(DTYPES)}")
    if len(shape) > MOST_AXES:
        raise UserError(f"{path}: {name} has {len(shape)} axes; at most {MOST_AXES} are read")
    return np.frombuffer(entry["data"], DTYPES[kind]).reshape(shape)


def _refused(path: pathlib.Path, content: bytes, why: str) -> UserError:
    """What to say of a file that the library refuses: what else it is, or the library's words."""
    for magic, what in MAGIC.items():
        if content.startswith(magic):
            return UserError(f"{path} is not a safetensors file but {what}")
    why = (
        f"it has {len(content)} bytes" if len(content) < 8 else why.rpartition("deserializing: ")[2]
    )
    shown = "".join(c if c.isprintable() else "?" for c in why[:200])  # it may quote the file
    return UserError(f"{path} is not a whole safetensors file: {shown}; copy or convert it again")
