"""How long each kind of block of a space takes on this machine, as a cost for searches."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation import latency_table
from supernet_jax.evaluation.latency_table import Conditions, Table
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.experiment.space_facts import space_of
from supernet_jax.networks import extract, timing
from supernet_jax.networks.formats import onnx_timing, table
from supernet_jax.networks.timing import Engine
from supernet_jax.runtime import cache, progress
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import Size


def latency(
    space: Space | Run | Config | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    batch: int = 1,
    resolutions: Sequence[int] = (),
    archs: int = 30,
    rounds: int = 15,
    runtime: Literal["jit", "onnx"] = "jit",
) -> Table:
    """Measures what a latency table lacks, and how well blocks add up to networks.

    Args:
        space: a space, a run or a configuration that has one, its name, or a config file.
        path: JSON file of the table. What is in it is not measured again, so that an interrupted
            call goes on.
        batch: images per call, at least 1.
        resolutions: measure only these, pixels; without, all of the space.
        archs: whole networks on which the sum over blocks is checked, at least 3; 10 more
            calibrate it.
        rounds: how often each program is visited, at least 3; more make a steadier median.
        runtime: what runs the programs: "jit" (JAX on its default device) or "onnx" (ONNX Runtime
            on the CPU).

    Returns:
        The table, which `search` takes as its `cost`.

    Raises:
        UserError: a setting is not allowed; the table that is there is of other conditions.
    """
    for name, value, low in (("--batch", batch, 1), ("--archs", archs, 3), ("--rounds", rounds, 3)):
        at_least(name, value, low)
    cache.enable()
    engine = _engine(runtime)
    space = space_of(space)
    sizes = _resolutions(space, resolutions)
    path = expanded(path)
    table = _begin(path, space, batch, engine)
    for pick in (choices.smallest, choices.largest):
        made = extract.module(space, pick(space.menu))  # to fail now rather than after the blocks
        if runtime == "onnx":
            onnx_timing.check(made)
    how = {"batch": batch, "rounds": rounds, "engine": engine}
    table = _measure_kinds(table, space, sizes, path, how)
    return _write(path, _check(table, space, sizes, archs, path, how))


def _engine(runtime: str) -> Engine:
    if runtime == "jit":
        return timing.JIT
    table.chosen([runtime], pixels=False, size=None)  # whose packages must be there
    return onnx_timing.engine()


def _resolutions(space: Space, asked: Sequence[int]) -> tuple[Size, ...]:
    unknown = [r for r in asked if r not in space.sizes]
    if unknown:
        raise UserError(
            f"--resolutions has {unknown[0]}, but space {space.name} offers "
            f"{', '.join(map(str, space.sizes))}"
        )
    return tuple(size for size in space.sizes if not asked or size in asked)


def _begin(path: pathlib.Path, space: Space, batch: int, engine: Engine) -> Table:
    """The table that is there, if it was measured under the same conditions, or an empty one."""
    here = timing.conditions(space, batch=batch, engine=engine)
    if not files.exists(path):
        files.check_free("--out", path)
        return Table(latency_table.FORMAT, latency_table.VERSION, here, {}, {}, None)
    table = _same_conditions(path, here)
    if not files.is_writable(path.absolute().parent):
        raise UserError(f"this user cannot write to the folder of {path}; choose another --out")
    return table


def _measure_kinds(
    table: Table,
    space: Space,
    sizes: Sequence[Size],
    path: pathlib.Path,
    how: Mapping[str, Any],
) -> Table:
    wanted = latency_table.kinds(space, sizes)
    todo = {name: kind for name, kind in wanted.items() if name not in table.kinds}
    if not todo:
        return table
    done = len(wanted) - len(todo)
    with progress.bar("blocks", len(wanted), done=done, unit="kind") as advance:
        for more in timing.kinds(todo, on_ready=advance, **how):
            table = dataclasses.replace(table, kinds={**table.kinds, **more})
            table = _write(path, table)
    return table


def _check(
    table: Table,
    space: Space,
    sizes: Sequence[Size],
    archs: int,
    path: pathlib.Path,
    how: Mapping[str, Any],
) -> Table:
    """Measures whole networks, and calibrates the sum over their blocks."""
    fitted, checked = timing.archs(space, sizes, archs)
    wanted = [*fitted, *checked]
    todo = [arch for arch in wanted if timing.notation(space, arch) not in table.networks]
    done = len(wanted) - len(todo)
    if todo:
        with progress.bar("networks", len(wanted), done=done, unit="network") as advance:
            for more in timing.networks(space, todo, on_ready=advance, **how):
                table = dataclasses.replace(table, networks={**table.networks, **more})
                table = _write(path, table)
    known = timing.calibration(space, table, fitted, checked, sizes)
    return dataclasses.replace(table, calibration=known)


def _write(path: pathlib.Path, table: Table) -> Table:
    """Adds what was measured to what others have written there since; all of it."""
    with files.alone(path.absolute().parent):
        if files.exists(path):
            there = _same_conditions(path, table.conditions)
            table = dataclasses.replace(
                table,
                kinds={**there.kinds, **table.kinds},
                networks={**there.networks, **table.networks},
                calibration=table.calibration or there.calibration,
            )
        files.write_json(path, dataclasses.asdict(table))
    return table


def _same_conditions(path: pathlib.Path, here: Conditions) -> Table:
    """The table that is there.

    Raises:
        UserError: it cannot be read, or was measured under other conditions.
    """
    table = latency_table.read(path)
    differing = latency_table.differences(table.conditions, here)
    if differing:
        raise UserError(
            f"{path} was measured under other conditions ({'; '.join(differing)}), and latencies "
            "do not mix; choose another --out"
        )
    return table
