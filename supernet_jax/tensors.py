"""Files of named arrays in the safetensors format, read without trusting them.

Such a file is a JSON header (names, dtypes, shapes) and the numbers after it. Reading runs no code
and allocates no more than the file holds. A name is a path of keys, as "params/stem/conv/kernel".
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from supernet_jax.errors import UserError

Tree = dict[str, Any]  # nested dicts of arrays, or of jax.ShapeDtypeStruct
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def shapes(path: str | pathlib.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes in a file; the numbers are not read.

    Raises:
        UserError: not a whole safetensors file; a dtype or a name that is not allowed.
    """
    with _opened(path) as file:
        return {name: _shape(path, name, file) for name in sorted(file.keys())}


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays in a file, by name. Look at their `shapes` first.

    Raises:
        UserError: as `shapes`.
    """
    expected = shapes(path)
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in expected}


def write(path: str | pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays, NumPy or JAX, into a new file."""
    safetensors.numpy.save_file(
        {name: np.asarray(array, order="C") for name, array in arrays.items()}, path
    )


def nested(flat: Mapping[str, Any], where: str | pathlib.Path) -> Tree:
    """Nested dicts of what has paths as names.

    Args:
        flat: by names as "params/stem/conv/kernel".
        where: the file, for messages.

    Raises:
        UserError: a name is also the beginning of another one.
    """
    tree: Tree = {}
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


def check_finite(arrays: Mapping[str, Any], where: str | pathlib.Path) -> None:
    """Makes sure that there is no nan and no infinity.

    Raises:
        UserError: naming the first array that holds one.
    """
    for name, array in arrays.items():
        if not np.all(np.isfinite(np.asarray(array))):
            raise UserError(
                f"{where}: {name} holds values that are not finite; no network works with them, so "
                "take an earlier copy"
            )


@contextlib.contextmanager
def _opened(path: str | pathlib.Path) -> Iterator[Any]:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; it should hold the weights")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is not a whole safetensors file ({first[:200]}); copy it again from where it "
            "was written"
        ) from None


def _shape(path: str | pathlib.Path, name: str, file: Any) -> jax.ShapeDtypeStruct:
    if not name.isprintable() or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise UserError(
            f"{path} has an array named {name!r}; names are keys joined by /, as stem/conv/kernel"
        )
    part = file.get_slice(name)
    kind = part.get_dtype()
    if kind not in DTYPES:
        raise UserError(f"{path}: {name} is of type {kind}, allowed are {', '.join(DTYPES)}")
    return jax.ShapeDtypeStruct(tuple(part.get_shape()), DTYPES[kind])
