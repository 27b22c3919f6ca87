"""`supernet report`: a run folder as one HTML file."""

import dataclasses
import os
import pathlib
from typing import Annotated

import tyro

from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.reporting import page
from supernet_jax.storage import files

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
    path = arguments.run / "report.html" if arguments.out is None else arguments.out
    types = config.load_file(arguments.config)[1] if arguments.config is not None else None
    text = page.report(arguments.run, types=types)
    _check_free(path)  # after the run was found to be one
    files.write_text(path, text)
    print(f"wrote {path} ({len(text.encode()) / 1e3:,.0f} kB); open it in any browser")


def _check_free(path: pathlib.Path) -> None:
    """Raises a `UserError` unless the report may be written there."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; --out is a file, as report.html")
    if os.path.exists(path) and not page.is_report(path):
        raise UserError(f"{path} exists already and is no report; choose another --out")
    if not os.path.isdir(path.absolute().parent):
        raise UserError(f"there is no folder {path.parent}; make it or choose another --out")
