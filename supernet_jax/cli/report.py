"""`supernet report`: a run folder as one HTML file."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from supernet_jax.errors import UserError
from supernet_jax.reporting import live, report
from supernet_jax.storage import files

EXAMPLES = """
supernet report runs/digits
supernet report runs/digits --out digits.html
supernet report runs/digits --watch              (in a browser, while the run goes on)
It can be written at any time, also while the run is training."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write one HTML file about a run: training, front, networks, and what is still missing.

    With --watch nothing is written: browsers of this machine get a page that follows the run.
    """

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    out: pathlib.Path | None = None
    """HTML file to write, in place of an older one; if not given, RUN/report.html"""
    watch: bool = False
    """serve the report to browsers of this machine until Ctrl-C, and follow the run"""
    port: int = 0
    """with --watch: port to serve it on; if not given, one that is free"""
    config: pathlib.Path | None = None
    """config file that defines parts of your own, for the MACs that were visited, and blocks"""


def run(arguments: Arguments) -> None:
    """Writes the report, or serves it."""
    if arguments.watch:
        if arguments.out is not None:
            raise UserError("--watch writes no file; leave --out out")
        live.watch(arguments.run, port=arguments.port, config=arguments.config, ready=_ready)
        return
    if arguments.port:
        raise UserError("--port needs --watch, which serves the report")
    path = report.report(arguments.run, arguments.out, config=arguments.config)
    size = files.size_of(path)
    print(f"wrote {path} ({size / 1e3:,.0f} kB); open it in any browser")


def _ready(address: str) -> None:
    print(f"the report is at {address} and follows the run; Ctrl-C ends it", flush=True)
