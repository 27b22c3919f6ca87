"""`supernet report`: a run folder as one HTML file."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from supernet_jax.reporting import report

EXAMPLES = """
supernet report runs/digits
supernet report runs/digits --out digits.html
It can be written at any time, also while the run is training."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write one HTML file about a run: training, front, networks, and what is still missing."""

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """run folder"""
    out: pathlib.Path | None = None
    """file to write, RUN/report.html if not given; an older report there is replaced"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for the MACs that their sampler visited"""


def run(arguments: Arguments) -> None:
    """Writes the report."""
    path = report.report(arguments.run, arguments.out, config=arguments.config)
    size = path.stat().st_size
    print(f"wrote {path} ({size / 1e3:,.0f} kB); open it in any browser")
