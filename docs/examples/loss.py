"""A loss of one's own: the others match the logits of the largest subnet.

supernet train docs/examples/loss.py --out runs/matching
supernet train docs/examples/loss.py --out runs/matching --loss.hard-weight 0.5
"""

import dataclasses

import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.training.losses.loss import Array, Loss, in_place_distillation, precise_pair


def squared_distance(student_logits: Array, teacher_logits: Array) -> Array:
    """Half the mean square of the difference of centred logits: a scalar.

    After Ba & Caruana 2014 (arXiv:1312.6184), who compare logits as they are. Here only
    differences of the logits of an image count, as in any softmax: a constant is taken out first.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
    """
    student, teacher = precise_pair(student_logits, teacher_logits)
    difference = student - teacher
    centred = difference - jnp.mean(difference, axis=-1, keepdims=True)
    return jnp.mean(jnp.square(centred)) / 2


@dataclasses.dataclass(frozen=True)
class LogitMatching:
    """Labels teach the largest subnet; the others match its logits."""

    smoothing: float = 0.1
    """label smoothing"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> Loss:
        """The loss."""
        return in_place_distillation(
            squared_distance, smoothing=self.smoothing, hard_weight=self.hard_weight
        )


config = sj.Config(loss=LogitMatching())
