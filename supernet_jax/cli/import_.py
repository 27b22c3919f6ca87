"""`supernet import`: make a run of weights that were trained elsewhere."""

import collections
import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from supernet_jax.cli import shared
from supernet_jax.data import Dataset
from supernet_jax.elastic import choices
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, run_folder, train
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.networks.importers import (
    attentivenas,
    class_rows,
    once_for_all,
    plain_network,
    tensor_mapping,
    weight_files,
)
from supernet_jax.networks.importers.importer import Report
from supernet_jax.storage.files import write_json
from supernet_jax.training import loop

EXAMPLES = """
supernet import attentivenas FILE --config configs/alphanet_imagenet.py --out runs/alphanet
supernet import network FOLDER --config configs/cifar10.py --sort-channels --out runs/grown
Fields of the config can be overridden, as --data.data-dir."""
PROOF_IMAGES = 64  # real images on which logits are compared
FILE = "import.json"  # of a run folder: where its weights came from


class Family(NamedTuple):
    """Published supernets whose files can be read.

    Attributes:
        load: `(tensors, space) -> (parameters, report)`.
        std: per channel, of pixels in 0..1, by what the images were divided that it was trained on.
        stem: path of the kernel that reads the images.
        classifier: path of the layer that tells classes apart.
    """

    load: Callable[[Mapping[str, np.ndarray], Space], tuple[Tree, Report]]
    std: tuple[float, ...]
    stem: tuple[str, ...]
    classifier: tuple[str, ...]


FAMILIES = {
    "attentivenas": Family(
        attentivenas.load, attentivenas.STD, attentivenas.STEM, attentivenas.CLASSIFIER
    ),
    "ofa": Family(once_for_all.load, once_for_all.STD, once_for_all.STEM, once_for_all.CLASSIFIER),
}
NETWORK = "network"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Make a run of weights that were trained elsewhere; it is then like any other run."""

    kind: Annotated[str, tyro.conf.Positional]
    """attentivenas: a published AttentiveNAS or AlphaNet supernet; ofa: a published Once-for-All
    MobileNetV3 supernet; network: an extracted network, which becomes the largest subnet of a new
    supernet"""
    source: Annotated[pathlib.Path, tyro.conf.Positional]
    """file of weights (.safetensors; .pth, .pth.tar and the like need PyTorch), or the folder of a
    network"""
    settings: Annotated[Config, tyro.conf.arg(name="")]
    config: pathlib.Path | None = None
    """config file of the run: the space, the data to calibrate and evaluate on, and how training
    would go on; its fields can be overridden"""
    out: pathlib.Path | None = None
    """run folder to make"""
    std: tuple[float, ...] | None = None
    """per channel, by what the published supernet's images were divided (pixels in 0..1), if not by
    ImageNet's usual numbers"""
    class_order: Literal["text", "number"] | None = None
    """how the classes of the published supernet were sorted, where their names are numbered: text
    puts 10 before 2, as this library and PyTorch's ImageFolder sort folders, number after it"""
    sort_channels: bool = False
    """with network: put channels in the order of their importance first, so that smaller subnets
    keep those that matter"""


class Imported(NamedTuple):
    """Weights that are about to become a run.

    Attributes:
        params: shared parameters.
        report: what became of what was read.
        about: JSON values for `import.json`.
        said: a line of what was checked or changed.
    """

    params: Tree
    report: Report
    about: dict[str, Any]
    said: str


def run(arguments: Arguments) -> None:
    """Reads the weights, makes the run folder and says what was mapped."""
    shared.one_of("the first argument", arguments.kind, [*FAMILIES, NETWORK])
    if arguments.config is None or arguments.out is None:
        raise UserError(
            "--config and --out are required: the config file of space and data, and the run "
            "folder to make, as --config configs/alphanet_imagenet.py --out runs/alphanet"
        )
    if arguments.kind == NETWORK and arguments.std is not None:
        raise UserError("--std is for published supernets; an extracted network says its own")
    if arguments.kind == NETWORK and arguments.class_order is not None:
        raise UserError("--class-order is for published supernets; a network names its classes")
    if arguments.kind != NETWORK and arguments.sort_channels:
        raise UserError("--sort-channels is for networks; the channels of a supernet have an order")
    folder = network_folder.check_free(arguments.out)
    load = _network if arguments.kind == NETWORK else _supernet
    built, imported = load(arguments)
    _write(built, imported, folder)
    _tell(arguments, imported)


