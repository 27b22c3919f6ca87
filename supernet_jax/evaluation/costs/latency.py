"""Latency, by a table of what blocks take on one machine, as `supernet latency` measures it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar

from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import latency_table
from supernet_jax.evaluation.costs.block_tables import BlockCost, BlockTables
from supernet_jax.evaluation.costs.cost import Cost, check_is_space
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import Size


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
        UserError: it is no space; the table lacks kinds of block of the space, or is not finished.
    """
    check_is_space(space)
    return BlockCost(space, _tables(space, table, sizes, calibrated))


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds of one batch on the machine where a table was measured."""

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    table: str = dataclasses.field(metadata={"path": True})
    """the JSON file that `supernet latency` wrote"""

    def build(self, space: Space) -> Cost:
        """The cost of a space's archs."""
        return latency(space, self._read())

    def tables(self, space: Space) -> BlockTables:
        """Of its blocks."""
        return _tables(space, self._read(), None, True)

    def _read(self) -> latency_table.Table:
        path: pathlib.Path = expanded(self.table)
        return latency_table.read(path)


def _tables(
    space: Space, table: latency_table.Table, sizes: Sequence[Size] | None, calibrated: bool
) -> BlockTables:
    milliseconds = latency_table.block_tables(space, table, sizes=sizes)
    if not calibrated:
        return BlockTables(milliseconds)
    known = table.calibration
    if known is None:
        raise UserError(
            "the latency table is not finished; give the `supernet latency` command that began it "
            "again, and it goes on"
        )
    scaled = {name: known.scale * ms for name, ms in milliseconds.items()}
    return BlockTables(scaled, constant=known.constant, digits=6)  # float32 has not so many
