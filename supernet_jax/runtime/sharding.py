"""Where arrays live: meshes of devices with named axes, and rules that split arrays over them.

A mesh of training has the axes `data` and `model`. The images of a batch are split over both, for
every device computes on whole weights, and devices with the same images would only do each other's
work again. Parameters may be split over `model` (each of `data` has a copy then), or over both. In
evaluation there is a third axis before them, `candidates`.

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

EXAMPLES = ("data", "model")  # mesh axes over which the examples of a batch are split
# The mesh axes over which each axis of an array is split: as of `PartitionSpec`.
Spec = tuple[str | tuple[str, ...] | None, ...]
Rule = Literal["first", "largest", "whole", "model"] | int | Spec
# (regular expression for a whole path, how it is split); the first that matches decides. Paths are
# those of a training state, as "params/stem/conv/kernel" or "opt_state/2/trace/...".
Rules = tuple[tuple[str, Rule], ...]
LEARNED = r"(params|opt_state|ema|teacher)/.*"
REPLICATED: Rules = ((r".*", "whole"),)
SHARDED: Rules = ((LEARNED, "first"), (r".*", "whole"))
OVER_MODEL: Rules = ((LEARNED, "model"), (r".*", "whole"))
LEAST = 1024  # elements: smaller arrays are not worth a message


def data_mesh(devices: list[jax.Device] | None = None, *, model: int = 1) -> Mesh:
    """A mesh `data` x `model` of all devices (or the given ones).

    Args:
        devices: neighbours among them are neighbours along `model`.
        model: how many of them lie along `model`.

    Raises:
        UserError: `model` does not divide their number.
    """
    devices = jax.devices() if devices is None else devices
    if model < 1 or len(devices) % model:
        allowed = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise UserError(
            f"train.model-devices is {model}, but must divide the number of devices "
            f"({len(devices)}): {', '.join(map(str, allowed))}"
        )
    shape = len(devices) // model, model
    return jax.make_mesh(shape, EXAMPLES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def candidates_mesh(
    devices: list[jax.Device], candidates: int, *, params: Any = None
) -> Mesh | None:
    """A mesh `candidates` x `data` x `model`: as many groups of devices as there is work for.

    Args:
        devices: all of them.
        candidates: how many are evaluated.
        params: where they are split, the devices that hold a copy together are in one group, and
            the axes over which they are split are as long as on their own mesh.

    Returns:
        The mesh, or None for fewer than two devices.
    """
    if len(devices) < 2:
        return None
    places = [x.sharding for x in jax.tree.leaves(params) if splits_of(x)]
    used = {axis for place in places for axis in _names(place.spec) if place.mesh.shape[axis] > 1}
    model = places[0].mesh.shape["model"] if places else 1
    copies = 1 if "data" in used else len(devices) // model
    groups = max(n for n in range(1, copies + 1) if copies % n == 0 and n <= candidates)
    # In the given order, so that parameters which are split need not move.
    placed = np.array(devices, object).reshape(groups, -1, model)
    return Mesh(placed, ("candidates", *EXAMPLES), axis_types=(AxisType.Auto,) * 3)


def devices_of(x: Any) -> list[jax.Device]:
    """The devices of the mesh on which an array lies; none for other arrays."""
    place = x.sharding if isinstance(x, jax.Array) else None
    return list(place.mesh.devices.flat) if isinstance(place, NamedSharding) else []


def splits_of(tree: Any) -> tuple[PartitionSpec, ...]:
    """How arrays of a mesh are split: a spec for each leaf, or nothing where all are whole."""
    places = [x.sharding if isinstance(x, jax.Array) else None for x in jax.tree.leaves(tree)]
    if all(place is None or place.is_fully_replicated for place in places):
        return ()
    return tuple(p.spec if isinstance(p, NamedSharding) else PartitionSpec() for p in places)


def _names(spec: Any) -> list[str]:
    """The mesh axes that a spec names."""
    each = [() if axes is None else (axes,) if isinstance(axes, str) else axes for axes in spec]
    return [axis for axes in each for axis in axes]


def moved(mesh: Mesh, tree: Any, *, axis: int = 0) -> Any:
    """Arrays of a mesh put on another of the same devices, `axis` of each split as images are."""
    place = NamedSharding(mesh, PartitionSpec(*(None,) * axis, EXAMPLES))
    return jax.jit(_same, out_shardings=place)(tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The sharding of what has images along its first axis."""
    return NamedSharding(mesh, PartitionSpec(EXAMPLES))


