"""`supernet latency`: measure how long each kind of block takes here, as a cost for searches."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import rich.console
import rich.table
import tyro

from supernet_jax.cli import shared
from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import latency_table
from supernet_jax.evaluation.latency_table import Calibration, Conditions, Table
from supernet_jax.networks import extract, timing
from supernet_jax.networks.formats import onnx_timing, table
from supernet_jax.networks.timing import Engine
from supernet_jax.runtime import progress
from supernet_jax.storage import files

EXAMPLES = """
supernet latency digits --out latency.json
supernet latency configs/cifar10.py --batch 8 --out latency.json
supernet latency attentivenas --resolutions 192 --out latency.json
supernet latency configs/cifar10.py --runtime onnx --out latency-onnx.json
The same command again goes on where an interrupted one stopped."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure the latency of each kind of block of a space on this machine."""

    space: Annotated[str, tyro.conf.Positional]
    """attentivenas | ofa_mobilenetv3 | cifar | ofa_small | digits | a config file"""
    out: pathlib.Path
    """JSON file of the table; what it lacks is added"""
    batch: int = 1
    """images per call"""
    resolutions: tuple[int, ...] = ()
    """measure only these, pixels (default: all of the space)"""
    archs: int = 30
    """whole networks on which the sum over blocks is checked; 10 more calibrate it"""
    rounds: int = 15
    """how often each program is visited"""
    runtime: Literal["jit", "onnx"] = "jit"
    """what runs the programs: JAX on its default device, or ONNX Runtime on the CPU"""


def run(arguments: Arguments) -> None:
    """Measures what the table lacks, and prints how well blocks add up to networks."""
    for name, value, low in (
        ("--batch", arguments.batch, 1),
        ("--archs", arguments.archs, 3),
        ("--rounds", arguments.rounds, 3),
    ):
        shared.at_least(name, value, low)
    engine = _engine(arguments.runtime)
    space = shared.space_of(arguments.space)
    resolutions = _resolutions(space, arguments.resolutions)
    table = _begin(arguments.out, space, arguments.batch, engine)
    for pick in (choices.smallest, choices.largest):
        made = extract.module(space, pick(space.menu))  # to fail now rather than after the blocks
        if arguments.runtime == "onnx":
            onnx_timing.check(made)
    table = _measure_kinds(table, space, resolutions, arguments, engine)
    table = _check(table, space, resolutions, arguments, engine)
    _write(arguments.out, table)
    _print(table)
    print(f"wrote {arguments.out}: {len(table.kinds)} kinds of block")
    print(f"next: supernet search RUN --cost latency:{arguments.out} --high MILLISECONDS")


def _engine(runtime: str) -> Engine:
    if runtime == "jit":
        return timing.JIT
    table.chosen([runtime], pixels=False, size=None)  # whose packages must be there
    return onnx_timing.engine()


def _resolutions(space: Space, asked: Sequence[int]) -> tuple[int, ...]:
    unknown = [r for r in asked if r not in space.resolutions]
    if unknown:
        raise UserError(
            f"--resolutions has {unknown[0]}, but space {space.name} offers "
            f"{', '.join(map(str, space.resolutions))}"
        )
    return tuple(sorted(set(asked))) or space.resolutions


def _begin(path: pathlib.Path, space: Space, batch: int, engine: Engine) -> Table:
    """The table that is there, if it was measured under the same conditions, or an empty one."""
    here = timing.conditions(space, batch=batch, engine=engine)
    if not os.path.lexists(path):
        shared.check_writable("--out", path)
        return Table(latency_table.FORMAT, latency_table.VERSION, here, {}, {}, None)
    table = _same_conditions(path, here)
    if not files.is_writable(path.absolute().parent):
        raise UserError(f"this user cannot write to the folder of {path}; choose another --out")
    return table


def _measure_kinds(
    table: Table,
    space: Space,
    resolutions: Sequence[int],
    arguments: Arguments,
    engine: Engine,
) -> Table:
    wanted = latency_table.kinds(space, resolutions)
    todo = {name: kind for name, kind in wanted.items() if name not in table.kinds}
    if not todo:
        return table
    done = len(wanted) - len(todo)
    how: dict[str, Any] = {
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "engine": engine,
    }
    with progress.bar("blocks", len(wanted), done=done, unit="kind") as advance:
        for more in timing.kinds(todo, on_ready=advance, **how):
            table = dataclasses.replace(table, kinds={**table.kinds, **more})
            table = _write(arguments.out, table)
    return table


def _check(
    table: Table,
    space: Space,
    resolutions: Sequence[int],
    arguments: Arguments,
    engine: Engine,
) -> Table:
    """Measures whole networks, and calibrates the sum over their blocks."""
    fitted, checked = timing.archs(space, resolutions, arguments.archs)
    wanted = [*fitted, *checked]
    todo = [arch for arch in wanted if timing.notation(space, arch) not in table.networks]
    done = len(wanted) - len(todo)
    how: dict[str, Any] = {
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "engine": engine,
    }
    if todo:
        with progress.bar("networks", len(wanted), done=done, unit="network") as advance:
            for more in timing.networks(space, todo, on_ready=advance, **how):
                table = dataclasses.replace(table, networks={**table.networks, **more})
                table = _write(arguments.out, table)
    known = timing.calibrate(space, table, fitted, checked, resolutions)
    return dataclasses.replace(table, calibration=known)


def _write(path: pathlib.Path, table: Table) -> Table:
    """Adds what was measured to what others have written there since; all of it."""
    with files.alone(path.absolute().parent):
        if os.path.lexists(path):
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


def _print(table: Table) -> None:
    known = table.calibration
    assert known is not None
    lines = rich.table.Table("milliseconds", "median error", "largest error", box=None)
    for label, middle, largest in _errors(known):
        lines.add_row(label, f"{middle:.1%}", f"{largest:.1%}")
    rich.console.Console().print(lines)
    pixels = ", ".join(map(str, known.resolutions))
    print(
        f"of {known.checked_on} random networks at {pixels} pixels ({known.fitted_on} others "
        f"calibrated it); rank correlation: Spearman {known.spearman:.3f}, Kendall "
        f"{known.kendall:.3f}; a network's own timings spread by {known.spread:.1%}"
    )
    print(f"measured: {latency_table.provenance(table)}")


def _errors(known: Calibration) -> Iterator[tuple[str, float, float]]:
    yield "sum over blocks", known.plain_median_error, known.plain_largest_error
    label = f"{known.constant:.4g} + {known.scale:.4g} x sum"
    yield label, known.median_error, known.largest_error
