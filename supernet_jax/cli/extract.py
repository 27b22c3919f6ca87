"""`supernet extract`: take subnets out as ordinary networks, and prove them the same."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from supernet_jax.elastic import space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import extract, front, read_archs
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.extract import Extracted, Read
from supernet_jax.experiment.run import Run
from supernet_jax.experiment.take_out import Wanted
from supernet_jax.networks.formats import table

EXAMPLES = """
supernet extract runs/digits --arch largest --out networks/largest
supernet extract runs/digits --arch front:0 --out networks/cheapest
supernet extract runs/darts --arch argmax --out networks/likeliest
supernet extract runs/digits --arch arch.json --out networks/mine --format safetensors stablehlo
supernet extract runs/digits --arch front:0 --out networks/app --format stablehlo --pixels
supernet extract runs/digits --front --out networks/front    # a folder of networks"""
FORMATS = (
    "formats to write: one or several of "
    f"{table.names(program=False)} (weights), {table.names(program=True)} (programs)"
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Take subnets out of a run as ordinary networks, and prove that they are the same.

    A network's logits are compared with the supernet's before anything is kept. With --read whole
    the proof also covers the parameters that were left out.
    """

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    out: pathlib.Path
    """folder to write; for several networks, it holds a folder for each"""
    arch: str | None = None
    """smallest | largest | front:N of the last search | argmax or sampled:SEED of a learned code |
    an arch as JSON | a JSON file of archs"""
    front: bool = False
    """extract all archs of the front of the run's last search"""
    format: Annotated[tuple[str, ...], tyro.conf.arg(help=FORMATS)] = ("orbax",)
    pixels: bool = False
    """let programs take uint8 images, which they normalise themselves"""
    input_size: int | None = None
    """height and width of the images that programs take; if not given, those of the data set"""
    config: pathlib.Path | None = None
    """config file that defines the run's parts, where some are your own"""
    read: Read = "auto"
    """parameters to read: `slices` for the subnet, or the `whole`; auto slices above 256 MiB"""


def run(arguments: Arguments) -> None:
    """Extracts one subnet into a folder, or several into one folder each."""
    if (arguments.arch is None) != arguments.front:
        raise UserError("say which subnets: --arch for one or a file of several, or --front")
    out, pixels, size = arguments.out, arguments.pixels, arguments.input_size
    wanted = extract.checked(arguments.format, out, pixels=pixels, size=size)
    opened = experiment_run.open_run(arguments.run, arguments.config, read=False)
    archs = _archs(opened, arguments)
    opened = extract.with_what_is_read(opened, arguments.read)
    if arguments.front or len(archs) > 1:
        _many(opened, archs, out, wanted)
        return
    net = extract.extract(
        opened, archs[0], out, formats=arguments.format, pixels=pixels, input_size=size
    )
    print(
        f"wrote {out}: {net.macs:,} MACs, {net.parameters:,} parameters, test {net.metric.name} "
        f"{net.metric.shown(net.values['test'])}; its logits differ from the supernet's by "
        f"{net.proof:.1e} of the largest"
    )
    print(f"loaded back and run, the logits differ by: {_differences(net)}")
    print(f"next: read {out / 'README.md'}; it shows how to load the network")


def _archs(opened: Run, arguments: Arguments) -> list[Arch]:
    """What was asked for, each once."""
    if arguments.arch is None:
        found = [entry.arch for entry in front.last(opened)]
    elif arguments.arch.startswith("front:"):
        entries = front.last(opened)
        number = arguments.arch.removeprefix("front:")
        if not number.isdecimal() or int(number) >= len(entries):
            raise UserError(
                f"--arch is {arguments.arch!r}, but the front has front:0 to "
                f"front:{len(entries) - 1}"
            )
        found = [entries[int(number)].arch]
    else:
        found = read_archs.read_archs(opened, arguments.arch)
    return space.distinct(opened.space, found)


def _many(opened: Run, archs: Sequence[Arch], out: pathlib.Path, wanted: Wanted) -> None:
    job = extract.plan(opened, archs, out, wanted)
    kept = len(job.folders) - len(job.todo)
    if kept:
        print(f"{kept} of {len(job.folders)} networks are in {out} already and are kept")
    for net in extract.carry_out(opened, job, wanted):
        print(
            f"{net.folder}: {net.macs:,} MACs, test {net.metric.shown(net.values['test'])}, "
            f"{_differences(net)}",
            flush=True,
        )
    print(f"{out} holds {len(job.folders)} networks, {len(job.todo)} of them new")
    print(f"next: read {job.folders[0] / 'README.md'}; it shows how to load the network")


def _differences(net: Extracted) -> str:
    return ", ".join(f"{name} {difference:.1e}" for name, difference in net.formats.items())
