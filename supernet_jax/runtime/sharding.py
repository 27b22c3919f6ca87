"""Where arrays live. In training one mesh axis, `data`, over which batches, and perhaps the state,
are split; in evaluation two, `candidates` and `data`.

Host arrays are whole on every process; each process puts only the parts of its own devices. So the
same code serves one device, eight, and several processes, and what is computed does not depend on
their number.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from supernet_jax.errors import UserError
from supernet_jax.runtime import path_rules

Axis = int | Literal["largest", "whole"]
# (regular expression for a whole path, which axis is split); the first that matches decides. Paths
# are those of a training state, as "params/stem/conv/kernel" or "opt_state/2/trace/...".
Rules = tuple[tuple[str, Axis], ...]
REPLICATED: Rules = ((r".*", "whole"),)
SHARDED: Rules = ((r"(params|opt_state|ema)/.*", "largest"), (r".*", "whole"))
LEAST = 1024  # elements: smaller arrays are not worth a message


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or the given ones) along `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def candidates_mesh(devices: list[jax.Device], candidates: int) -> Mesh | None:
    """A mesh `candidates` x `data`: as many groups of devices as divide them and have work.

    Args:
        devices: all of them.
        candidates: how many are evaluated.

    Returns:
        The mesh, or None for fewer than two devices.
    """
    if len(devices) < 2:
        return None
    groups = max(n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and n <= candidates)
    shape, axes = (groups, len(devices) // groups), ("candidates", "data")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 2, devices=devices)


def devices_of(x: Any) -> list[jax.Device]:
    """The devices of the mesh on which an array lies; none for other arrays."""
    place = x.sharding if isinstance(x, jax.Array) else None
    return list(place.mesh.devices.flat) if isinstance(place, NamedSharding) else []


def moved(mesh: Mesh, tree: Any, *, axis: int = 0) -> Any:
    """Arrays of a mesh put on another of the same devices, `axis` of each split over `data`."""
    place = NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))
    return jax.jit(_same, out_shardings=place)(tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The sharding of what has images along its first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split(mesh: Mesh, tree: Any, *, axis: int = 0, over: str = "data") -> Any:
    """Puts host arrays on the mesh, `axis` of each split over the mesh axis `over`."""
    spec = PartitionSpec(*(None,) * axis, over)
    return jax.tree.map(lambda x: _put(np.asarray(x), NamedSharding(mesh, spec)), tree)


def place(mesh: Mesh, shapes: Any, *, rules: Rules, least: int = LEAST) -> Any:
    """Where each array of a tree lives, chosen by its path.

    An array is split along the axis that the rule names. "largest" is the largest axis that the
    number of devices divides; arrays of fewer than `least` elements, and those without such an
    axis, are whole on every device, as with "whole".

    Args:
        mesh: the devices.
        shapes: pytree of arrays or `jax.ShapeDtypeStruct`.
        rules: the first whose expression matches a whole path decides.
        least: elements.

    Returns:
        The same tree, of `NamedSharding`.

    Raises:
        UserError: a path that no rule matches, or a rule whose axis an array does not have or the
            number of devices does not divide.
    """
    axes = path_rules.param_groups(shapes, groups=rules)

    def one(path: Any, leaf: Any, axis: Axis) -> NamedSharding:
        if isinstance(axis, int):
            if not 0 <= axis < len(leaf.shape) or leaf.shape[axis] % mesh.size:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise UserError(
                    f"a rule splits axis {axis} of {name}, whose shape is {leaf.shape}, over "
                    f"{mesh.size} devices; name an axis that they divide, or `largest`"
                )
            split_axis: int | None = axis
        else:
            split_axis = _largest(leaf.shape, mesh.size, least) if axis == "largest" else None
        spec = () if split_axis is None else (*(None,) * split_axis, "data")
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(one, shapes, axes)


def gathered(tree: Any, where: Any) -> Any:
    """Split arrays made whole on every device, inside jit; their gradients come back split.

    Args:
        tree: pytree of arrays.
        where: how they are split: the same tree, of `NamedSharding`; None leaves them as they are.
    """
    if not _any_split(where):
        return tree
    whole = jax.tree.map(lambda place: replicated(place.mesh), where)

    @jax.custom_vjp
    def gather(tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, whole)

    gather.defvjp(
        lambda tree: (gather(tree), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, where),),
    )
    return gather(tree)


def scattered(tree: Any, where: Any) -> Any:
    """Arrays that are whole on every device split, inside jit; see `gathered`."""
    return jax.lax.with_sharding_constraint(tree, where) if _any_split(where) else tree


def _any_split(where: Any) -> bool:
    return not all(place.is_fully_replicated for place in jax.tree.leaves(where))


def over_devices(total: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`total(params, *parts)` on the parts of each device by itself.

    Args:
        total: a sum over the leading axis of `parts`, which is summed over the devices, and what
            each of the parts gave, which is put together.
        mesh: None for one device.
    """
    if mesh is None or mesh.size == 1:
        return total

    def summed(params: Any, *parts: Any) -> Any:
        sums, each = total(params, *parts)
        return jax.lax.psum(sums, "data"), each

    def mapped(params: Any, *parts: Any) -> Any:
        specs = (PartitionSpec(), *(PartitionSpec("data"),) * len(parts))
        out = PartitionSpec(), PartitionSpec("data")
        run = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        return run(params, *parts)

    return mapped


def _largest(shape: tuple[int, ...], devices: int, least: int) -> int | None:
    """The largest axis that `devices` divides, the last of equal ones, or None."""
    dividing = [(size, axis) for axis, size in enumerate(shape) if size % devices == 0]
    return max(dividing)[1] if dividing and math.prod(shape) >= least else None


def bytes_per_device(shapes: Any, places: Any) -> int:
    """Of arrays that live so, on the first device."""

    def one(leaf: Any, where: NamedSharding) -> int:
        return math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, shapes, places)))


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


def check_parts(
    batch: int, mesh: Mesh, *, arch_shards: int, norm_shards: int, accumulate: int
) -> None:
    """Raises a `UserError` unless a batch splits into such parts, those over the mesh, and what
    each device (and part) has into micro-batches.
    """
    for name, shards in (("arch", arch_shards), ("norm", norm_shards)):
        if shards > 1 and (batch % shards or shards % mesh.size):
            raise UserError(
                f"train.{name}-shards is {shards}, but must divide train.batch ({batch}) and be a "
                f"multiple of the number of devices ({mesh.size}), or 1"
            )
    if 1 not in (arch_shards, norm_shards) and arch_shards != norm_shards:
        raise UserError(
            f"train.norm-shards is {norm_shards} and train.arch-shards is {arch_shards}; where "
            "both are above 1 they must be equal, because subnets of their own have their own parts"
        )
    parts = max(arch_shards, norm_shards)
    pieces = accumulate * math.lcm(parts, mesh.size)
    if accumulate > 1 and batch % pieces:
        raise UserError(
            f"train.accumulate is {accumulate}, but train.batch ({batch}) must be a multiple of "
            f"{pieces}: of the micro-batches times {'parts' if parts > 1 else 'devices'}"
        )


def _same(tree: Any) -> Any:
    return tree


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
