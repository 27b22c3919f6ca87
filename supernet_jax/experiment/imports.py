"""`sj.import_...`: runs of weights that were trained elsewhere, read by `networks.importers`."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.data import Dataset, class_rows
from supernet_jax.elastic import channel_order, choices, shared_params
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, run_folder, train
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.networks import extract, manifest, network_folder, published_networks
from supernet_jax.networks.importers import (
    attentivenas,
    autoformer,
    bert,
    nasvit,
    once_for_all,
    plain_network,
    tensor_mapping,
    vit,
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
        source: folder of the network, or its place on the hub, as for `load`.
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


def import_vit(
    file: Path,
    config: Config,
    folder: Path,
    *,
    std: Sequence[float] | None = None,
    class_order: ClassOrder = None,
    sort_channels: bool = False,
    new_classifier: bool = False,
) -> Run:
    """Makes a run whose largest subnet is a ViT or DeiT, its tensors named as timm does.

    Args:
        file: of weights, as of `import_attentivenas`.
        config: of the run, whose space is a `VitSupernet` with the network as its largest subnet.
        folder: of the run, which must not exist.
        std: as of `import_attentivenas`.
        class_order: likewise.
        sort_channels: put heads and hidden channels in the order of their importance first, so that
            smaller subnets keep those that matter.
        new_classifier: begin with a random classifier, as for other classes.

    Returns:
        The run, at step 0; `import.json` of its folder names all tensors.

    Raises:
        UserError: the file is not readable, or no such network; the folder is taken.
    """
    how: dict[str, Any] = {"sort_channels": sort_channels, "new_classifier": new_classifier}
    published("vit", file, config, folder, std=std, class_order=class_order, **how)
    return experiment_run.open_run(folder, config)


def import_bert(
    file: Path,
    config: Config,
    folder: Path,
    *,
    class_order: ClassOrder = None,
    sort_channels: bool = False,
    new_classifier: bool = False,
) -> Run:
    """Makes a run whose largest subnet is a BERT, its tensors named as transformers does; see
    `import_vit`.
    """
    how: dict[str, Any] = {"sort_channels": sort_channels, "new_classifier": new_classifier}
    published("bert", file, config, folder, std=None, class_order=class_order, **how)
    return experiment_run.open_run(folder, config)


class Family(NamedTuple):
    """Published supernets and networks whose files can be read.

    Attributes:
        load: `(tensors, space) -> (parameters, report)`.
        std: per channel, of pixels in 0..1, by what the images were divided that it was trained on;
            empty where inputs are no images.
        stem: path of the kernel that reads the images.
        classifier: path of the layer that tells classes apart.
        fresh: names of the classifier's tensors, of ordinary networks that become the largest
            subnet; that may begin anew. Empty for supernets.
    """

    load: Callable[[Mapping[str, np.ndarray], Space], tuple[Tree, Report]]
    std: tuple[float, ...]
    stem: tuple[str, ...]
    classifier: tuple[str, ...]
    fresh: tuple[str, ...] = ()


FAMILIES = {
    "attentivenas": Family(
        attentivenas.load, attentivenas.STD, attentivenas.STEM, attentivenas.CLASSIFIER
    ),
    "vit_resnas": Family(vit_resnas.load, vit_resnas.STD, vit_resnas.STEM, vit_resnas.CLASSIFIER),
    "nasvit": Family(nasvit.load, nasvit.STD, nasvit.STEM, nasvit.CLASSIFIER),
    "autoformer": Family(autoformer.load, autoformer.STD, autoformer.STEM, autoformer.CLASSIFIER),
    "bert": Family(bert.load, (), (), bert.CLASSIFIER, bert.CLASSIFIER_TENSORS),
    "ofa": Family(once_for_all.load, once_for_all.STD, once_for_all.STEM, once_for_all.CLASSIFIER),
    "vit": Family(vit.load, vit.STD, vit.STEM, vit.CLASSIFIER, vit.CLASSIFIER_TENSORS),
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
    sort_channels: bool = False,
    new_classifier: bool = False,
) -> Imported:
    """Makes a run of a published supernet or network; its first kernel is adapted to how this data
    is normalised. `kind` is one of `FAMILIES`; for the rest see `import_attentivenas` and
    `import_vit`.
    """
    place, file = network_folder.check_free(expanded(folder)), local_copy.local(expanded(file))
    if isinstance(config.space, Adapted):
        raise UserError(
            "published weights are of a space without adapters; give a config of that space, and "
            "name the run that this makes as space.base of the adapted one"
        )
    family = FAMILIES[kind]
    if (sort_channels or new_classifier) and not family.fresh:
        option = "--sort-channels" if sort_channels else "--new-classifier"
        raise UserError(
            f"{option} is for networks; {kind} is a supernet, whose channels have an order and "
            "whose classifier is trained with them"
        )
    tensors = dict(weight_files.read(file))
    built = build.build(config)
    if new_classifier:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in family.fresh}
    elif family.fresh and not any(name in tensors for name in family.fresh):
        raise UserError(
            f"{file} has no classifier ({', '.join(family.fresh)}); with --new-classifier it "
            "begins anew"
        )
    params, report = family.load(tensors, built.space)
    about: dict[str, Any] = {"sha256": weight_files.digest(file), "class_order": class_order}
    if new_classifier:
        params = _begun(params, built)
        said = f"{'/'.join(family.classifier)} begins anew"
    else:
        names = built.dataset.class_names
        rows = class_rows.rows(names, class_order, built.dataset.name)
        params = tensor_mapping.with_outputs(params, family.classifier, rows)
        said = ""
    if family.fresh:
        about |= {"sorted": sort_channels, "new_classifier": new_classifier}
    if sort_channels:
        params = _sorted(params, built.space)
    if family.std or std is not None:
        params, about["std"], how = _for_images(params, family, std, built.dataset)
        said = f"{said}; {how}" if said else how
    imported = Imported(
        params, report, about, said or "inputs are ids of tokens, taken as they are"
    )
    _write(built, imported, place)
    return imported


def _begun(params: Tree, built: Experiment) -> Tree:
    """The parameters, with a random start of those that are not there."""
    key = jax.random.key(built.config.train.seed)
    start = jax.device_get(jax.jit(lambda key: shared_params.init(built.space, key))(key))
    flatten = flax.traverse_util.flatten_dict
    return flax.traverse_util.unflatten_dict({**flatten(start), **flatten(params)})


def _sorted(params: Tree, space: Space) -> Tree:
    """The parameters in the order of importance."""
    orders = channel_order.by_importance(space, params)
    return jax.device_get(channel_order.reordered(jax.tree.map(jnp.asarray, params), orders))


def _for_images(
    params: Tree, family: Family, std: Sequence[float] | None, dataset: Dataset
) -> tuple[Tree, list[float], str]:
    """The parameters for images that are divided by what this data's are; by what the published
    ones were; and a line of it.
    """
    if not family.std:
        raise UserError("--std is for images, but this network takes ids of tokens; leave it out")
    given = family.std if std is None else tuple(std)
    ours = dataset.std
    if len(given) != len(ours) or min(given) <= 0:
        raise UserError(
            f"--std is {list(given)}, but must be {len(ours)} numbers above 0, one for each channel"
        )
    ratio = [own / its for own, its in zip(ours, given, strict=True)]
    said = (
        f"its images were divided by {_numbers(given)}, those of --config are by {_numbers(ours)}: "
        f"{'/'.join(family.stem)} is multiplied by {_numbers(ratio)} instead"
    )
    return tensor_mapping.rescaled(params, family.stem, ratio), list(given), said


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
    place, source = network_folder.check_free(expanded(folder)), published_networks.local(source)
    code = None if space_file is None else expanded(space_file)
    made, variables = network_folder.load(source, space_file=code)
    described = manifest.read_description(source)
    built = build.build(config)
    space, dataset = built.space, built.dataset
    if isinstance(made.task, ImageClassification) and isinstance(space.task, ImageClassification):
        _check_images(described, dataset)
    elif made.task != space.task:
        raise UserError(
            f"the network is for {made.task}, but --config is for {space.task}; give a config of "
            "the same data and task"
        )
    key = jax.random.key(built.config.train.seed)
    params, stats, report = plain_network.load(made, variables, space, key=key, sort=sort_channels)
    images = built.prepare(jnp.asarray(dataset.test.images[:PROOF_IMAGES]))
    largest = choices.largest(space.menu)
    difference = extract.prove(space, params, largest, stats, made, variables, images)
    said = (
        f"the largest subnet's logits differ from the network's by {difference:.1e} of the largest "
        f"({len(images)} {space.task.metric.examples}); parameters that the network does not have "
        "keep a random start"
    )
    about = {"sha256": described["sha256"], "sorted": sort_channels}
    imported = Imported(params, report, about, said)
    _write(built, imported, place)
    return imported


def _check_images(described: Mapping[str, Any], dataset: Dataset) -> None:
    """The classes are those of the data; another split of it has nearly the same mean and
    deviation.
    """
    theirs, ours = described["classes"], dataset.class_names
    if theirs != list(ours):
        raise UserError(
            f"the network tells {_classes(theirs)} apart, the data of --config has "
            f"{_classes(ours)}{class_rows.first_difference(theirs, ours)}; give a config of the "
            "same data"
        )
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
