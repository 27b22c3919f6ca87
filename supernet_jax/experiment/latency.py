"""How long each kind of block of a space takes on this machine, as a cost for searches."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from supernet_jax.elastic import choices, notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.latency_table import Conditions, Table
from supernet_jax.experiment import latency_correction
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

LEAST_ADAPTED = 10  # networks: of fewer, a fold leaves too little to learn from


def latency(
    space: Space | Run | Config | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    batch: int = 1,
    resolutions: Sequence[int] = (),
    archs: int = 30,
    rounds: int = timing.ROUNDS,
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


def adapt(
    space: Space | Run | Config | str | os.PathLike[str],
    table: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    networks: int = 32,
    rounds: int = timing.ROUNDS,
) -> Table:
    """Measures whole networks, and corrects a latency table by them where that helps.

    Args:
        space: of the table: a space, a run or a configuration that has one, its name, or a config
            file.
        table: JSON file of a finished table, which stays as it is.
        path: JSON file of the adapted table. What is in it is not measured again, so that an
            interrupted call goes on; a round of visits is lost at most.
        networks: how many to learn from, at least `LEAST_ADAPTED`; other ones than those of the
            table.
        rounds: how often each is visited, at least 3.

    Returns:
        The adapted table; its `correction` says what was learnt, and whether it is applied.

    Raises:
        UserError: a setting is not allowed; the table is not finished, adapted already, of another
            space or of another machine; there are too few networks.
    """
    at_least("--adapt", networks, LEAST_ADAPTED)
    at_least("--rounds", rounds, 3)
    cache.enable()
    space, source, path = space_of(space), expanded(table), expanded(path)
    base = latency_table.read(source)
    if _is_adapted(base):
        raise UserError(f"{source} is adapted already; adapt the table that it was made of")
    known = base.calibration
    if known is None:
        raise UserError(
            f"the latency table {source} is not finished; give the `supernet latency` command that "
            "began it again, and it goes on"
        )
    engine = engine_of(base)
    here = timing.conditions(space, batch=base.conditions.batch, engine=engine)
    _same_conditions(source, here, remedy="adapt a table of this space on the machine it is of")
    sizes = [size for size in space.sizes if size in latency_table.sizes_of(known)]
    cost = costs.latency(space, base, sizes=sizes)
    theirs = [notation.from_notation(space.menu, json.loads(name)) for name in base.networks]
    archs = timing.spread(space, sizes, cost, networks, without=theirs)
    if len(archs) < LEAST_ADAPTED:
        raise UserError(
            f"--adapt needs {LEAST_ADAPTED} networks that the table has not measured, and space "
            f"{space.name} has {len(archs)}"
        )
    begun = _begun(path, here)
    made = dataclasses.replace(
        base,
        networks={**({} if begun is None else begun.networks), **base.networks},
        visits={} if begun is None else begun.visits,
        calibration=None,
    )
    made = _measure_networks(made, space, archs, rounds, engine, path)
    made = dataclasses.replace(made, visits={}, calibration=known)
    made = latency_correction.learn(space, made, archs, sizes)
    files.write_json(path, dataclasses.asdict(made))
    return made


def _begun(path: pathlib.Path, here: Conditions) -> Table | None:
    """What an interrupted call left."""
    if not files.exists(path):
        files.check_free("--out", path)
        return None
    if not _is_adapted(found := _same_conditions(path, here)):
        raise UserError(f"{path} is a table that is not adapted; choose another --out")
    return found


def _is_adapted(table: Table) -> bool:
    return bool(table.visits) or table.correction is not None


def _measure_networks(
    table: Table,
    space: Space,
    archs: Sequence[Arch],
    rounds: int,
    engine: Engine,
    path: pathlib.Path,
) -> Table:
    """The table with timings of all those networks; each round of visits is kept."""
    todo = [arch for arch in archs if timing.notation(space, arch) not in table.networks]
    with progress.bar("networks", len(archs), done=len(archs) - len(todo), unit="network") as on:
        for more in timing.visits(
            space,
            todo,
            batch=table.conditions.batch,
            rounds=rounds,
            known=table.visits,
            engine=engine,
            on_ready=on,
        ):
            table = dataclasses.replace(table, visits=timing.joined(table.visits, more))
            files.write_json(path, dataclasses.asdict(table))
    names = [timing.notation(space, arch) for arch in todo]
    found = {name: timing.of_visits(table.visits[name]) for name in names}
    return dataclasses.replace(table, networks={**table.networks, **found})


def engine_of(table: Table) -> Engine:
    """What runs programs as they were run for a table."""
    return _engine("jit" if table.conditions.engine == timing.JIT.name else "onnx")


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
    if _is_adapted(table):
        raise UserError(
            f"{path} is an adapted table, to which nothing is added; measure into the table that "
            "it was made of, and adapt that again"
        )
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


def _same_conditions(
    path: pathlib.Path, here: Conditions, remedy: str = "choose another --out"
) -> Table:
    """The table that is there.

    Raises:
        UserError: it cannot be read, or was measured under other conditions.
    """
    table = latency_table.read(path)
    differing = latency_table.differences(table.conditions, here)
    if differing:
        raise UserError(
            f"{path} was measured under other conditions ({'; '.join(differing)}), and latencies "
            f"do not mix; {remedy}"
        )
    return table