def split(mesh: Mesh, tree: Any, *, axis: int = 0, over: str | tuple[str, ...] = EXAMPLES) -> Any:
    """Puts host arrays on the mesh, `axis` of each split over the mesh axes `over`."""
    spec = PartitionSpec(*(None,) * axis, over)
    return jax.tree.map(lambda x: _put(np.asarray(x), NamedSharding(mesh, spec)), tree)


def place(mesh: Mesh, shapes: Any, *, rules: Rules, least: int = LEAST) -> Any:
    """Where each array of a tree lives, chosen by its path.

    A rule is one of these:

    - a tuple with the mesh axes over which each axis of the array is split, as `PartitionSpec` has
      them: `(None, None, None, "model")`, `(("data", "model"),)`; axes that are left out are whole.
    - an axis of the array, as an integer, which is split over all devices.
    - "first": over all devices, along the first axis that their number divides, so that parts are
      contiguous, and gathering them moves nothing else. Where there is none, one axis is split over
      `model` and another over `data`, as far as they divide.
    - "largest": the same along the largest axis.
    - "model": as "first", over `model` alone.
    - "whole": every device has all of it.

    With a word, arrays of fewer than `least` elements are whole.

    Args:
        mesh: the devices.
        shapes: pytree of arrays or `jax.ShapeDtypeStruct`.
        rules: the first whose expression matches a whole path decides.
        least: elements.

    Returns:
        The same tree, of `NamedSharding`.

    Raises:
        UserError: a path that no rule matches, or a rule that is none or does not fit an array.
    """
    chosen = path_rules.param_groups(shapes, groups=tuple((p, (rule,)) for p, rule in rules))

    def one(path: Any, leaf: Any, rule: tuple[Rule]) -> NamedSharding:
        name = path_rules.name_of(path)
        return NamedSharding(mesh, PartitionSpec(*_spec(mesh, name, leaf.shape, rule[0], least)))

    return jax.tree_util.tree_map_with_path(one, shapes, chosen)


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...], rule: Rule, least: int) -> Spec:
    """How a rule splits an array; see `place`."""
    names = tuple(axis for axis in EXAMPLES if mesh.shape[axis] > 1)
    if isinstance(rule, int) and rule >= 0:
        rule = (*(None,) * rule, names if len(names) != 1 else names[0])
    if isinstance(rule, tuple):
        _check_spec(mesh, name, shape, rule)
        return rule
    if rule not in ("first", "largest", "model", "whole"):
        raise UserError(
            f"a rule for {name} is {rule!r}, but must be 'first', 'largest', 'model', 'whole', or "
            "a tuple with a mesh axis, several, or None for each axis of the array"
        )
    if rule == "whole" or math.prod(shape) < least:
        return ()
    names = tuple(axis for axis in names if rule != "model" or axis == "model")
    spec: list[str | tuple[str, ...] | None] = [None] * len(shape)
    for over in dict.fromkeys([names, *((axis,) for axis in reversed(names))]):
        size = math.prod(mesh.shape[axis] for axis in over)
        free = [i for i, n in enumerate(shape) if n % size == 0 and spec[i] is None]
        if not over or not free:
            continue
        best = max(free, key=lambda i: (shape[i], i)) if rule == "largest" else free[0]
        spec[best] = over if len(over) > 1 else over[0]
        if over == names:
            break
    while spec and spec[-1] is None:
        spec.pop()
    return tuple(spec)


