"""A tree of arrays in a bucket, in the format in which Orbax writes one on disk.

Orbax itself knows no S3, and for `gs://` needs packages of its own; so the arrays are written and
read by TensorStore, as it does. Each process writes what its devices hold into a store of its own,
in one transaction; then the first joins the stores to one, which refers to their data.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from supernet_jax.runtime import path_rules
from supernet_jax.storage import buckets, chunked_arrays, files
from supernet_jax.storage.buckets import Bucket

Tree = Any  # pytree of arrays
FILE_BYTES = 256 * 1024**2  # of one object with chunks, about
AT_ONCE = 32  # arrays that are read at the same time
SEQUENCE, NAMED = 1, 2  # kinds of keys of a path, in Orbax's `_METADATA`
METADATA = "_METADATA"
MANIFEST = "manifest.ocdbt"


class Held(NamedTuple):
    """What this process is to write of an array.

    Attributes:
        name: on disk.
        array: its shape and dtype.
        chunk: shape of its chunks.
        parts: of it, each with its place.
    """

    name: str
    array: jax.ShapeDtypeStruct
    chunk: tuple[int, ...]
    parts: list[tuple[tuple[slice, ...], np.ndarray]]


def held(tree: Tree, how: Tree) -> list[Held]:
    """Copies what this process is to write to the host; the arrays may be given away afterwards.

    Args:
        tree: pytree of arrays.
        how: Orbax's arguments of each, see `chunked_arrays.laid_out`.
    """
    named = chunked_arrays.stored(tree)
    leaves = [_data(leaf) for leaf in jax.tree.leaves(tree)]
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    args = jax.tree.leaves(how)
    return [
        Held(name, array, _chunk(leaf, array, own), list(_parts(leaf)))
        for (name, array), leaf, own in zip(named.items(), leaves, args, strict=True)
    ]


def _data(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _parts(leaf: Any) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Each part of an array is written by one process; what every process has, by the first."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield shard.index, np.array(shard.data)
    elif jax.process_index() == 0:
        yield (), np.array(leaf)


def _chunk(leaf: Any, array: jax.ShapeDtypeStruct, how: Any) -> tuple[int, ...]:
    """The shape of chunks: they do not cross the parts that devices hold."""
    split = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    shape = list(leaf.sharding.shard_shape(leaf.shape) if split else array.shape)
    for axis in how.shard_axes or ():
        shape[axis] = 1
    most = (how.chunk_byte_size or 2**62) // array.dtype.itemsize
    while np.prod(shape) > most and max(shape) > 1:
        axis = int(np.argmax(shape))
        size = shape[axis]
        shape[axis] = size // next(n for n in range(2, size + 1) if size % n == 0)
    return tuple(shape)


def write(folder: Bucket, arrays: list[Held]) -> None:
    """Writes what this process holds into its own store, all of it or nothing.

    Raises:
        Exception: whatever TensorStore cannot write.
    """
    place = _own(folder, jax.process_index())
    buckets.remove(place / MANIFEST)  # of a process that was killed at this step
    context = tensorstore.Context()
    change = tensorstore.Transaction(atomic=True)
    store = _store(place)
    own = [one for one in arrays if one.parts]
    opening = [
        tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {**store, "path": f"{one.name}/"},
                "metadata": {
                    "chunks": list(one.chunk),
                    "compressor": {"id": "zstd", "level": 1},
                    "dimension_separator": ".",
                },
                "store_data_equal_to_fill_value": True,
            },
            create=True,
            open=True,
            dtype=tensorstore.dtype(one.array.dtype),
            shape=one.array.shape,
            context=context,
            transaction=change,
        )
        for one in own
    ]
    writing = [
        array.result()[index].write(part)
        for array, one in zip(opening, own, strict=True)
        for index, part in one.parts
    ]
    for future in writing:
        future.result()
    change.commit_sync()


def join(folder: Bucket, tree: Tree) -> None:
    """Makes one store of those of all processes, when they have been written, and describes it.

    Args:
        folder: of the tree.
        tree: with the structure and leaves that have `shape` and `dtype`.
    """
    buckets.remove(folder / MANIFEST)
    change, context = tensorstore.Transaction(atomic=True), tensorstore.Context()
    whole = _opened(folder, context).with_transaction(change)
    for process in range(jax.process_count()):
        place = _own(folder, process)
        # One that holds no part of any array has written nothing.
        if buckets.has(place / MANIFEST):
            _opened(place, context).experimental_copy_range_to(whole).result()
    change.commit_sync()
    files.write_json(folder / METADATA, _described(tree))
    files.write_json(folder / "array_metadatas" / "process_0", _described_arrays(tree))


def _own(folder: Bucket, process: int) -> Bucket:
    return folder / f"ocdbt.process_{process}"


def _store(place: Bucket) -> dict[str, Any]:
    size = {"target_data_file_size": FILE_BYTES}
    return {"driver": "ocdbt", "base": buckets.spec(place), **size}


def _opened(place: Bucket, context: tensorstore.Context) -> Any:
    return tensorstore.KvStore.open(_store(place), context=context).result()


def _described(tree: Tree) -> dict[str, Any]:
    """Names and types of the leaves, as Orbax notes them."""
    found = {}
    # Without what is empty, as states of an optimiser are, the next would have other numbers.
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_empty):
        kinds = [SEQUENCE if isinstance(k, jax.tree_util.SequenceKey) else NAMED for k in path]
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        keys = [{"key": n, "key_type": kind} for n, kind in zip(names, kinds, strict=True)]
        value: dict[str, Any] = {"value_type": "None", "skip_deserialize": True}
        if not _is_empty(leaf):
            shape = list(chunked_arrays.on_disk(leaf).shape)
            value = {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": shape}
        found[str(tuple(names))] = {"key_metadata": keys, "value_metadata": value}
    return {
        "tree_metadata": found,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _is_empty(node: Any) -> bool:
    return not jax.tree.leaves(node)


def _described_arrays(tree: Tree) -> dict[str, Any]:
    """Where Orbax finds of which kind random keys are."""
    found = []
    for leaf, (name, array) in zip(
        jax.tree.leaves(tree), chunked_arrays.stored(tree).items(), strict=True
    ):
        kind = {"random_key_impl": str(_kind(leaf.dtype))} if _is_key(leaf.dtype) else None
        shape = list(array.shape)
        noted = {"param_name": name, "write_shape": shape, "chunk_shape": shape}
        found.append({"array_metadata": {**noted, "ext_metadata": kind}})
    return {"array_metadatas": found}


@dataclasses.dataclass(frozen=True)
class Saved:
    """An array that is in a bucket.

    Attributes:
        name: on disk.
        shape: of the array.
        dtype: of the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any


