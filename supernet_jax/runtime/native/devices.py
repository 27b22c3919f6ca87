"""Kernels in programs over several devices.

XLA cannot split a foreign call: left to itself it would gather the batch on every device. So
`jax.shard_map` runs the kernels, each device with its part of the batch. The mesh is found in the
type of an array: what is computed from arrays that lie on a mesh names it, under `jit` too.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

Array = jax.Array
AXES = ("data", "model")  # of a mesh: those that batches are split over, as far as it has them
Place = Literal["split", "whole"]
SPLIT: Place = "split"  # along the first axis of an array
WHOLE: Place = "whole"


class Parts(NamedTuple):
    """What a computation on a part of a batch may ask of the others.

    Attributes:
        number: how many parts there are, of equal size.
        total: the sum of an array over all parts.
    """

    number: int
    total: Callable[[Array], Array]


WHOLE_BATCH = Parts(1, lambda array: array)


def parts_of(x: Array) -> int:
    """In how many parts `on_parts` takes the batch `x`, `[B, ...]`; 0 where it cannot.

    It cannot where nothing says on how many of several devices the program will run; on a mesh
    without the axes of `AXES`, or where one is `AxisType.Explicit`; and where they do not divide
    the batch.
    """
    mesh = _mesh(x)
    if mesh.empty:
        return int(jax.device_count() == 1)
    axes = _by_compiler(mesh)
    if not axes:
        return int(AxisType.Explicit not in mesh.axis_types)
    number = _number(mesh, axes)
    fits = number > 1 and x.shape[0] % number == 0 and AxisType.Explicit not in mesh.axis_types
    return number if fits else 0


def on_parts(
    run: Callable[..., Any], x: Array, *operands: Array, places: tuple[Place, ...], out: Any
) -> Any:
    """Runs `run(parts, *operands)` on each device's part of a batch.

    On one device, and within a `jax.shard_map` of the caller's over all axes, that is all there is.

    Args:
        run: what one device does.
        x: the batch whose type names the devices.
        operands: of `run`.
        places: of each operand, `SPLIT` or `WHOLE`.
        out: likewise, of each array that `run` returns.
    """
    mesh = _mesh(x)
    axes = _by_compiler(mesh)
    if not axes:
        return run(WHOLE_BATCH, *operands)
    over = tuple(axis for axis in AXES if axis in axes)
    parts = Parts(_number(mesh, axes), lambda array: jax.lax.psum(array, over))
    in_specs, out_specs = jax.tree.map(
        lambda place: PartitionSpec(over) if place == SPLIT else PartitionSpec(), (places, out)
    )

    def on_part(*operands: Array) -> Any:
        return run(parts, *operands)

    mapped = jax.shard_map(
        on_part,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=axes,
        check_vma=False,
    )
    return mapped(*operands)


def _mesh(x: Array) -> AbstractMesh:
    return jax.typeof(x).sharding.mesh


def _number(mesh: AbstractMesh, axes: set[str]) -> int:
    return math.prod(mesh.shape[axis] for axis in AXES if axis in axes)


def _by_compiler(mesh: AbstractMesh) -> set[str]:
    """The axes over which the compiler may split arrays, rather than the program."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in kinds if kind == AxisType.Auto and mesh.shape[name] > 1}
