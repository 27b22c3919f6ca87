"""AlphaNet's optimiser."""

import dataclasses
from collections.abc import Callable

import optax

from supernet_jax.runtime.path_rules import Params
from supernet_jax.training.optimizers import schedules


def alphanet_sgd(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-5,
    clip_value: float | None = 1.0,
    decay_mask: Callable[[Params], Params] = schedules.decay_mask,
) -> optax.GradientTransformation:
    """SGD as AlphaNet uses it, to be fed the sum of a sandwich's gradients.

    In this order, which is PyTorch's after `clip_grad_value_`: each element of the gradient is
    clipped; then decay is added, so that it is never clipped; then momentum,
    `v <- momentum * v + g`, and with Nesterov `g + momentum * v`; then the learning rate, which
    therefore does not enter `v`.

    Known difference: PyTorch leaves a parameter without gradient alone. Here a parameter that no
    member of the step uses has a zero gradient: it still decays and its momentum still moves it.

    Args:
        schedule: learning rate, a number or a function of the step.
        momentum: in [0, 1).
        nesterov: whether to look one step ahead.
        weight_decay: coefficient of the L2 penalty's gradient.
        clip_value: bound of each gradient element; None for no clipping.
        decay_mask: `params -> tree of bool`, which of them decay.
    """
    return optax.chain(
        optax.identity() if clip_value is None else optax.clip(clip_value),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.trace(momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(schedule),
    )


@dataclasses.dataclass(frozen=True)
class Sgd:
    """AlphaNet's recipe: clip by value, decay, Nesterov momentum, warm-up and cosine."""

    learning_rate: float = 0.1
    """peak learning rate; published: 0.1 per 256 examples"""
    warmup: float = 0.02
    """share of the steps spent warming up"""
    momentum: float = 0.9
    """momentum of Nesterov's method; more averages over more steps"""
    weight_decay: float = 1e-5
    """weight decay, of kernels only"""
    clip: float = 1.0
    """largest absolute value of a gradient's element; larger ones are clipped to it"""

    def schedule(self, *, steps: int) -> optax.Schedule:
        """Learning rate by step, of a run of so many steps."""
        return schedules.checked_warmup_cosine(self.learning_rate, self.warmup, steps)

    def build(self, *, steps: int) -> optax.GradientTransformation:
        """The optimiser for a run of so many steps."""
        schedule = self.schedule(steps=steps)
        schedules.require_setting("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        schedules.require_setting(
            "weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0"
        )
        schedules.require_setting("clip", self.clip, self.clip > 0, "above 0")
        return alphanet_sgd(
            schedule,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_value=self.clip,
        )
