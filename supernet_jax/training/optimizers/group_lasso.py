"""Hierarchical group lasso, behind any optimiser: ranks that are not needed become exactly zero.

Shape letters: `I` inputs of a factor, `O` outputs, `R` ranks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import require
from supernet_jax.runtime import path_rules
from supernet_jax.runtime.path_rules import Groups, Params
from supernet_jax.training.optimizers.adamw import AdamW
from supernet_jax.training.optimizers.schedules import require_setting

Array = jax.Array
# Which axis of a leaf counts ranks: the last of a first factor, the first of a second; None for
# leaves that are left alone.
FACTORS: Groups = ((r"(.*/)?down/kernel", -1), (r"(.*/)?up/kernel", 0), (r".*", None))


def group_lasso(
    schedule: optax.ScalarOrSchedule, *, weight: float, axes: Groups = FACTORS
) -> optax.GradientTransformation:
    """The last transformation of a chain: after its step, a proximal one of the penalty

        weight * sum over factors, sum over k of || ranks k to R of the factor ||,

    which is Maestro's (Horvath et al. 2023, arXiv 2308.14929, as `_compute_lasso` of the published
    code has it): a rank is in as many groups as its number, so that the last are shrunk the most.
    Maestro adds the penalty to the loss, whose gradient leaves small numbers; the proximal step is
    that of nested groups (Jenatton et al. 2011, arXiv 1009.2139), which makes zeros.

    Args:
        schedule: learning rate of the chain; the penalty's step is `rate * weight`.
        weight: of the penalty, at least 0; a larger one leaves fewer ranks.
        axes: of the parameters' paths: which axis of each counts ranks, None for those that are
            left alone.
    """

    def init(params: Params) -> Array:
        del params
        return jnp.int32(0)

    def update(updates: Params, step: Array, params: Params | None = None) -> Any:
        assert params is not None
        rate = schedule(step) if callable(schedule) else schedule
        of_ranks = path_rules.param_groups(params, groups=axes)

        def one(update: Array, value: Array, axis: int | None) -> Array:
            if axis is None:
                return update
            return shrunk(value + update, axis, rate * weight) - value

        made = jax.tree.map(one, updates, params, of_ranks, is_leaf=lambda leaf: leaf is None)
        return made, step + 1

    return optax.GradientTransformation(init, update)


def shrunk(factor: Array, axis: int, by: Any) -> Array:
    """The proximal step of `by * sum_k || ranks k to R ||`: each trailing group is shrunk by its
    norm, the smallest first.

    Args:
        factor: of any rank.
        axis: which counts ranks.
        by: at least 0.
    """
    rows = jnp.moveaxis(factor, axis, 0)
    squares = jnp.sum(jnp.square(rows.reshape(len(rows), -1)), 1)

    # A group is shrunk as a whole, so that what becomes of its norm tells what becomes of its
    # ranks: one pass over ranks, from the last, whatever a rank's size.
    def pass_one(behind: Array, square: Array) -> tuple[Array, Array]:
        norm = jnp.sqrt(behind + square)
        kept = jnp.where(norm > by, 1 - by / jnp.where(norm > by, norm, 1), 0)
        return jnp.square(kept * norm), kept

    _, kept = jax.lax.scan(pass_one, jnp.zeros_like(squares[0]), squares, reverse=True)
    factors = jnp.cumprod(kept)  # a rank is in its own group and in all before it
    scaled = rows * factors.reshape(-1, *(1,) * (rows.ndim - 1)).astype(rows.dtype)
    return jnp.moveaxis(scaled, 0, axis)


@dataclasses.dataclass(frozen=True)
class GroupLasso:
    """Another optimiser, and behind it a hierarchical group lasso that makes ranks zero."""

    inner: Any = dataclasses.field(default_factory=AdamW)
    """the optimiser whose steps the lasso follows: its own part of a configuration"""
    weight: float = 0.1
    """weight of the lasso; a larger one leaves fewer ranks"""

    def schedule(self, *, steps: int) -> optax.Schedule:
        """Learning rate by step, of a run of so many steps."""
        made: optax.Schedule = self.inner.schedule(steps=steps)
        return made

    def build(self, *, steps: int) -> optax.GradientTransformation:
        """The optimiser for a run of so many steps."""
        require(
            hasattr(self.inner, "build") and hasattr(self.inner, "schedule"),
            f"optimizer.inner is {self.inner!r}; give a part that is an optimiser with a schedule, "
            "as AdamW()",
        )
        require_setting("weight", self.weight, self.weight >= 0, "at least 0")
        rate = self.schedule(steps=steps)
        return optax.chain(self.inner.build(steps=steps), group_lasso(rate, weight=self.weight))
