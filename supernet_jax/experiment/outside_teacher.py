"""An extracted network as the teacher of another run."""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.data import Dataset
from supernet_jax.elastic.choices import Array
from supernet_jax.errors import UserError
from supernet_jax.networks import manifest, network_folder
from supernet_jax.networks.importers import class_rows
from supernet_jax.storage import local_copy
from supernet_jax.storage.paths import expanded


def load(
    folder: str | pathlib.Path, dataset: Dataset, *, space_file: str | pathlib.Path | None = None
) -> tuple[Callable[[Array], Array], str | None]:
    """The network of a folder, for images that were prepared for a run on a data set.

    Args:
        folder: of the network.
        dataset: of the run.
        space_file: where the network's own modules are, if they are the user's.

    Returns:
        `images -> logits`, with the logits in the order of the data's classes, and a warning where
        classes could only be matched by their places. The weights are constants of the function.

    Raises:
        UserError: there is no such network, or it is for other images or classes.
    """
    copy = local_copy.local(expanded(folder))
    network, variables = network_folder.load(copy, space_file=space_file)
    description = manifest.read_description(copy)
    if dataset.tokens is not None or "classes" not in description:
        raise UserError(
            f"train.teacher {folder} cannot teach a run on {dataset.name}: outside teachers "
            "are for images so far; leave it out, and the largest subnet teaches"
        )
    names, channels = description["classes"], description["input_channels"]
    own = len(dataset.class_names), dataset.train.images.shape[-1]
    if (len(names), channels) != own:
        raise UserError(
            f"train.teacher {folder} tells {len(names)} classes apart in images of {channels} "
            f"channels; the data has {own[0]} classes and {own[1]} channels"
        )
    order, warning = class_rows.matched(names, dataset.class_names), None
    if order is None:
        difference = class_rows.first_difference(names, dataset.class_names)
        warning = (
            f"the classes of train.teacher {folder} have other names than those of the "
            f"data{difference}; they are taken by their places"
        )
    kept = jax.device_get(variables)
    # From numbers as the run normalises its images to numbers as the network's own were.
    mean, std = (np.asarray(description[name], np.float32) for name in ("mean", "std"))
    scale = (np.asarray(dataset.std, np.float32) / std).reshape(1, 1, 1, -1)
    shift = ((np.asarray(dataset.mean, np.float32) - mean) / std).reshape(1, 1, 1, -1)

    def teacher(images: Array) -> Array:
        logits = jnp.asarray(network.apply(kept, images * scale + shift))
        in_place = order is None or order == sorted(order)
        return logits if in_place else logits[..., np.asarray(order)]

    return teacher, warning
