"""`supernet report`: a run folder as one HTML file."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from supernet_jax.reporting import report
from supernet_jax.storage import files

EXAMPLES = """
supernet report runs/digits
supernet report runs/digits --out digits.html
It can be written at any time, also while the run is training."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write one HTML file about a run: training, front, networks, and what is still missing."""

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    out: pathlib.Path | None = None
    """HTML file to write, in place of an older one; if not given, RUN/report.html"""
    config: pathlib.Path | None = None
    """config file that defines a sampler of your own, for the chart of the MACs it visited"""


def run(arguments: Arguments) -> None:
    """Writes the report."""
    path = report.report(arguments.run, arguments.out, config=arguments.config)
    size = files.size_of(path)
    print(f"wrote {path} ({size / 1e3:,.0f} kB); open it in any browser")
