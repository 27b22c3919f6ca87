"""`supernet latency`: measure how long each kind of block takes here, as a cost for searches."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Annotated, Literal

import rich.console
import rich.table
import tyro

from supernet_jax.errors import UserError
from supernet_jax.evaluation import latency_table
from supernet_jax.evaluation.latency_table import Agreement, Calibration, Correction, Table
from supernet_jax.experiment import latency, space_facts

EXAMPLES = """
supernet latency digits --out latency.json
supernet latency configs/cifar10.py --batch 8 --out latency.json
supernet latency attentivenas --resolutions 192 --out latency.json
supernet latency configs/cifar10.py --runtime onnx --out latency-onnx.json
supernet latency configs/cifar10.py --table latency.json --adapt 32 --out adapted.json
The same command again goes on where an interrupted one stopped."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure the latency of each kind of block of a space on this machine."""

    space: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="SPACE", help=space_facts.SPACE_HELP)
    ]
    out: pathlib.Path
    """JSON file of the table; what a file that is there lacks is measured and added"""
    batch: int = 1
    """images per call"""
    resolutions: tuple[int, ...] = ()
    """measure only these resolutions, pixels; if none is given, all of the space"""
    archs: int = 30
    """whole networks that check the sum over blocks (10 more calibrate it); more take longer"""
    rounds: int = 15
    """visits of each program; more make a steadier median, and take longer"""
    runtime: Literal["jit", "onnx"] = "jit"
    """what runs the programs: JAX on its default device, or ONNX Runtime on the CPU"""
    table: pathlib.Path | None = None
    """JSON file of a finished table that --adapt corrects; it stays as it is"""
    adapt: int | None = None
    """correct --table by measuring so many whole networks, at least 10; more correct it better"""


def run(arguments: Arguments) -> None:
    """Measures what the table lacks, and prints how well blocks add up to networks."""
    if arguments.table is not None or arguments.adapt is not None:
        _adapt(arguments)
        return
    table = latency.latency(
        arguments.space,
        arguments.out,
        batch=arguments.batch,
        resolutions=arguments.resolutions,
        archs=arguments.archs,
        rounds=arguments.rounds,
        runtime=arguments.runtime,
    )
    _print(table)
    print(f"wrote {arguments.out}: {len(table.kinds)} kinds of block")
    print(f"next: supernet search RUN --cost latency:{arguments.out} --high MILLISECONDS")


def _adapt(arguments: Arguments) -> None:
    """Corrects a table, and prints how far that helps."""
    if arguments.table is None or arguments.adapt is None:
        raise UserError(
            "--adapt and --table need each other: --table latency.json --adapt 32 corrects "
            "latency.json by 32 whole networks"
        )
    for name in ("batch", "resolutions", "archs", "runtime"):
        if getattr(arguments, name) != getattr(Arguments, name):
            raise UserError(f"--{name} is that of --table where one is adapted; leave it out")
    table = latency.adapt(
        arguments.space,
        arguments.table,
        arguments.out,
        networks=arguments.adapt,
        rounds=arguments.rounds,
    )
    found = table.correction
    assert found is not None
    _print_correction(found)
    print(f"measured: {latency_table.provenance(table)}")
    print(f"wrote {arguments.out}: {len(found.factors)} of {len(table.kinds)} kinds corrected")
    print(f"next: supernet search RUN --cost latency:{arguments.out} --high MILLISECONDS --measure")


def _print_correction(found: Correction) -> None:
    lines = rich.table.Table("adapted", "median error", "Kendall", "", box=None)
    for label, name in (
        ("the table as it was", "before"),
        ("constant and scale fitted anew", "rescaled"),
        ("kinds of block corrected, too", "corrected"),
    ):
        one: Agreement = getattr(found, name)
        used = "applied" if name == found.applied else ""
        lines.add_row(label, f"{one.median_error:.1%}", f"{one.kendall:.3f}", used)
    rich.console.Console().print(lines)
    print(
        f"of {len(found.learnt_on)} networks, each by what was learnt from others; their own "
        f"timings spread by {found.spread:.1%}"
    )
    if found.applied == "before":
        print("neither makes the errors surely smaller, so the table stays as it was")
    elif found.factors:
        low, high = min(found.factors.values()), max(found.factors.values())
        print(f"kinds of block take {low:.2f} to {high:.2f} times what they take by themselves")


def _print(table: Table) -> None:
    known = table.calibration
    assert known is not None
    lines = rich.table.Table("milliseconds", "median error", "largest error", box=None)
    for label, middle, largest in _errors(known):
        lines.add_row(label, f"{middle:.1%}", f"{largest:.1%}")
    rich.console.Console().print(lines)
    sizes = [str(size) for size in known.resolutions if size != ()]
    pixels = f" at {', '.join(sizes)} pixels" if sizes else ""
    print(
        f"of {known.checked_on} random networks{pixels} ({known.fitted_on} others "
        f"calibrated it); rank correlation: Spearman {known.spearman:.3f}, Kendall "
        f"{known.kendall:.3f}; a network's own timings spread by {known.spread:.1%}"
    )
    print(f"measured: {latency_table.provenance(table)}")


def _errors(known: Calibration) -> Iterator[tuple[str, float, float]]:
    yield "sum over blocks", known.plain_median_error, known.plain_largest_error
    label = f"{known.constant:.4g} + {known.scale:.4g} x sum"
    yield label, known.median_error, known.largest_error
