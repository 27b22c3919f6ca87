"""`supernet latency`: measure how long each kind of block takes here, as a cost for searches."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Annotated, Literal

import rich.console
import rich.table
import tyro

from supernet_jax.evaluation import latency_table
from supernet_jax.evaluation.latency_table import Calibration, Table
from supernet_jax.experiment import latency, space_facts

EXAMPLES = """
supernet latency digits --out latency.json
supernet latency configs/cifar10.py --batch 8 --out latency.json
supernet latency attentivenas --resolutions 192 --out latency.json
supernet latency configs/cifar10.py --runtime onnx --out latency-onnx.json
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


def run(arguments: Arguments) -> None:
    """Measures what the table lacks, and prints how well blocks add up to networks."""
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