def metadata(folder: Bucket) -> Tree:
    """What there is: nested dicts and lists of `Saved`.

    Raises:
        Exception: it is damaged in some way.
    """
    noted = json.loads(files.read_bytes(folder / METADATA))["tree_metadata"]
    opened = chunked_arrays.Opened(folder)
    stores = {}
    for one in noted.values():
        path = tuple((key["key"], key["key_type"]) for key in one["key_metadata"])
        empty = one["value_metadata"]["skip_deserialize"]
        stores[path] = None if empty else opened.array(_name(path))
    root: dict[Any, Any] = {}
    for path, store in stores.items():
        node = root
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = None if store is None else _saved(_name(path), store.result())
    return _plain(root)


def _saved(name: str, found: Any) -> Saved:
    return Saved(name, tuple(found.shape), found.dtype.numpy_dtype)


def _name(path: tuple[tuple[str, int], ...]) -> str:
    return ".".join(key for key, _ in path)


def _plain(node: Any) -> Any:
    """Dicts by (key, kind) as the dicts and lists that they stand for."""
    if not isinstance(node, dict):
        return node
    items = [(key, _plain(value)) for (key, _), value in node.items()]
    if any(kind == SEQUENCE for _, kind in node):
        return [value for _, value in sorted(items, key=lambda item: int(item[0]))]
    return dict(items)


def read(folder: Bucket, part: Tree, wanted: Mapping[str, Any]) -> Tree:
    """Reads some of the arrays, each where it is wanted.

    Args:
        folder: of the tree.
        part: of what `metadata` gave.
        wanted: shape, dtype and perhaps a sharding of each, by its path.

    Raises:
        Exception: whatever TensorStore cannot read.
    """
    opened = chunked_arrays.Opened(folder)
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    paths, structure = jax.tree_util.tree_flatten_with_path(part)
    made = []
    for start in range(0, len(paths), AT_ONCE):
        some = [
            (wanted[path_rules.name_of(path)], saved) for path, saved in paths[start:][:AT_ONCE]
        ]
        stores = [store.result() for store in [opened.array(saved.name) for _, saved in some]]
        asked = []
        for (leaf, saved), store in zip(some, stores, strict=True):
            known = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and leaf.sharding
            place = known or default
            shape = saved.shape
            indices = {_key(index): index for index in _indices(place, shape, leaf.dtype)}
            asked.append((place, {key: store[i].read() for key, i in indices.items()}))
        for (leaf, saved), (place, futures) in zip(some, asked, strict=True):
            parts = {key: future.result() for key, future in futures.items()}
            made.append(_array(leaf, saved, place, parts))
    return jax.tree.unflatten(structure, made)


def _is_key(dtype: Any) -> bool:
    return bool(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key))


def _kind(dtype: Any) -> Any:
    """Of random keys: which generator they are for."""
    return jax.random.key_impl(jnp.empty((), dtype))


def _indices(place: jax.sharding.Sharding, shape: tuple[int, ...], dtype: Any) -> list[Any]:
    """Which parts of an array the devices of this process take."""
    if _is_key(dtype):
        return [()]
    return list(place.addressable_devices_indices_map(shape).values())


def _key(index: tuple[slice, ...] | None) -> tuple[Any, ...]:
    return tuple((part.start, part.stop) for part in index or ())


def _array(leaf: Any, saved: Saved, place: Any, parts: Mapping[Any, np.ndarray]) -> jax.Array:
    if _is_key(leaf.dtype):
        made = jax.random.wrap_key_data(jnp.asarray(parts[()]), impl=_kind(leaf.dtype))
        return jax.device_put(made, place)
    return jax.make_array_from_callback(
        saved.shape, place, lambda index: parts[_key(index)], dtype=saved.dtype
    )
