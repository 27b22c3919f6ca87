"""Where arrays live: one mesh axis, `data`, over which batches are split.

Host arrays are whole on every process; each process puts only the parts of its own devices. So the
same code serves one device, eight, and several processes, and what is computed does not depend on
their number.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from supernet_jax.errors import UserError


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or the given ones) along `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, tree: Any, *, axis: int = 0) -> Any:
    """Puts host arrays on the mesh, `axis` of each split over `data`."""
    spec = PartitionSpec(*(None,) * axis, "data")
    return jax.tree.map(lambda x: _put(np.asarray(x), NamedSharding(mesh, spec)), tree)


def own_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Which places of a batch of `count`, split over the mesh, this process has: int64, ascending.

    A process reads only these from disk.
    """
    places = NamedSharding(mesh, PartitionSpec("data")).addressable_devices_indices_map((count,))
    slices = [index[0] for index in places.values() if index is not None]
    return np.unique(np.concatenate([np.arange(count)[part] for part in slices]))


def split_rows(mesh: Mesh, tree: Any, *, rows: np.ndarray, count: int) -> Any:
    """Puts the own rows (see `own_rows`) of host arrays on the mesh, as a batch of `count`."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def put(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            first, last = index[0].indices(count)[:2]
            start = int(np.searchsorted(rows, first))
            return x[start : start + last - first]

        return jax.make_array_from_callback((count, *x.shape[1:]), sharding, part)

    return jax.tree.map(put, tree)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts host (or single-device) arrays whole on every device of the mesh."""
    return jax.tree.map(lambda x: _put(np.asarray(x), replicated(mesh)), tree)


def check_divides(name: str, batch: int, mesh: Mesh) -> None:
    """Raises a `UserError` unless `batch` images split evenly over the mesh."""
    if batch % mesh.size:
        low, high = batch // mesh.size * mesh.size, -(-batch // mesh.size) * mesh.size
        raise UserError(
            f"{name} is {batch}, which does not split over {mesh.size} devices; "
            f"use {' or '.join(str(n) for n in (low, high) if n)}"
        )


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
