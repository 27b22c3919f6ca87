"""What `network.json` says of an image classifier that was taken out of a supernet."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from supernet_jax.data.preparation import Preparation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks import manifest, network_folder
from supernet_jax.networks.classifier_manifest import VERSION
from supernet_jax.networks.description import common, librarys_topology, no_folder
from supernet_jax.networks.network import Network, Variables
from supernet_jax.tasks import ImageClassification


def describe(
    space: Space,
    arch: Arch,
    made: Network,
    variables: Variables,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    preparation: Preparation | None = None,
    classes: Sequence[str] | None = None,
    accuracy: Mapping[str, float],
    calibration: tuple[int, int],
    source: Mapping[str, Any],
    proof: float,
    proof_images: int,
) -> dict[str, Any]:
    """What `network.json` says of an image classifier; see `classifier_manifest.Description`.

    Args:
        space: the space.
        arch: concrete, no batch axes.
        made: the extracted module.
        variables: its variables.
        mean: per channel, of pixels in 0..1, subtracted before the network.
        std: per channel, likewise, divided by.
        preparation: how an image became the pixels that the network was trained and measured on;
            None where that is not known.
        classes: their names in the order of the logits; None numbers them.
        accuracy: share classified correctly in [0, 1] by the name of the split, with statistics of
            this calibration.
        calibration: number of batches and images in a batch; not said of a network without
            statistics.
        source: JSON values that tell where it comes from, as run, checkpoint and step.
        proof: as `prove` returned it.
        proof_images: on how many images.

    Raises:
        UserError: a number of channels or classes that is not the space's; blocks or a topology
            that no file of the user's defines at top level.
    """
    task = _task(space)
    classes = [str(i) for i in range(task.classes)] if classes is None else classes
    for what, given, needed in (
        ("mean", mean, task.input_channels),
        ("std", std, task.input_channels),
        ("class names", classes, task.classes),
    ):
        if len(given) != needed:
            raise UserError(f"{len(given)} {what} were given, but the space has {needed}")
    resolution, *others = (made.size,) if isinstance(made.size, int) else made.size
    topology = librarys_topology(made)
    batches, batch = calibration if jax.tree.leaves(variables.get("stats", {})) else (0, 0)
    value = {
        **common(space, arch, made, variables, source=source, proof=(proof, proof_images)),
        "version": VERSION,
        "resolution": resolution,
        "input_channels": task.input_channels,
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
        "preparation": None if preparation is None else dataclasses.asdict(preparation),
        "classes": list(classes),
        "accuracy": {split: float(share) for split, share in accuracy.items()},
        "calibration": {"batches": batches, "batch": batch},
        **({"static": others} if others else {}),
        **({} if topology is None else {"topology": topology}),
    }
    return {**value, "sha256": network_folder.digest(manifest.described(value), variables)}


def _task(space: Space) -> ImageClassification:
    if not isinstance(space.task, ImageClassification):
        raise no_folder(space)
    return space.task
