"""`sj.import_...`: runs of weights that were trained elsewhere, read by `networks.importers`."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.data import Dataset, class_rows
from supernet_jax.elastic import choices
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, run_folder, train
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.networks.importers import (
    attentivenas,
    autoformer,
    nasvit,
    once_for_all,
    plain_network,
    tensor_mapping,
    vit_resnas,
    weight_files,
)
from supernet_jax.networks.importers.importer import Report
from supernet_jax.spaces import Adapted
from supernet_jax.storage import local_copy, whole_folder
from supernet_jax.storage.files import write_json
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import loop

PROOF_IMAGES = 64  # real images on which logits are compared
FILE = "import.json"  # of a run folder: where its weights came from
Path = str | os.PathLike[str]
ClassOrder = Literal["text", "number"] | None


def import_attentivenas(
    file: Path,
    config: Config,
    folder: Path,
    *,
    std: Sequence[float] | None = None,
    class_order: ClassOrder = None,
) -> Run:
    """Makes a run of a published AttentiveNAS or AlphaNet supernet.

    Args:
        file: of weights: .safetensors; .pth, .pth.tar and the like need PyTorch.
        config: of the run: the space, the data to calibrate and evaluate on, and how training would
            go on.
        folder: of the run, which must not exist.
        std: per channel, by what the published supernet's images were divided (pixels in 0..1), if
            not by ImageNet's usual numbers.
        class_order: how its classes were sorted, where their names are numbered: "text" puts 10
            before 2, "number" after it.

    Returns:
        The run, at step 0; `import.json` of its folder names all tensors.

    Raises:
        UserError: the file is not readable, or not of this space; the folder is taken.
    """
    published("attentivenas", file, config, folder, std=std, class_order=class_order)
    return experiment_run.open_run(folder, config)


def import_once_for_all(
    file: Path,
    config: Config,
    folder: Path,
    *,
    std: Sequence[float] | None = None,
    class_order: ClassOrder = None,
) -> Run:
    """Makes a run of a published Once-for-All MobileNetV3 supernet; see `import_attentivenas`."""
    published("ofa", file, config, folder, std=std, class_order=class_order)
    return experiment_run.open_run(folder, config)


def import_autoformer(
    file: Path,
    config: Config,
    folder: Path,
    *,
    std: Sequence[float] | None = None,
    class_order: ClassOrder = None,
) -> Run:
    """Makes a run of a published AutoFormer supernet; see `import_attentivenas`."""
    published("autoformer", file, config, folder, std=std, class_order=class_order)
    return experiment_run.open_run(folder, config)


def import_network(
    source: Path,
    config: Config,
    folder: Path,
    *,
    sort_channels: bool = False,
    space_file: Path | None = None,
) -> Run:
    """Makes a run whose largest subnet is an extracted network; it gives the same logits.

    Args:
        source: folder of the network.
        config: of the run; its data must be that of the network.
        folder: of the run, which must not exist.
        sort_channels: put channels in the order of their importance first, so that smaller subnets
            keep those that matter.
        space_file: your Python file that defines the network's blocks, if some are your own; it is
            run.

    Returns:
        The run, at step 0.

    Raises:
        UserError: the network is not the largest subnet of the space, or of other data; the folder
            is taken.
    """
    grown(source, config, folder, sort_channels=sort_channels, space_file=space_file)
    return experiment_run.open_run(folder, config)


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
    "vit_resnas": Family(vit_resnas.load, vit_resnas.STD, vit_resnas.STEM, vit_resnas.CLASSIFIER),
    "nasvit": Family(nasvit.load, nasvit.STD, nasvit.STEM, nasvit.CLASSIFIER),
    "autoformer": Family(autoformer.load, autoformer.STD, autoformer.STEM, autoformer.CLASSIFIER),
    "ofa": Family(once_for_all.load, once_for_all.STD, once_for_all.STEM, once_for_all.CLASSIFIER),
}


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


def published(
    kind: str,
    file: Path,
    config: Config,
    folder: Path,
    *,
    std: Sequence[float] | None,
    class_order: ClassOrder,
) -> Imported:
    """Makes a run of a published supernet; its first kernel is adapted to how this data is
    normalised. `kind` is one of `FAMILIES`; for the rest see `import_attentivenas`.
    """
    place, file = network_folder.check_free(expanded(folder)), local_copy.local(expanded(file))
    if isinstance(config.space, Adapted):
        raise UserError(
            "published weights are of a space without adapters; give a config of that space, and "
            "name the run that this makes as space.base of the adapted one"
        )
    family = FAMILIES[kind]
    tensors = weight_files.read(file)
    built = build.build(config)
    params, report = family.load(tensors, built.space)
    std = family.std if std is None else tuple(std)
    ours = built.dataset.std
    if len(std) != len(ours) or min(std) <= 0:
        raise UserError(
            f"--std is {list(std)}, but must be {len(ours)} numbers above 0, one for each channel"
        )
    ratio = [own / its for own, its in zip(ours, std, strict=True)]
    names = built.dataset.class_names
    rows = class_rows.rows(names, class_order, built.dataset.name)
    params = tensor_mapping.with_outputs(params, family.classifier, rows)
    about = {
        "sha256": weight_files.digest(file),
        "std": list(std),
        "class_order": class_order,
    }
    said = (
        f"its images were divided by {_numbers(std)}, those of --config are by {_numbers(ours)}: "
        f"{'/'.join(family.stem)} is multiplied by {_numbers(ratio)} instead"
    )
    params = tensor_mapping.rescaled(params, family.stem, ratio)
    imported = Imported(params, report, about, said)
    _write(built, imported, place)
    return imported


def grown(
    source: Path,
    config: Config,
    folder: Path,
    *,
    sort_channels: bool,
    space_file: Path | None,
) -> Imported:
    """Makes a run of an ordinary network, whose logits its largest subnet must give; see
    `import_network`.
    """
    place, source = network_folder.check_free(expanded(folder)), local_copy.local(expanded(source))
    code = None if space_file is None else expanded(space_file)
    made, variables = network_folder.load(source, space_file=code)
    if not isinstance(made.task, ImageClassification):
        raise UserError(
            f"{source} is a network for {made.task.name}, but import reads those for images so "
            "far; train such a supernet from the start"
        )
    described = manifest.read_description(source)
    built = build.build(config)
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
    params, stats, report = plain_network.load(made, variables, space, key=key, sort=sort_channels)
    images = built.prepare(jnp.asarray(dataset.test.images[:PROOF_IMAGES]))
    largest = choices.largest(space.menu)
    difference = extract.prove(space, params, largest, stats, made, variables, images)
    said = (
        f"the largest subnet's logits differ from the network's by {difference:.1e} of the largest "
        f"({len(images)} images); parameters that the network does not have keep a random start"
    )
    about = {"sha256": described["sha256"], "sorted": sort_channels}
    imported = Imported(params, report, about, said)
    _write(built, imported, place)
    return imported


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
    with whole_folder.unfinished(folder) as path:
        run_folder.start_run(path, built.config)
        job = train.job(built, path)
        with job.checkpoints:
            loop.begin(job, imported.params)
        about = {**imported.about, **imported.report._asdict()}
        write_json(path / FILE, about)


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _classes(names: Any) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
