"""Distillation from an outside network (Once-for-All)."""

import dataclasses

import jax

from supernet_jax.errors import UserError
from supernet_jax.training.losses import divergences
from supernet_jax.training.losses.loss import (
    Divergence,
    Features,
    Loss,
    Role,
    in_place_distillation,
    tempered,
)

Array = jax.Array


def outside_distillation(
    divergence: Divergence, *, smoothing: float = 0.0, hard_weight: float = 0.5
) -> Loss:
    """One teacher for every member, the largest too: `(1 - v) D + v CE`.

    For a teacher that is no member of the step (`sj.teachers`), as Once-for-All has it (Cai
    et al. 2020, arXiv:1908.09791); the mixture is that of Hinton et al. 2015 (arXiv:1503.02531).
    With `in_place_distillation` such a teacher takes the place of the largest, which then learns
    from labels alone.

    Args:
        divergence: `(student_logits, teacher_logits) -> scalar`.
        smoothing: of the labels, in [0, 1).
        hard_weight: v, in [0, 1].

    Raises:
        UserError: if a number is out of range; from the loss, if there is no teacher.
    """
    taught = in_place_distillation(divergence, smoothing=smoothing, hard_weight=hard_weight)

    def loss(
        student_logits: Array,
        teacher_logits: Array | None,
        features: Features,
        labels: Array,
        role: Role,
    ) -> Array:
        if role == "largest" and teacher_logits is None:
            raise UserError(
                "this loss needs a teacher for the largest subnet too, which is no member of the "
                "step; set teacher to another of sj.teachers, as ExtractedNetwork(folder=...)"
            )
        role = "random" if role == "largest" else role
        return taught(student_logits, teacher_logits, features, labels, role)

    return loss


@dataclasses.dataclass(frozen=True)
class OutsideTeacher:
    """KL to a teacher that is no member of the step, for every subnet, and labels (OFA)."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """divisor of the logits; more softens distributions; the loss is multiplied by its square"""
    hard_weight: float = 0.5
    """weight of the labels, in [0, 1]; the teacher has the rest"""

    def build(self) -> Loss:
        """The loss."""
        divergence = tempered(divergences.kl_divergence, temperature=self.temperature)
        return outside_distillation(
            divergence, smoothing=self.smoothing, hard_weight=self.hard_weight
        )
