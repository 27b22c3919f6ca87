"""`supernet extract`: take subnets out as ordinary networks, and prove them the same."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from supernet_jax.cli import shared
from supernet_jax.elastic import space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import extract, read_archs
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.extract import Wanted
from supernet_jax.experiment.run import Run
from supernet_jax.networks import network_folder
from supernet_jax.networks.formats import table
from supernet_jax.runtime import progress

EXAMPLES = """
supernet extract runs/digits --arch largest --out networks/largest
supernet extract runs/digits --arch front:0 --out networks/cheapest
supernet extract runs/digits --arch arch.json --out networks/mine --format safetensors stablehlo
supernet extract runs/digits --arch front:0 --out networks/app --format stablehlo --pixels
supernet extract runs/digits --front --out networks/front    # a folder of networks"""
FORMATS = (
    "one or several of "
    f"{table.names(program=False)} (weights), {table.names(program=True)} (programs)"
)
WHOLE = 2**28  # bytes of shared parameters up to which all of them are read


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Take subnets out of a run as ordinary networks, and prove that they are the same."""

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """run folder"""
    out: pathlib.Path
    """folder to write; of several networks, a folder of their folders"""
    arch: str | None = None
    """an arch as JSON, a JSON file of one or several, `smallest`, `largest`, or front:N of the last
    search"""
    front: bool = False
    """all archs of the front of the last search"""
    format: Annotated[tuple[str, ...], tyro.conf.arg(help=FORMATS)] = ("orbax",)
    pixels: bool = False
    """programs take uint8 images and normalise them"""
    input_size: int | None = None
    """height and width of the images that programs take; default: as in the data set"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for runs that use such"""
    read: Literal["auto", "whole", "slices"] = "auto"
    """which parameters are read: `slices` only those of the subnet, `whole` all of them, so that
    the proof also covers what was left out; `auto` takes slices above 256 MiB"""


def run(arguments: Arguments) -> None:
    """Extracts one subnet into a folder, or several into one folder each."""
    if (arguments.arch is None) != arguments.front:
        raise UserError("say which subnets: --arch for one or a file of several, or --front")
    given = table.chosen(arguments.format, pixels=arguments.pixels, size=arguments.input_size)
    wanted = Wanted(given, arguments.pixels, arguments.input_size)
    if "orbax" in arguments.format:
        network_folder.check_orbax(arguments.out)
    opened = shared.open_run(arguments.run, arguments.config, read=False)
    archs = _archs(opened, arguments)
    if not _reads_slices(opened, arguments.read):
        opened = experiment_run.with_params(opened)
    if arguments.front or len(archs) > 1:
        _many(opened, archs, arguments.out, wanted)
    else:
        _one(opened, archs[0], arguments.out, wanted)


def _reads_slices(opened: Run, read: str) -> bool:
    size = 4 * shared.supernet_parameters(opened.experiment.space)  # float32
    return read == "slices" or (read == "auto" and size > WHOLE)


def _archs(opened: Run, arguments: Arguments) -> list[Arch]:
    """What was asked for, each once."""
    if arguments.arch is None:
        found = shared.front(opened)
    elif arguments.arch.startswith("front:"):
        front = shared.front(opened)
        number = arguments.arch.removeprefix("front:")
        if not number.isdecimal() or int(number) >= len(front):
            raise UserError(
                f"--arch is {arguments.arch!r}, but the front has front:0 to front:{len(front) - 1}"
            )
        found = [front[int(number)]]
    else:
        found = read_archs.read_archs(opened.experiment.space, arguments.arch)
    return space.distinct(opened.experiment.space, found)


def _one(opened: Run, arch: Arch, out: pathlib.Path, wanted: Wanted) -> None:
    network_folder.check_free(out)
    description = extract.take_out(opened, arch, out, wanted)
    print(
        f"wrote {out}: {description['macs']:,} MACs, {description['parameters']:,} "
        f"parameters, test accuracy {description['accuracy']['test']:.2%}; its logits differ from "
        f"the supernet's by {description['proof']['difference']:.1e} of the largest"
    )
    print(f"loaded back and run, the logits differ by: {_differences(description)}")
    print(f"next: read {out / 'README.md'}; it shows how to load the network")


def _many(opened: Run, archs: Sequence[Arch], out: pathlib.Path, wanted: Wanted) -> None:
    if os.path.exists(out / "network.json") or (os.path.exists(out) and not os.path.isdir(out)):
        raise UserError(f"{out} is not a folder for several networks; choose another --out")
    names = extract.folder_names(opened, archs)
    folders = {out / name: arch for name, arch in zip(names, archs, strict=True)}
    kept = [f for f, arch in folders.items() if extract.is_finished(opened, arch, f, wanted)]
    if kept:
        print(f"{len(kept)} of {len(folders)} networks are in {out} already and are kept")
    todo = {folder: arch for folder, arch in folders.items() if folder not in kept}
    if todo:
        with progress.bar("extracting", len(folders), done=len(kept), unit="network") as advance:
            made = extract.take_out_many(opened, list(todo.values()), list(todo), wanted)
            for folder, description in made:
                print(
                    f"{folder}: {description['macs']:,} MACs, test "
                    f"{description['accuracy']['test']:.2%}, {_differences(description)}",
                    flush=True,
                )
                advance(1, folder.name)
    print(f"{out} holds {len(folders)} networks, {len(todo)} of them new")
    print(f"next: read {next(iter(folders)) / 'README.md'}; it shows how to load the network")


def _differences(description: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {one['difference']:.1e}" for name, one in description["formats"].items()
    )