def _check_spec(mesh: Mesh, name: str, shape: tuple[int, ...], spec: Spec) -> None:
    """Raises a `UserError` unless an array can be split so."""
    over = [() if axes is None else (axes,) if isinstance(axes, str) else axes for axes in spec]
    used, known = _names(spec), mesh.axis_names
    if set(used) - set(known) or len(set(used)) < len(used):
        raise UserError(
            f"a rule splits {name} as {spec}; name axes of the mesh, which are "
            f"{' and '.join(map(repr, known))}, each at most once"
        )
    for axis, axes in enumerate(over):
        size = math.prod(mesh.shape[each] for each in axes)
        if axis >= len(shape) or shape[axis] % size:
            raise UserError(
                f"a rule splits axis {axis} of {name}, whose shape is {shape}, over {size} "
                "devices; name an axis that they divide, or 'first', which finds one"
            )


def gathered(tree: Any, where: Any) -> Any:
    """Split arrays made whole on every device, inside jit; their gradients come back split.

    Args:
        tree: pytree of arrays.
        where: how they are split: the same tree, of `NamedSharding`; None leaves them as they are.
    """
    if not any_split(where):
        return tree
    # In a `shard_map` over some axes of a mesh, the others are those that it still has.
    inside = jax.sharding.get_abstract_mesh()
    place = jax.tree.leaves(where)[0]
    mesh = place.mesh if inside.empty else inside
    whole = NamedSharding(mesh, PartitionSpec())
    split = jax.tree.map(lambda place: NamedSharding(mesh, place.spec), where)

    def one(x: jax.Array, place: NamedSharding) -> jax.Array:
        # Without axes of length 1, which cost a copy: the compiler moves what it gathers over to
        # the front, and does not see that nothing moves.
        spec = (*place.spec, *(None,) * x.ndim)
        parts = PartitionSpec(*(axes for n, axes in zip(x.shape, spec, strict=False) if n > 1))
        flat = x.reshape([n for n in x.shape if n > 1])
        flat = jax.lax.with_sharding_constraint(flat, NamedSharding(mesh, parts))
        return jax.lax.with_sharding_constraint(flat, whole).reshape(x.shape)

    @jax.custom_vjp
    def gather(tree: Any) -> Any:
        return jax.tree.map(one, tree, split)

    gather.defvjp(
        lambda tree: (gather(tree), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, split),),
    )
    return gather(tree)


def scattered(tree: Any, where: Any) -> Any:
    """Arrays that are whole on every device split, inside jit; see `gathered`."""
    return jax.lax.with_sharding_constraint(tree, where) if any_split(where) else tree


def any_split(where: Any) -> bool:
    """Whether some of the places of a tree are parts."""
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
        return jax.lax.psum(sums, EXAMPLES), each

    def mapped(params: Any, *parts: Any) -> Any:
        specs = (PartitionSpec(), *(PartitionSpec(EXAMPLES),) * len(parts))
        out = PartitionSpec(), PartitionSpec(EXAMPLES)
        run = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        return run(params, *parts)

    return mapped


def bytes_per_device(shapes: Any, places: Any) -> int:
    """Of arrays that live so, on the first device."""

    def one(leaf: Any, where: NamedSharding) -> int:
        return math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, shapes, places)))


def own_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Which places of a batch of `count`, split over the mesh, this process has: int64, ascending.

    A process reads only these from disk.
    """
    places = over_data(mesh).addressable_devices_indices_map((count,))
    slices = [index[0] for index in places.values() if index is not None]
    return np.unique(np.concatenate([np.arange(count)[part] for part in slices]))


def split_rows(mesh: Mesh, tree: Any, *, rows: np.ndarray, count: int) -> Any:
    """Puts the own rows (see `own_rows`) of host arrays on the mesh, as a batch of `count`."""
    sharding = over_data(mesh)

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


def check_divides(name: str, batch: int, devices: int) -> None:
    """Raises a `UserError` unless `batch` images split evenly over so many devices."""
    if batch % devices:
        low, high = batch // devices * devices, -(-batch // devices) * devices
        raise UserError(
            f"{name} is {batch}, which does not split over {devices} devices; "
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