def _supernet(arguments: Arguments) -> tuple[Experiment, Imported]:
    """A published supernet; its first kernel is adapted to how this data is normalised."""
    family = FAMILIES[arguments.kind]
    tensors = weight_files.read(arguments.source)
    built = build.build(arguments.settings)
    params, report = family.load(tensors, built.space)
    std = family.std if arguments.std is None else arguments.std
    ours = built.dataset.std
    if len(std) != len(ours) or min(std) <= 0:
        raise UserError(
            f"--std is {list(std)}, but must be {len(ours)} numbers above 0, one for each channel"
        )
    ratio = [own / its for own, its in zip(ours, std, strict=True)]
    names = built.dataset.class_names
    rows = class_rows.rows(names, arguments.class_order, built.dataset.name)
    params = tensor_mapping.with_classes(params, family.classifier, rows)
    about = {
        "sha256": weight_files.digest(arguments.source),
        "std": list(std),
        "class_order": arguments.class_order,
    }
    said = (
        f"its images were divided by {_numbers(std)}, those of --config are by {_numbers(ours)}: "
        f"{'/'.join(family.stem)} is multiplied by {_numbers(ratio)} instead"
    )
    params = tensor_mapping.rescaled(params, family.stem, ratio)
    return built, Imported(params, report, about, said)


def _network(arguments: Arguments) -> tuple[Experiment, Imported]:
    """An ordinary network; the largest subnet must give its logits."""
    made, variables = network_folder.load(arguments.source, space_file=arguments.config)
    described = manifest.read_description(arguments.source)
    built = build.build(arguments.settings)
    space, dataset = built.space, built.dataset
    theirs, ours = described["classes"], dataset.class_names
    if theirs != list(ours):
        raise UserError(
            f"the network tells {_classes(theirs)} apart, the data of --config has "
            f"{_classes(ours)}{class_rows.first_difference(theirs, ours)}; give a config of the "
            "same data"
        )
    _check_normalised(described, dataset)
    key = jax.random.key(built.config.train.seed)
    params, stats, report = plain_network.load(
        made, variables, space, key=key, sort=arguments.sort_channels
    )
    images = built.prepare(jnp.asarray(dataset.test.images[:PROOF_IMAGES]))
    largest = choices.largest(space.menu)
    difference = extract.prove(space, params, largest, stats, made, variables, images)
    said = (
        f"the largest subnet's logits differ from the network's by {difference:.1e} of the largest "
        f"({len(images)} images); parameters that the network does not have keep a random start"
    )
    about = {"sha256": described["sha256"], "sorted": arguments.sort_channels}
    return built, Imported(params, report, about, said)


def _check_normalised(described: Mapping[str, Any], dataset: Dataset) -> None:
    """Another split of the same data has nearly the same mean and deviation."""
    for what, own in (("mean", dataset.mean), ("std", dataset.std)):
        if not np.allclose(described[what], own, rtol=0, atol=0.02):
            raise UserError(
                f"the network takes images with the {what} {_numbers(described[what])}, those of "
                f"--config have {_numbers(own)}; give a config of the data that it was trained on"
            )


def _write(built: Experiment, imported: Imported, folder: pathlib.Path) -> None:
    """The run folder, which appears at once when all of it is written."""
    with network_folder.unfinished(folder) as path:
        run_folder.start_run(path, built.config)
        job = train.job(built, path)
        with job.checkpoints:
            loop.begin(job, imported.params)
        about = {**imported.about, **imported.report._asdict()}
        write_json(path / FILE, about)


def _tell(arguments: Arguments, imported: Imported) -> None:
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(imported.params))
    mapped, left = imported.report
    print(
        f"read {len(mapped) + len(left)} tensors of {arguments.source}: {len(mapped)} of them are "
        f"in the {size:,} shared parameters"
    )
    reasons = collections.Counter(line.split(": ", 1)[1] for line in left)
    for reason, count in reasons.items():
        print(f"left out {count}: {reason}")
    print(imported.said)
    out, file = shlex.quote(str(arguments.out)), shlex.quote(str(arguments.config))
    print(
        f"wrote {out}, a run of 0 steps ({FILE} names all tensors); next: "
        f"supernet evaluate {out} --archs largest, supernet search {out}, or train on with "
        f"supernet train {file} --out {out} and the same settings"
    )


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _classes(names: Any) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
