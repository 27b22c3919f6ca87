"""The expected cost of a code: what a differentiable search can lower."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Array, Code, Lookup, Path
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs.block_tables import BlockCost
from supernet_jax.evaluation.costs.cost import Cost

LARGEST = 2**22  # numbers in the table of blocks whose costs are no sum


def expected(cost: Cost) -> Callable[[Code], Array]:
    """The mean of a cost over the archs that a code stands for, its decisions independent.

    It is differentiable in the code, and for a one-hot code it is the cost of its arch, as float32
    has it: FBNet's expected latency (arXiv 1812.03443, equation 7), for any cost that is made of
    costs of blocks.

    Args:
        cost: of a space, as `costs.macs(space)` or `costs.latency(space, table)`.

    Returns:
        `code -> float32 []`; no batch axes.

    Raises:
        UserError: the cost is not made of tables of blocks; the mean would need the cost of too
            many combinations, as where the largest of many blocks counts.
    """
    if not isinstance(cost, BlockCost):
        raise UserError(
            "an expected cost is made of the costs of blocks, as costs.macs, costs.parameters and "
            "costs.latency have them; this one has none"
        )
    space, made = cost.space, cost.made
    parts: dict[str, list[str]] = {}
    for name in made.tables:
        parts.setdefault(made.owner(space, name), []).append(name)
    tables = [_joint(space, made.tables, names) for names in parts.values()]

    def of(code: Code) -> Array:
        if not choices.is_code(code):
            raise UserError(
                "an expected cost is that of a code, the weights of each option, but an arch was "
                "given; choices.one_hot(menu, arch) is its code"
            )
        return sum((_mean(code, *one) for one in tables), start=jnp.float32(made.constant))

    return of


def _mean(code: Code, paths: Sequence[Path], table: np.ndarray) -> Array:
    left = jnp.asarray(table, jnp.float32)
    for path in paths:
        weights = choices.get(code, path).astype(jnp.float32)
        left = jnp.tensordot(weights, left, 1, precision=jax.lax.Precision.HIGHEST)
    return left


def _joint(
    space: Space, tables: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[tuple[Path, ...], np.ndarray]:
    """The largest cost of some blocks, by all the decisions that it depends on."""
    options = [len(choices.get(space.menu, path)) for path in space.static]
    size = Lookup(space.static, np.arange(math.prod(options)).reshape(options))
    asked: dict[Path, None] = dict.fromkeys(space.static)
    for name in names:
        block = space.blocks[name]
        alive = () if block.alive is None else block.alive.paths
        asked |= dict.fromkeys((*block.index.paths, *alive))
    paths = tuple(asked)
    shape = [len(choices.get(space.menu, path)) for path in paths]
    if math.prod(shape) > LARGEST:
        raise UserError(
            f"the cost of {len(names)} blocks together, as of {names[0]!r}, depends on "
            f"{math.prod(shape):,} combinations of options, and an expected cost has a table of "
            f"them of at most {LARGEST:,}; take a cost that is a sum over blocks, as costs.macs"
        )

    def over_all(lookup: Lookup) -> np.ndarray:
        order = [paths.index(path) for path in lookup.paths]
        return np.transpose(
            np.broadcast_to(
                lookup.table.reshape(*lookup.table.shape, *[1] * (len(paths) - len(order))),
                [shape[i] for i in order] + [n for i, n in enumerate(shape) if i not in order],
            ),
            np.argsort(order + [i for i in range(len(paths)) if i not in order]),
        )

    def one(name: str) -> np.ndarray:
        block = space.blocks[name]
        cost = tables[name][over_all(size), over_all(block.index)]
        return cost if block.alive is None else np.where(over_all(block.alive) > 0, cost, 0)

    return paths, functools.reduce(np.maximum, map(one, names))
