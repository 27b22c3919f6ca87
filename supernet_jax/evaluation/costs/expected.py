"""The expected cost of a code: what a differentiable search can lower."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Array, Code, Path
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs.block_tables import BlockCost, BlockTables
from supernet_jax.evaluation.costs.cost import Cost

LARGEST = 2**22  # numbers in the table of blocks whose costs are no sum


@dataclasses.dataclass(frozen=True, eq=False)
class Expected:
    """The mean cost of the archs that a code stands for: `code -> float32 []`, no batch axes.

    Attributes:
        tables: for each block, or for those that are one, the decisions that it depends on, and its
            cost for each combination of their options: float64 `[O_1, ..., O_k]`. The mean is the
            sum over tables, each a product with the weights of its decisions.
        constant: what is added.
    """

    tables: tuple[tuple[tuple[Path, ...], np.ndarray], ...]
    constant: float

    def __call__(self, code: Code) -> Array:
        """The mean, differentiable in the code; works inside jit."""
        if not choices.is_code(code):
            raise UserError(
                "an expected cost is that of a code, the weights of each option, but an arch was "
                "given; choices.one_hot(menu, arch) is its code"
            )
        start = jnp.float32(self.constant)
        return sum((_mean(code, *one) for one in self.tables), start=start)


def expected(cost: Cost) -> Expected:
    """The mean of a cost over the archs that a code stands for, its decisions independent.

    It is differentiable in the code, and for a one-hot code it is the cost of its arch, as float32
    has it: FBNet's expected latency (arXiv 1812.03443, equation 7), for any cost that is made of
    costs of blocks.

    Args:
        cost: of a space, as `costs.macs(space)` or `costs.latency(space, table)`.

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
    tables = [
        _table(space, made._replace(tables={n: made.tables[n] for n in names}, constant=0))
        for names in parts.values()
    ]
    return Expected(tuple(tables), made.constant)


def _mean(code: Code, paths: Sequence[Path], table: np.ndarray) -> Array:
    left = jnp.asarray(table, jnp.float32)
    for path in paths:
        weights = choices.get(code, path).astype(jnp.float32)
        left = jnp.tensordot(weights, left, 1, precision=jax.lax.Precision.HIGHEST)
    return left


def _table(space: Space, made: BlockTables) -> tuple[tuple[Path, ...], np.ndarray]:
    """The cost of some blocks for all combinations of the decisions that it depends on."""
    asked: dict[Path, None] = dict.fromkeys(space.static)
    for name in made.tables:
        block = space.blocks[name]
        alive = () if block.alive is None else block.alive.paths
        asked |= dict.fromkeys((*block.index.paths, *alive))
    shape = [len(choices.get(space.menu, path)) for path in asked]
    if math.prod(shape) > LARGEST:
        raise UserError(
            f"the cost of {len(made.tables)} blocks together, as of {next(iter(made.tables))!r}, "
            f"depends on {math.prod(shape):,} combinations of options, and an expected cost has a "
            f"table of them of at most {LARGEST:,}; take a cost that is a sum over blocks, as "
            "costs.macs"
        )
    archs = choices.smallest(space.menu)
    for path, options in zip(asked, np.indices(shape, np.int32, sparse=True), strict=True):
        archs = choices.replace(archs, path, options)
    cost = BlockCost(space, made._replace(digits=None))(archs)
    return tuple(asked), np.broadcast_to(np.asarray(cost, np.float64), shape)
