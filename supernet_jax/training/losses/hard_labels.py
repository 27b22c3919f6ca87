"""Cross-entropy to the labels for every subnet."""

import dataclasses

import jax

from supernet_jax.training.losses.loss import (
    Features,
    Loss,
    Role,
    check_smoothing,
    cross_entropy,
    rows,
)

Array = jax.Array


def hard_labels(*, smoothing: float = 0.0) -> Loss:
    """Every member learns from the labels; no distillation.

    Args:
        smoothing: of the labels, in [0, 1).

    Raises:
        UserError: if the smoothing is out of range.
    """
    check_smoothing(smoothing)

    def loss(
        student_logits: Array,
        teacher_logits: Array | None,
        features: Features,
        labels: Array,
        role: Role,
    ) -> Array:
        del teacher_logits, features, role
        student, _, wanted, where = rows(student_logits, None, labels)
        return cross_entropy(student, wanted, smoothing=smoothing, where=where)

    return loss


@dataclasses.dataclass(frozen=True)
class HardLabels:
    """Cross-entropy to the labels for every subnet: no distillation."""

    smoothing: float = 0.1
    """label smoothing"""

    def build(self) -> Loss:
        """The loss."""
        return hard_labels(smoothing=self.smoothing)
