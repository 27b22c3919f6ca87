"""`sj.extract`: subnets of a run, written to folders as ordinary networks, proven the same."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment import take_out
from supernet_jax.experiment.read_archs import archs_of
from supernet_jax.experiment.run import Run
from supernet_jax.experiment.space_facts import supernet_parameters
from supernet_jax.experiment.take_out import Wanted
from supernet_jax.networks import manifest, network_folder
from supernet_jax.networks.formats import table
from supernet_jax.runtime import progress
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import Metric

WHOLE = 2**28  # bytes of shared parameters up to which all of them are read
Read = Literal["auto", "whole", "slices"]


class Extracted(NamedTuple):
    """An extracted network on disk.

    Attributes:
        folder: that holds it; `load` gives its module and variables.
        arch: in the notation of its space.
        macs: multiply-accumulates for one image, or one example of text.
        parameters: how many numbers it has.
        metric: of its task, as the accuracy.
        values: of the metric, of "held-out" and "test".
        proof: largest difference of its logits from the supernet's, relative to the largest logit.
        formats: by name, the largest difference of the logits of what was written, likewise.
    """

    folder: pathlib.Path
    arch: Any
    macs: int
    parameters: int
    metric: Metric
    values: dict[str, float]
    proof: float
    formats: dict[str, float]

    @property
    def accuracy(self) -> dict[str, float]:
        """The values, where the metric is the accuracy."""
        if self.metric.name != "accuracy":
            raise UserError(f"the network has no accuracy, but a {self.metric.name}: see values")
        return self.values


def extract(
    run: Run | str | os.PathLike[str],
    arch: Any,
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("orbax",),
    pixels: bool = False,
    input_size: int | None = None,
    read: Read = "auto",
) -> Extracted:
    """Takes a subnet out as an ordinary network, and proves that it is the same.

    Args:
        run: a trained run, or its folder.
        arch: one, as `sj.evaluate` takes it.
        folder: to write; it must not exist, or be empty.
        formats: one or several of orbax, safetensors (weights), stablehlo, onnx, torch (programs).
        pixels: programs take uint8 images and normalise them.
        input_size: height and width of the images that programs take; without, as in the data set.
        read: which parameters are read, if the run has none: "slices" only those of the subnet,
            "whole" all of them, so that the proof also covers what was left out; "auto" takes
            slices above 256 MiB.

    Returns:
        Its folder, costs and accuracies, and how far its logits differ from the supernet's.

    Raises:
        UserError: the arch or a format is not possible; the folder is taken; the logits differ.
    """
    wanted = checked(formats, folder, pixels=pixels, size=input_size)
    opened = with_what_is_read(experiment_run.opened(run, read=False), read)
    archs = archs_of(opened, arch)
    if len(archs) != 1:
        raise UserError(f"{len(archs)} archs were given for one network; give one")
    place = expanded(folder)
    network_folder.check_free(place)
    return described(place, take_out.take_out(opened, archs[0], place, wanted))


def extract_all(
    run: Run | str | os.PathLike[str],
    archs: Any,
    folder: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("orbax",),
    pixels: bool = False,
    input_size: int | None = None,
    read: Read = "auto",
) -> list[Extracted]:
    """Takes several subnets out, each into a folder of its own; those that are there are kept.

    Args:
        run: a trained run, or its folder.
        archs: as `sj.evaluate` takes them, such as a front; equal networks are taken out once.
        folder: of their folders, which are named by their MACs and archs.
        formats: see `extract`.
        pixels: see `extract`.
        input_size: see `extract`.
        read: see `extract`.

    Returns:
        What `extract` returns, for each different network in the order of the archs.

    Raises:
        UserError: as of `extract`; a folder holds another network.
    """
    wanted = checked(formats, folder, pixels=pixels, size=input_size)
    opened = with_what_is_read(experiment_run.opened(run, read=False), read)
    job = plan(opened, archs_of(opened, archs), expanded(folder), wanted)
    for _ in carry_out(opened, job, wanted):
        pass
    return [described(one, manifest.read_description(one)) for one in job.folders]


def checked(
    formats: Sequence[str], folder: str | os.PathLike[str], *, pixels: bool, size: int | None
) -> Wanted:
    """How networks are to be written, before any work is done.

    Raises:
        UserError: an unknown format, one that is not installed, or one that cannot be had there or
            with such images.
    """
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    wanted = Wanted(table.chosen(formats, pixels=pixels, size=size), pixels, size)
    if "orbax" in formats:
        network_folder.check_orbax(expanded(folder))
    return wanted


def with_what_is_read(opened: Run, read: Read) -> Run:
    """The run with all its parameters, unless those of a subnet are read by themselves."""
    size = 4 * supernet_parameters(opened.space)  # float32
    slices = read == "slices" or (read == "auto" and size > WHOLE)
    return opened if slices or opened.params is not None else experiment_run.with_params(opened)


def described(folder: pathlib.Path, description: Mapping[str, Any]) -> Extracted:
    """What the `network.json` of a network says."""
    there = manifest.described(description)
    values = there.accuracy if isinstance(there, manifest.Description) else there.values
    return Extracted(
        folder=folder,
        **{name: description[name] for name in ("arch", "macs", "parameters")},
        metric=there.metric,
        values=values,
        proof=description["proof"]["difference"],
        formats={name: one["difference"] for name, one in description["formats"].items()},
    )


class Plan(NamedTuple):
    """Several networks to be written.

    Attributes:
        folders: of all of them.
        todo: the archs of those that are not there yet, by folder.
    """

    folders: list[pathlib.Path]
    todo: dict[pathlib.Path, Arch]


def plan(opened: Run, archs: Sequence[Arch], folder: pathlib.Path, wanted: Wanted) -> Plan:
    """Which networks are written, each once.

    Raises:
        UserError: the folder is not one for several networks, or holds others under their names.
    """
    if files.exists(folder / "network.json") or (
        files.exists(folder) and not files.is_folder(folder)
    ):
        raise UserError(f"{folder} is not a folder for several networks; choose another --out")
    archs = elastic_space.distinct(opened.space, archs)
    named = dict(zip(take_out.folder_names(opened, archs), archs, strict=True))
    todo = {
        folder / name: arch
        for name, arch in named.items()
        if not take_out.is_finished(opened, arch, folder / name, wanted)
    }
    return Plan([folder / name for name in named], todo)


def carry_out(opened: Run, job: Plan, wanted: Wanted) -> Iterator[Extracted]:
    """Writes what is to do, and gives each network when it is there."""
    if not job.todo:
        return
    kept = len(job.folders) - len(job.todo)
    with progress.bar("extracting", len(job.folders), done=kept, unit="network") as advance:
        made = take_out.take_out_many(opened, list(job.todo.values()), list(job.todo), wanted)
        for folder, description in made:
            yield described(folder, description)
            advance(1, folder.name)
