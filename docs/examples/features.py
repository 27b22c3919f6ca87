"""A loss on features of one's own: a subnet's channels match those of the largest, one by one.

supernet train docs/examples/features.py --out runs/hints
"""

import dataclasses

import jax
import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.training.losses.divergences import kl_divergence
from supernet_jax.training.losses.features import with_features
from supernet_jax.training.losses.loss import Array, Loss, in_place_distillation


def hints(student: Array, teacher: Array) -> Array:
    """Mean squared difference over the channels that a subnet has: a scalar.

    Hints (Romero et al. 2015, arXiv:1412.6550) without a regressor: a subnet has the
    leading channels of the largest, so channels can be compared as they are. A masked subnet has
    the others, too, but they are zero; they do not count, whichever strategy runs.

    Args:
        student: [B, H, W, C].
        teacher: [B, H, W, C'] with C' at least C, taken as constants.
    """
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    difference = student - jax.lax.stop_gradient(teacher[..., : student.shape[-1]])
    places = tuple(range(student.ndim - 1))
    alive = jnp.any(student != 0, axis=places)  # [C]
    squares = jnp.where(alive, jnp.mean(jnp.square(difference), axis=places), 0.0)
    return jnp.sum(squares) / jnp.maximum(jnp.sum(alive), 1)


@dataclasses.dataclass(frozen=True)
class Hints:
    """In-place distillation by KL, and by the features of the blocks of `train.features`."""

    weight: float = 1.0
    """of the features; the logits' divergence has 1"""
    smoothing: float = 0.1
    """label smoothing"""

    def build(self) -> Loss:
        """The loss."""
        loss = in_place_distillation(kl_divergence, smoothing=self.smoothing)
        return with_features(loss, hints, weight=self.weight)


config = sj.Config(loss=Hints(), train=sj.Train(features=("stage2_block1", "stage3_block1")))
