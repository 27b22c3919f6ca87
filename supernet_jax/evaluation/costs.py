"""What a subnet costs: exact MACs and parameters, and latency, vectorised over archs.

A `Cost` is a pure function of archs with any batch axes. Costs of a network are sums over its
blocks, so one table per block, built once from the modules themselves, answers for every arch:
NumPy archs give exact int64, JAX archs (also inside jit) exact int32 where the space's largest cost
fits and float32 otherwise.

MACs are those of all products, batch 1, those of attention included: no
bias, normalisation, activation, pooling, resize or addition. That is the published counting rule;
`nn.macs` counts them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.space import Geometry, Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import latency_table
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import owned
from supernet_jax.tasks import Size

Cost = Callable[[Arch], Any]


def macs(space: Space) -> Cost:
    """Multiply-accumulates of one example at the arch's own size: `arch[...] -> [...]`.

    Raises:
        UserError: it is no space.
    """
    _check_is_space(space)
    return functools.partial(_lookup_sum, space, _mac_tables(space), tied=False)


def parameters(space: Space) -> Cost:
    """Parameters of the subnet, norms and biases included: `arch[...] -> [...]`.

    Blocks that share parameters count once, as the largest of those that the arch keeps.

    Raises:
        UserError: it is no space.
    """
    _check_is_space(space)
    return functools.partial(_lookup_sum, space, _parameter_tables(space), tied=True)


def union_macs(space: Space) -> int:
    """Multiply-accumulates of one example through all blocks at their largest, at the largest
    size of inputs: no subnet has more. Quick, as it needs no table of specs.
    """
    places = elastic_space.geometry(space, space.sizes[-1]).values()
    return sum(place.shapes.macs for place in places)


def _check_is_space(space: Any) -> None:
    if not isinstance(space, Space):
        raise UserError(
            f"costs are of a space, as run.space, but a {type(space).__name__} was given"
        )


def latency(
    space: Space,
    table: latency_table.Table,
    *,
    sizes: Sequence[Size] | None = None,
    calibrated: bool = True,
) -> Cost:
    """Milliseconds of one batch, by a measured table: `arch[...] -> [...]`, floating.

    Calibrated and of NumPy archs in whole nanoseconds: printed or written with six digits after the
    point, it is the cost itself, and as a bound includes its own arch.

    Args:
        space: whose archs.
        table: as `supernet latency` writes it and `latency_table.read` reads it.
        sizes: of inputs; archs of others cost NaN, which no budget allows. None means all of
            the space.
        calibrated: whether the sum over the blocks is scaled and the constant of a network added.

    Raises:
        UserError: the table lacks kinds of block of the space, or is not finished.
    """
    tables = latency_table.block_tables(space, table, sizes=sizes)
    if not calibrated:
        return functools.partial(_lookup_sum, space, tables, tied=False)
    known = table.calibration
    if known is None:
        raise UserError(
            "the latency table is not finished; give the `supernet latency` command that began it "
            "again, and it goes on"
        )
    scaled = {name: known.scale * milliseconds for name, milliseconds in tables.items()}
    return lambda arch: _nanoseconds(known.constant + _lookup_sum(space, scaled, arch, tied=False))


def _nanoseconds(ms: Any) -> Any:
    """Milliseconds in whole nanoseconds; float32 has not the digits, and stays as it is."""
    return ms if isinstance(ms, jax.Array) else np.round(ms, 6)


@owned.by(owned.first)
def _mac_tables(space: Space) -> dict[str, np.ndarray]:
    """Per block MACs `[sizes, specs]`, int64; 0 for specs that a block cannot have at a size."""
    return _tables(space, _spec_macs)


def _tables(
    space: Space, of_specs: Callable[[Geometry, Geometry | None], list[int]]
) -> dict[str, np.ndarray]:
    """What `of_specs` says of the specs of a block at a size, also given the same block at the
    first size, if it has the same specs there.
    """
    first = elastic_space.geometry(space, space.sizes[0])
    tables = {
        name: np.zeros((len(space.sizes), len(space.blocks[name].specs)), np.int64)
        for name in first
    }
    for row, size in enumerate(space.sizes):
        for name, place in elastic_space.geometry(space, size).items():
            specs = space.blocks[name].specs
            which = [specs.index(spec) for spec in place.block.specs]
            alike = row > 0 and place.block is first[name].block
            tables[name][row, which] = of_specs(place, first[name] if alike else None)
    return tables


def _spec_macs(place: Geometry, first: Geometry | None) -> list[int]:
    union, at = place.shapes, place.shapes.positions
    kernels = _kernels(union.params)
    if first is None or union.macs > sum(n * at[layer] for layer, n in kernels.items()):
        return [own.macs for own in _spec_shapes(place)]
    # Kernels alone: each is applied at as many places in a small spec as in the union, which
    # spares tracing every spec at every size.
    own = [_kernels(shapes.params) for shapes in _spec_shapes(first)]
    return [sum(n * at[layer] for layer, n in kernels.items()) for kernels in own]


def _spec_parameters(place: Geometry) -> list[int]:
    trees = [jax.tree.leaves(shapes.params) for shapes in _spec_shapes(place)]
    return [sum(math.prod(leaf.shape) for leaf in leaves) for leaves in trees]


def _spec_shapes(place: Geometry) -> list[block_shapes.BlockShapes]:
    block = place.block
    return [elastic_block.shapes(block, spec, place.inputs) for spec in block.specs]


def _kernels(shapes: block_shapes.Shapes) -> dict[tuple[str, ...], int]:
    """Size of each layer's kernel, by the layer's path."""
    flat = flax.traverse_util.flatten_dict(shapes)
    return {path[:-1]: math.prod(s.shape) for path, s in flat.items() if path[-1] == "kernel"}


@owned.by(owned.first)
def _parameter_tables(space: Space) -> dict[str, np.ndarray]:
    """Per block parameters `[sizes, specs]`, int64; 0 as in `_mac_tables`."""
    return _tables(space, lambda place, first: _spec_parameters(place if first is None else first))


def _lookup_sum(
    space: Space, tables: dict[str, np.ndarray], arch: Arch, *, tied: bool
) -> Array | np.ndarray:
    """Sum over the blocks that an arch keeps; `tied` ones of a group count as their largest."""
    choices.require_arch(arch)
    traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(arch))
    if traced:
        arch = jax.tree.map(jnp.asarray, arch)
        counts = all(table.dtype == np.int64 for table in tables.values())
        fits = counts and sum(int(table.max()) for table in tables.values()) < 2**31
        dtype = jnp.int32 if fits else jnp.float32
    which = space.which_size(arch)
    parts: dict[str, Any] = {}
    for name, table in tables.items():
        block, owner = space.blocks[name], elastic_space.group(space, name) if tied else name
        values = jnp.asarray(table.astype(dtype)) if traced else table
        cost = values[which, block.index(arch)]
        cost = cost if block.alive is None else cost * block.alive(arch)
        if owner in parts:
            cost = (jnp if traced else np).maximum(parts[owner], cost)
        parts[owner] = cost
    return sum(parts.values())
