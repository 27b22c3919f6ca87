"""Learning rates by step, and which parameters decay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError, require
from supernet_jax.runtime import path_rules
from supernet_jax.runtime.path_rules import Groups, Params

Array = jax.Array

DECAY, NO_DECAY = "decay", "no decay"
# The first expression that matches the path "block/layer/leaf" decides.
DECAY_GROUPS: Groups = (
    (r"(.*/)?transforms/.*", NO_DECAY),  # zero is no natural value for these
    (r"(.*/)?kernel", DECAY),  # products of matrices, squeeze-excitation, shortcuts
    (r".*", NO_DECAY),  # biases and scales, and whatever else a block may have
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

    By default kernels decay; biases, norm scales, learned kernel transforms and all others do not,
    as in AlphaNet and AttentiveNAS. A network with other parameters that should passes its own
    groups: `functools.partial(decay_mask, groups=((r".*/embedding", DECAY), *DECAY_GROUPS))`.

    Args:
        params: nested dicts with any leaves.
        groups: as in `param_groups`; members of the group `DECAY` decay.

    Raises:
        UserError: naming the paths that no expression of `groups` matches.
    """
    return jax.tree.map(
        lambda group: group == DECAY, path_rules.param_groups(params, groups=groups)
    )


def checked_warmup_cosine(learning_rate: float, warmup: float, steps: int) -> optax.Schedule:
    """`warmup_cosine` of a part's settings.

    Args:
        learning_rate: at the peak.
        warmup: share of the steps, in [0, 1).
        steps: of the run.

    Raises:
        UserError: a setting out of its range.
    """
    require_setting("learning-rate", learning_rate, learning_rate > 0, "above 0")
    require_setting("warmup", warmup, 0 <= warmup < 1, "in [0, 1)")
    return warmup_cosine(learning_rate, steps=steps, warmup_steps=round(warmup * steps))


def require_setting(name: str, value: float, right: bool, allowed: str) -> None:
    """Raises a `UserError` that names the setting unless it is right."""
    require(right, f"optimizer.{name} is {value}, but must be {allowed}")
