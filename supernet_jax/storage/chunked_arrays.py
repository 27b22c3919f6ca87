"""Arrays on disk: written in chunks small enough that a part of an array can be read by itself.

A chunk is read whole. Left alone, Orbax makes one of what a device holds of an array, so a slice of
it costs all of it. Here chunks of parameters span a part of their last two axes, the channels, and
one index of those before, as rows of a bank and places of a kernel.
"""

import collections
import dataclasses
import functools
import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax.errors import UserError
from supernet_jax.storage import buckets
from supernet_jax.storage.buckets import Bucket

Tree = Any  # pytree of arrays
# Bytes, before compression. As fast to write and to restore as whole arrays; 16 KiB are not.
CHUNK = 32 * 1024
LEAST = 4 * 1024  # bytes of the last two axes, below which those before them are not split
AT_ONCE = 16  # arrays of which parts are read at the same time, in a bucket
# What is near each other in an object of a bucket is read by one request.
TOGETHER: dict[str, Any] = {
    "experimental_read_coalescing_threshold_bytes": 256 * 1024,
    "experimental_read_coalescing_merged_bytes": 64 * 1024**2,
    "experimental_read_coalescing_interval": "1ms",
}
NODES = 64 * 1024**2  # bytes of the index of chunks that are kept while reading


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of an array: on each axis the first index, and the one after the last."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def union(self, other: "Box") -> "Box":
        """The smallest box that holds both."""
        return Box(tuple(map(min, self.start, other.start)), tuple(map(max, self.stop, other.stop)))

    def slices(self) -> tuple[slice, ...]:
        """As an index of NumPy's."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


def laid_out(state: Tree, chosen: Callable[[Any], bool]) -> tuple[Tree, Tree]:
    """A state as it is to be saved, and Orbax's arguments for each of its leaves.

    Orbax halves chunks along axes that are split over devices until nothing is left to halve, so
    large arrays are handed to it from the host, or split over devices on two axes.

    Args:
        state: pytree of arrays.
        chosen: of which paths (of `jax.tree_util`) slices will be read.
    """
    quiet()
    paths = jax.tree_util.tree_leaves_with_path(state)
    leaves, structure = jax.tree.flatten(state)
    large = [i for i, (path, leaf) in enumerate(paths) if chosen(path) and _bytes(leaf) > CHUNK]
    how = [ocp.SaveArgs()] * len(leaves)
    for i, array in zip(large, _spread([leaves[i] for i in large]), strict=True):
        leaves[i], how[i] = array, _how(array)
    return jax.tree.unflatten(structure, leaves), jax.tree.unflatten(structure, how)


def _bytes(array: Any) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def _how(array: Any) -> ocp.SaveArgs:
    before = tuple(range(array.ndim - 2))
    plane = math.prod(array.shape[-2:]) * array.dtype.itemsize
    return ocp.SaveArgs(chunk_byte_size=CHUNK, shard_axes=before if plane >= LEAST else ())


def _spread(arrays: list[Any]) -> list[Any]:
    """The arrays on the host; where one process has not all of them, split over the last two axes
    if the number of devices allows it.
    """
    if all(not isinstance(a, jax.Array) or a.is_fully_addressable for a in arrays):
        return [np.asarray(a) for a in arrays]
    return jax.jit(_same, out_shardings=[_two_axes(a) for a in arrays])(arrays)


def _two_axes(array: jax.Array) -> jax.sharding.Sharding:
    """A sharding over the last two axes, its parts as square as can be."""
    place = array.sharding
    if array.ndim < 2 or not isinstance(place, NamedSharding):
        return place
    devices, (rows, columns) = place.mesh.devices.reshape(-1), array.shape[-2:]
    pairs = [(a, len(devices) // a) for a in range(2, len(devices)) if len(devices) % a == 0]
    fitting = [(a, b) for a, b in pairs if rows % a == 0 and columns % b == 0]
    if not fitting:
        return place
    pair = min(fitting, key=lambda ab: abs(math.log(rows * ab[1] / (columns * ab[0]))))
    mesh = Mesh(devices.reshape(pair), ("rows", "columns"))
    return NamedSharding(mesh, PartitionSpec(*(None,) * (array.ndim - 2), "rows", "columns"))


def _same(arrays: Any) -> Any:
    return arrays


def read(
    path: epath.Path, saved: Mapping[str, Any], wanted: Mapping[str, Box], *, what: str
) -> dict[str, np.ndarray]:
    """Parts of arrays, one array after the other, so that memory holds what was asked for and the
    chunks of one array.

    Args:
        path: of a tree that Orbax wrote.
        saved: what Orbax says of its arrays.
        wanted: parts of some of them.
        what: what the tree is called in messages.

    Raises:
        UserError: arrays that do not hold these parts.
        ValueError: an array that is damaged; TensorStore says which.
    """
    for name, box in wanted.items():
        shape = tuple(saved[name].shape) if name in saved else None
        if shape is None or len(shape) != len(box.stop) or np.any(np.less(shape, box.stop)):
            seen = f"{name} as {list(shape)}" if shape else f"no array {name}"
            raise UserError(
                f"{what} has {seen}, of which a subnet needs {list(box.stop)}; take the space "
                "that it was trained with"
            )
    opened, made = Opened(path), dict[str, np.ndarray]()
    at_once = AT_ONCE if isinstance(path, Bucket) else 1  # a bucket lets each wait
    for start in range(0, len(wanted), at_once):
        names = list(wanted)[start : start + at_once]
        stores = [opened.array(saved[name].name) for name in names]
        parts = [
            store.result()[wanted[name].slices()].read()
            for name, store in zip(names, stores, strict=True)
        ]
        made |= {name: part.result() for name, part in zip(names, parts, strict=True)}
    return made


def check_is_tree(path: epath.Path) -> None:
    """Makes sure that there is a folder that Orbax may have written.

    Raises:
        UserError: there is none, or it is something else.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; copy it from where it was written")
    if not (path / "_METADATA").exists():
        raise UserError(
            f"{path} has no _METADATA, so it is no checkpoint of Orbax or not all of one; copy it "
            "again from where it was written"
        )


