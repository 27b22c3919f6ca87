"""The adaptive alpha-divergence (AlphaNet)."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError, require
from supernet_jax.training.losses import loss

Array = jax.Array

_NEAR = 1e-3  # an alpha this close to 0 or 1 is taken for the limit, as published


def adaptive_alpha_divergence(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha_min: float = -1.0,
    alpha_max: float = 1.0,
    clip: float = 5.0,
    where: Array | None = None,
) -> Array:
    """The surrogate of whichever of two alpha-divergences is larger, row by row.

    A small alpha punishes a student that over-estimates its teacher's uncertainty, a large one a
    student that under-estimates it (Wang et al. 2021, AlphaNet, arXiv:2102.07954). On a tie
    `alpha_max` is taken.

    The value is the surrogate `-sum_k stop(q_k rho_k) log q_k`, as AlphaNet reports it. It may be
    negative and is no divergence; only its gradient is one. See `alpha_terms` for rho.

    Two differences from the published code, both deliberate: where probabilities underflow, that
    code compares NaN and so falls back to `alpha_max`, while here the divergences stay exact and
    are compared; and an `alpha_min` of 0 means 0, not the default.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
        alpha_min: the first alpha.
        alpha_max: the second alpha.
        clip: upper bound of `w ** alpha`, positive and finite.
        where: bool [B], what counts; None for all.

    Raises:
        UserError: if `clip` is out of range.
    """
    student, teacher = loss.precise_pair(student_logits, teacher_logits)
    log_q, log_p = map(jax.nn.log_softmax, (jax.lax.stop_gradient(student), teacher))
    first = alpha_terms(log_q, log_p, alpha=alpha_min, clip=clip)
    second = alpha_terms(log_q, log_p, alpha=alpha_max, clip=clip)
    pick_first = first.divergence > second.divergence
    weights = jnp.where(pick_first[:, None], first.weights, second.weights)
    return loss.mean(optax.losses.safe_softmax_cross_entropy(student, weights), where)


class AlphaTerms(NamedTuple):
    """One alpha-divergence and what its gradient needs.

    Attributes:
        divergence: [B], the (clipped) alpha-divergence of teacher and student.
        weights: [B, K], `q * rho`. The surrogate's gradient with respect to student logit j is
            `q_j * sum_k weights_k - weights_j`.
    """

    divergence: Array
    weights: Array


def alpha_terms(log_q: Array, log_p: Array, *, alpha: float, clip: float) -> AlphaTerms:
    """The alpha-divergence `sum_k q_k (a_k - 1) / (alpha (alpha - 1))` and its weights.

    Here `a = min(w ** alpha, clip)` and `rho = a / alpha + 1 / (alpha (alpha - 1))`; the constant
    in rho has no gradient. The limits are KL(p || q) at alpha = 1, never clipped, with rho = w,
    and KL(q || p) at alpha = 0, where w itself is clipped, with rho = log w - 1.

    Ratios and powers are taken of logarithms only, so probabilities may underflow to zero.

    Args:
        log_q: [B, K], log-probabilities of the student.
        log_p: [B, K], log-probabilities of the teacher.
        alpha: any number.
        clip: upper bound of `w ** alpha`, positive and finite.

    Raises:
        UserError: if `clip` is out of range.
    """
    if not 0 < clip < math.inf:
        raise UserError(f"clip is {clip}; it must be positive and finite, for instance clip=5.0")
    if abs(alpha - 1) < _NEAR:
        divergence = optax.losses.kl_divergence_with_log_targets(log_q, log_p)
        return AlphaTerms(divergence, jnp.exp(log_p))
    q, log_w = jnp.exp(log_q), log_p - log_q
    if abs(alpha) < _NEAR:
        log_w = jnp.minimum(log_w, math.log(clip))
        return AlphaTerms(-jnp.sum(q * log_w, axis=-1), q * (log_w - 1))
    # (a - 1) / alpha in one piece: for a small alpha, a - 1 and the two terms of rho would cancel
    slope = jnp.expm1(jnp.minimum(alpha * log_w, math.log(clip))) / alpha
    return AlphaTerms(jnp.sum(q * slope, axis=-1) / (alpha - 1), q * (slope + 1 / (alpha - 1)))


@dataclasses.dataclass(frozen=True)
class AlphaDivergence:
    """In-place distillation by the adaptive alpha-divergence (AlphaNet)."""

    smoothing: float = 0.1
    """label smoothing of the largest subnet's cross-entropy"""
    alpha_min: float = -1.0
    """first of the two alphas; each example takes the one whose divergence is larger"""
    alpha_max: float = 1.0
    """second of the two alphas"""
    clip: float = 5.0
    """upper limit of the importance weights; more lets single options weigh more"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> loss.Loss:
        """The loss."""
        require(self.clip > 0, f"loss.clip is {self.clip}, must be above 0")
        divergence = functools.partial(
            adaptive_alpha_divergence,
            alpha_min=self.alpha_min,
            alpha_max=self.alpha_max,
            clip=self.clip,
        )
        return loss.in_place_distillation(
            divergence, smoothing=self.smoothing, hard_weight=self.hard_weight
        )
