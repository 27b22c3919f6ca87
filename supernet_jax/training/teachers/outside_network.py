"""An ordinary network as a teacher: its inputs, its classes, and its weights as the memory.

Shape letters: `B` images of a step, `C` channels of an image, `K` classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.data import Dataset, class_rows
from supernet_jax.errors import LOG, UserError
from supernet_jax.networks.network import Network, Variables
from supernet_jax.tasks import Task
from supernet_jax.training.teachers.teacher import Array, Taught, Teacher


class OutsideNetwork(NamedTuple):
    """A network that is trained already, and what it knows of images.

    Attributes:
        name: that messages call it.
        module: `apply(variables, images) -> logits`.
        variables: its weights and statistics.
        classes: K names, in the order of its logits.
        mean: C numbers: what images were normalised by, in 0..1.
        std: C numbers: the same.
    """

    name: str
    module: Network
    variables: Variables
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]


def check_is_of_images(name: str, dataset: Dataset) -> None:
    """Makes sure that a run on a data set can be taught from outside.

    Raises:
        UserError: it is of something else.
    """
    if not dataset.is_of_images:
        raise UserError(
            f"the teacher {name} is for images, as other runs are that teach, but {dataset.name} "
            "is not; give a network that was extracted, as ExtractedNetwork(folder=...), or leave "
            "it out, and the largest subnet teaches"
        )


def of_same_task(name: str, module: Network, variables: Variables, task: Task) -> Teacher:
    """A network for the very task of a run, whose inputs it takes as they are; it does not learn.

    Args:
        name: that messages call it.
        module: `apply(variables, inputs) -> outputs`.
        variables: its weights and statistics.
        task: of the run.

    Raises:
        UserError: it is for another task.
    """
    if module.task != task:
        raise UserError(
            f"the teacher {name} is for {module.task}, but the run is for {task}; give one that "
            "was trained on this data"
        )
    kept = jax.device_get(variables)
    return Teacher(
        init=lambda params: kept,
        teach=lambda memory, inputs: Taught(jnp.asarray(module.apply(memory, inputs)), {}),
        update=lambda memory, params, step: memory,
        role="largest",
    )


def teaching(network: OutsideNetwork, dataset: Dataset) -> Teacher:
    """A network that teaches a run on a data set, and does not learn.

    It gets the images of the step, normalised as its own; its logits come in the order of the
    data's classes. Features come from the largest subnet of the step, as without it.

    Args:
        network: what teaches.
        dataset: of the run.

    Raises:
        UserError: it is for other images or classes.
    """
    theirs = len(network.classes), len(network.mean)
    ours = len(dataset.class_names), dataset.train.images.shape[-1]
    if theirs != ours:
        raise UserError(
            f"the teacher {network.name} tells {theirs[0]} classes apart in images of {theirs[1]} "
            f"channels; the data has {ours[0]} classes and {ours[1]} channels"
        )
    order = class_rows.matched(network.classes, dataset.class_names)
    if order is None and jax.process_index() == 0:
        difference = class_rows.first_difference(network.classes, dataset.class_names)
        LOG.warning(
            f"warning: the classes of the teacher {network.name} have other names than those of "
            f"the data{difference}; they are taken by their places"
        )
    module, kept = network.module, jax.device_get(network.variables)
    # From numbers as the run normalises its images to numbers as the network's own were.
    mean, std = (np.asarray(numbers, np.float32) for numbers in (network.mean, network.std))
    scale = (np.asarray(dataset.std, np.float32) / std).reshape(1, 1, 1, -1)
    shift = ((np.asarray(dataset.mean, np.float32) - mean) / std).reshape(1, 1, 1, -1)

    def teach(memory: Any, inputs: Array) -> Taught:
        logits = jnp.asarray(module.apply(memory, inputs * scale + shift))
        in_place = order is None or order == sorted(order)
        return Taught(logits if in_place else logits[..., np.asarray(order)], {})

    return Teacher(
        init=lambda params: kept,
        teach=teach,
        update=lambda memory, params, step: memory,
        role="largest",
    )
