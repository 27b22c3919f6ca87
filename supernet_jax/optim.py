"""Optimisers: learning-rate schedules, who decays, and the published recipe as an optax chain.

Optax does the work. Averages of the parameters are `optax.incremental_update` or `optax.ema`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError
from supernet_jax.runtime import path_rules
from supernet_jax.runtime.path_rules import Groups, Params

Array = jax.Array

DECAY, NO_DECAY = "decay", "no decay"
# The first expression that matches the path "block/layer/leaf" decides.
DECAY_GROUPS: Groups = (
    (r"(.*/)?transforms/.*", NO_DECAY),  # zero is no natural value for these
    (r"(.*/)?kernel", DECAY),  # convolutions, linear layers, squeeze-excitation, shortcuts
    (r"(.*/)?(bias|scale)", NO_DECAY),
)


def warmup_cosine(
    base_lr: float, *, steps: int, warmup_steps: int = 0, warmup_factor: float = 0.001
) -> optax.Schedule:
    """A cosine to zero over the whole run, multiplied by a linear warm-up.

    `base_lr * f * (1 + cos(pi t / steps)) / 2` with `f` rising linearly from `warmup_factor` at
    t = 0 to 1 at `warmup_steps`. The cosine starts at t = 0, not at the end of the warm-up (as
    AlphaNet and AttentiveNAS train; `optax.warmup_cosine_decay_schedule` shifts it).

    Args:
        base_lr: the peak, were there no warm-up.
        steps: T, where the rate arrives at zero; it stays there.
        warmup_steps: in [0, steps].
        warmup_factor: in [0, 1].

    Returns:
        `step -> learning rate`, within a relative 1e-6 of exact in float32 for any T < 2**24.

    Raises:
        UserError: if the step counts do not fit each other.
    """
    if not 0 <= warmup_steps <= steps or steps < 1:
        raise UserError(
            f"the schedule has steps={steps} and warmup_steps={warmup_steps}; it needs steps >= 1 "
            "and 0 <= warmup_steps <= steps: train longer or shorten the warm-up"
        )

    def schedule(step: Any) -> Array:
        step = jnp.asarray(step)
        ramp = warmup_factor + (1 - warmup_factor) * step / max(warmup_steps, 1)
        # sin(x)**2 instead of (1 + cos)/2: the sum would lose all its digits towards the end
        left = jnp.maximum(steps - step, 0) / steps
        cosine = jnp.square(jnp.sin(jnp.pi / 2 * left))
        return base_lr * jnp.where(step < warmup_steps, ramp, 1.0) * cosine

    return schedule


def decay_mask(params: Params, *, groups: Groups = DECAY_GROUPS) -> Params:
    """True for the parameters that weight decay shrinks.

    By default kernels decay; biases, norm scales and learned kernel transforms do not, as in
    AlphaNet and AttentiveNAS. A network with other parameters passes its own groups:
    `functools.partial(decay_mask, groups=((r".*/positions", NO_DECAY), *DECAY_GROUPS))`.

    Args:
        params: nested dicts with any leaves.
        groups: as in `param_groups`; members of the group `DECAY` decay.

    Raises:
        UserError: naming the paths that no expression matches.
    """
    return jax.tree.map(
        lambda group: group == DECAY, path_rules.param_groups(params, groups=groups)
    )


def alphanet_sgd(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-5,
    clip_value: float | None = 1.0,
    decay_mask: Callable[[Params], Params] = decay_mask,
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


def adamw(
    schedule: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    clip_norm: float | None = None,
    decay_mask: Callable[[Params], Params] = decay_mask,
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