def stored(tree: Tree) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes on disk of a pytree of arrays, by the names that Orbax gives."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): on_disk(x) for p, x in leaves}


def on_disk(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of what is saved of an array: random keys are saved as their bits."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    found = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf
    return jax.ShapeDtypeStruct(found.shape, found.dtype)


def check(path: epath.Path, arrays: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Makes sure that these arrays are on disk, and no others; their numbers are not read.

    Args:
        path: of a tree that Orbax wrote.
        arrays: as of `stored`.

    Raises:
        ValueError: an array is missing, has another shape or dtype, or lacks chunks.
        Exception: whatever Orbax or TensorStore cannot read.
    """
    opened = Opened(path)
    parts = collections.Counter(opened.names())
    if parts.keys() != arrays.keys():
        name = min(parts.keys() ^ arrays.keys())
        raise ValueError(
            f"array {name} is {'missing' if name in arrays else 'none of those saved'}"
        )
    found = {name: opened.array(name) for name in arrays}
    for name, array in arrays.items():
        seen = found[name].result()
        if (seen.shape, seen.dtype.numpy_dtype) != (array.shape, array.dtype):
            raise ValueError(f"array {name} is {seen.dtype.numpy_dtype}{list(seen.shape)}")
        each = seen.chunk_layout.read_chunk.shape or ()  # None of a single number
        chunks = math.prod(-(-n // size) for n, size in zip(seen.shape, each, strict=True))
        if parts[name] != chunks + 1:  # and its description
            raise ValueError(f"array {name} has {parts[name] - 1} of {chunks} chunks")


class Opened:
    """A tree that Orbax wrote, as TensorStore reads it."""

    def __init__(self, path: epath.Path) -> None:
        local = {"driver": "file", "path": f"{path}/"}
        base = buckets.spec(path) if isinstance(path, Bucket) else local
        self._spec: dict[str, Any] = {
            **{"driver": "ocdbt", "base": base, "cache_pool": "cache_pool#nodes"},
            **(TOGETHER if isinstance(path, Bucket) else {}),
        }
        # Without a cache the index would be read again for every chunk.
        self._context = tensorstore.Context({"cache_pool#nodes": {"total_bytes_limit": NODES}})
        # Open all the time, or the cache would go with each array.
        self._store = tensorstore.KvStore.open(self._spec, context=self._context).result()

    def array(self, name: str) -> Any:
        """The future of an array."""
        where = {**self._spec, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": where, "fill_missing_data_reads": False}
        return tensorstore.open(spec, open=True, read=True, context=self._context)

    def names(self) -> list[str]:
        """Of the array of each chunk and of each description."""
        return [key.decode().rpartition("/")[0] for key in self._store.list().result()]


def quiet() -> None:
    """Leaves out what Orbax has to say of each small chunk, in threads of its own, and what
    TensorStore says of chunks that are written after another one has failed: that one is raised.
    """
    logging.getLogger("absl").addFilter(_not_of_chunks)
    _leave_out_late_chunks()


def _not_of_chunks(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Setting the target_byte_size too small")


@functools.cache  # once in a process
def _leave_out_late_chunks() -> None:
    before = sys.unraisablehook

    def told(seen: Any) -> None:
        late = isinstance(seen.exc_value, RuntimeError) and seen.object is None
        if not (late and str(seen.exc_value) == "Event loop is closed"):
            before(seen)

    sys.unraisablehook = told
