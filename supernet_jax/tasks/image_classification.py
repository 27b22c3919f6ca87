"""Square images in one of several classes.

Shape letters: `B` images, `H` x `W` pixels, `C` channels, `K` classes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError
from supernet_jax.nn import resize
from supernet_jax.tasks.task import Array, Metric, Scores, Size


@dataclasses.dataclass(frozen=True)
class ImageClassification:
    """Images `[B, H, W, C]` and labels `[B]`; networks put out logits `[B, K]`.

    The first static decision of a space is the resolution: pixels of both sides.

    Attributes:
        input_channels: C.
        classes: K.
    """

    input_channels: int
    classes: int

    name = "image classification"
    metric = Metric("accuracy", "%", mean_of="right", examples="images")

    @property
    def guess(self) -> float:
        """Of equal probabilities."""
        return math.log(self.classes)

    def inputs(self, size: Size) -> jax.ShapeDtypeStruct:
        """One image."""
        pixels = _pixels(size)
        return jax.ShapeDtypeStruct((1, pixels, pixels, self.input_channels), jnp.float32)

    def fit(self, inputs: Array, size: Size) -> Array:
        """Bicubic, as PyTorch's `interpolate`."""
        return resize.resize_bicubic(inputs.astype(jnp.float32), _pixels(size))

    def score(self, outputs: Array, targets: Array) -> Scores:
        """Whether each image is right, and its cross-entropy. Of mixed labels `[B, K]` the one with
        the larger share counts.
        """
        losses = optax.losses
        if targets.ndim == 1:
            wanted = targets
            loss = losses.softmax_cross_entropy_with_integer_labels(outputs, targets)
        else:
            wanted = jnp.argmax(targets, -1)
            loss = losses.safe_softmax_cross_entropy(outputs, targets)
        # Of logits that are not numbers the first would be the largest.
        return {"right": (jnp.argmax(outputs, -1) == wanted) & jnp.isfinite(loss), "loss": loss}

    def value(self, scores: Scores) -> Any:
        """Share of images that are right."""
        return scores["right"].mean()


def _pixels(size: Size) -> int:
    """The resolution, the first of static decisions."""
    if isinstance(size, int):
        return size
    if not size:
        raise UserError(
            "a space of images has no static decision, but its images need a resolution; put one "
            'in its menu, and give static=(("resolution",),)'
        )
    return int(size[0])
