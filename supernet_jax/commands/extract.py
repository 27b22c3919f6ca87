"""`supernet extract`: take one subnet out as an ordinary network, and prove it is the same."""

import dataclasses
import functools
import pathlib
from typing import Annotated, Any

import jax
import tyro

from supernet_jax import choices, evaluate, experiment, extract, network, results
from supernet_jax.choices import Arch
from supernet_jax.commands import common
from supernet_jax.errors import UserError
from supernet_jax.experiment import Run

EXAMPLES = """
supernet extract runs/digits --arch largest --out networks/largest
supernet extract runs/digits --arch front:0 --out networks/cheapest
supernet extract runs/digits --arch arch.json --out networks/mine"""
PROOF_IMAGES = 64  # real images on which logits are compared


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Take one subnet out of a run as an ordinary network, and prove that it is the same."""

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """run folder"""
    arch: str
    """an arch as JSON or in a JSON file, `smallest`, `largest`, or front:N of the last search"""
    out: pathlib.Path
    """folder to write"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for runs that use such"""


def run(arguments: Arguments) -> None:
    """Extracts one subnet into a folder."""
    extract.check_free(arguments.out)
    opened = common.open_run(arguments.run, arguments.config)
    arch = _arch(opened, arguments.arch)
    description = take_out(opened, arch, arguments.out)
    print(
        f"wrote {arguments.out}: {description['macs']:,} MACs, {description['parameters']:,} "
        f"parameters, test accuracy {description['accuracy']['test']:.2%}; its logits differ from "
        f"the supernet's by {description['proof']['difference']:.1e} of the largest"
    )
    print(f"next: read {arguments.out / 'README.md'}; it shows how to load the network")


def _arch(opened: Run, text: str) -> Arch:
    space = opened.experiment.space
    if text.startswith("front:"):
        front = common.front(opened)
        number = text.removeprefix("front:")
        if not number.isdigit() or int(number) >= len(front):
            raise UserError(
                f"--arch is {text!r}, but the front has front:0 to front:{len(front) - 1}"
            )
        return front[int(number)]
    archs = experiment.read_archs(space, text)
    if len(archs) != 1:
        raise UserError(f"{text} holds {len(archs)} archs; --arch takes one")
    return archs[0]
