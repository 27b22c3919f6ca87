"""Image files as an extracted network takes them.

module, variables = network_folder.load(folder)
images = inputs(folder, ["cat.jpg"])  # float [B, H, W, C], as it was trained and measured
logits = module.apply(variables, images)  # float32 [B, K]
"""

import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from supernet_jax.data import augment, preparation
from supernet_jax.errors import UserError
from supernet_jax.networks import published_networks
from supernet_jax.networks.manifest import GeneralDescription, described, read_description, task_of
from supernet_jax.storage import hub


def inputs(folder: str | pathlib.Path, images: Sequence[str | pathlib.Path]) -> np.ndarray:
    """Image files as the network takes them: float32 `[B, H, W, C]`.

    Cropped, resized and normalised as the images that it was trained and measured on.

    Args:
        folder: of an extracted network, or its place on the hub, as for `load`.
        images: files that Pillow reads.

    Raises:
        UserError: the folder does not say how images were prepared; no image, or a file that is
            none or cannot be read.
    """
    there = published_networks.local(folder) if hub.address(folder) else folder
    d = described(read_description(there), "network.json")
    if isinstance(d, GeneralDescription):
        raise UserError(
            f"{folder} holds a network for {task_of(d).name}, which takes no images; its README.md "
            "says what it takes"
        )
    if d.preparation is None or d.input_channels not in preparation.MODES:
        raise UserError(
            f"{folder} does not say how an image file becomes the pixels that it was trained on; "
            "give it float arrays [B, H, W, C], (pixel / 255 - mean) / std, or extract it again"
        )
    if isinstance(images, str | pathlib.Path) or not images:
        raise UserError(f"images is {str(images)!r}, but must be a list of at least one file")
    made = [preparation.pixels(image, d.preparation, d.input_channels) for image in images]
    return np.asarray(augment.normalise(jnp.asarray(np.stack(made)), mean=d.mean, std=d.std))
