"""Kernels in programs over several devices.

XLA cannot split a foreign call: left to itself it would gather the batch on every device. So
`jax.shard_map` runs the kernels, each device with its part of the batch. The mesh is found in the
type of an array: what is computed from arrays that lie on a mesh names it, under `jit` too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

Array = jax.Array
AXIS = "data"  # of a mesh: the one that batches are split over
SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()


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
    without an axis `data`, or whose axes are `AxisType.Explicit`; and where that axis does not
    divide the batch.
    """
    mesh = _mesh(x)
    if mesh.empty:
        return int(jax.device_count() == 1)
    axes = _by_compiler(mesh)
    if AxisType.Explicit in mesh.axis_types:
        return 0
    if not axes:
        return 1
    return mesh.shape[AXIS] if AXIS in axes and x.shape[0] % mesh.shape[AXIS] == 0 else 0


def on_parts(
    run: Callable[..., Any], x: Array, *operands: Array, places: tuple[PartitionSpec, ...], out: Any
) -> Any:
    """Runs `run(parts, *operands)` on each device's part of a batch.

    On one device, and within a `jax.shard_map` of the caller's over all axes, that is all there is.

    Args:
        run: what one device does.
        x: the batch whose type names the devices.
        operands: of `run`.
        places: of each operand, `SPLIT` along its first axis or `WHOLE`.
        out: likewise, of what `run` returns.
    """
    mesh = _mesh(x)
    axes = _by_compiler(mesh)
    if not axes:
        return run(WHOLE_BATCH, *operands)
    parts = Parts(mesh.shape[AXIS], lambda array: jax.lax.psum(array, AXIS))

    def on_part(*operands: Array) -> Any:
        return run(parts, *operands)

    mapped = jax.shard_map(
        on_part, mesh=mesh, in_specs=places, out_specs=out, axis_names=axes, check_vma=False
    )
    return mapped(*operands)


def _mesh(x: Array) -> AbstractMesh:
    return jax.typeof(x).sharding.mesh


def _by_compiler(mesh: AbstractMesh) -> set[str]:
    """The axes over which the compiler may split arrays, rather than the program."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in kinds if kind == AxisType.Auto and mesh.shape[name] > 1}
