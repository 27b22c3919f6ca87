"""AdamW, for small experiments."""

import dataclasses
from collections.abc import Callable

import optax

from supernet_jax.runtime.path_rules import Params
from supernet_jax.training.optimizers import schedules


def adamw(
    schedule: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    clip_norm: float | None = None,
    decay_mask: Callable[[Params], Params] = schedules.decay_mask,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with the same choice of who decays.

    Args:
        schedule: learning rate, a number or a function of the step.
        b1: decay of the mean of the gradients.
        b2: decay of the mean of their squares.
        eps: added to the root of the latter.
        weight_decay: decoupled, multiplied by the learning rate.
        clip_norm: bound of the gradient's global norm; None for no clipping.
        decay_mask: `params -> tree of bool`, which of them decay.
    """
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask),
    )


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW with warm-up and cosine, for small experiments."""

    learning_rate: float = 1e-3
    """peak learning rate"""
    warmup: float = 0.02
    """share of the steps spent warming up"""
    weight_decay: float = 1e-4
    """weight decay, of kernels only"""
    clip_norm: float = 1.0
    """largest global norm of the gradient; larger ones are scaled to it"""

    def schedule(self, *, steps: int) -> optax.Schedule:
        """Learning rate by step, of a run of so many steps."""
        return schedules.checked_warmup_cosine(self.learning_rate, self.warmup, steps)

    def build(self, *, steps: int) -> optax.GradientTransformation:
        """The optimiser for a run of so many steps."""
        schedule = self.schedule(steps=steps)
        schedules.require_setting(
            "weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0"
        )
        schedules.require_setting("clip-norm", self.clip_norm, self.clip_norm > 0, "above 0")
        return adamw(schedule, weight_decay=self.weight_decay, clip_norm=self.clip_norm)
