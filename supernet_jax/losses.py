"""Losses: cross-entropy on labels, and divergences from a student to its teacher.

A *divergence* maps the logits of student and teacher to a scalar; the teacher gets no gradient.
A `Loss` is what a training step calls for each member of a sandwich. Everything is computed in
float32 or better, whatever the dtype of the logits, and averaged over the batch.

Shape letters: `B` images of a batch, `K` classes. `q` and `p` are the probabilities of student
and teacher, `w = p / q`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError

Array = jax.Array
Features = Mapping[str, Any]  # named activations
Role = Literal["largest", "random", "smallest"]
Divergence = Callable[[Array, Array], Array]  # (student logits, teacher logits) -> scalar
# (student_logits, teacher_logits, features, labels, role) -> scalar. The teacher's logits are None
# for the largest member, features may be empty, labels are integers [B], role is a static `Role`.
Loss = Callable[..., Array]

_NEAR = 1e-3  # an alpha this close to 0 or 1 is taken for the limit, as published


def cross_entropy(logits: Array, labels: Array, *, smoothing: float = 0.0) -> Array:
    """Cross-entropy against `(1 - smoothing) * one_hot(labels) + smoothing / K`.

    Args:
        logits: [B, K].
        labels: [B], integers in [0, K).
        smoothing: in [0, 1).

    Raises:
        UserError: if the smoothing is out of range.
    """
    _check_smoothing(smoothing)
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    logits = _precise(logits)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.losses.smooth_labels(targets, smoothing)
    return jnp.mean(optax.losses.safe_softmax_cross_entropy(logits, targets))


def soft_cross_entropy(student_logits: Array, teacher_logits: Array) -> Array:
    """`-sum_k p_k log q_k`: the gradient of KL(p || q), but its minimum is the teacher's entropy.

    What AttentiveNAS distils with (Wang et al. 2021, arXiv:2011.09011), at temperature 1.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    return jnp.mean(optax.losses.safe_softmax_cross_entropy(student, jax.nn.softmax(teacher)))


def kl_divergence(student_logits: Array, teacher_logits: Array) -> Array:
    """`KL(p || q) = sum_k p_k (log p_k - log q_k)`, zero where student and teacher agree.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
    """
    log_q, log_p = map(jax.nn.log_softmax, _pair(student_logits, teacher_logits))
    return jnp.mean(optax.losses.kl_divergence_with_log_targets(log_q, log_p))


def adaptive_alpha_divergence(
    student_logits: Array,
    teacher_logits: Array,
    *,
    alpha_min: float = -1.0,
    alpha_max: float = 1.0,
    clip: float = 5.0,
) -> Array:
    """The surrogate of whichever of two alpha-divergences is larger, image by image.

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

    Raises:
        UserError: if `clip` is out of range.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    log_q, log_p = map(jax.nn.log_softmax, (jax.lax.stop_gradient(student), teacher))
    first = alpha_terms(log_q, log_p, alpha=alpha_min, clip=clip)
    second = alpha_terms(log_q, log_p, alpha=alpha_max, clip=clip)
    pick_first = first.divergence > second.divergence
    weights = jnp.where(pick_first[:, None], first.weights, second.weights)
    return jnp.mean(optax.losses.safe_softmax_cross_entropy(student, weights))


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


def in_place_distillation(divergence: Divergence, *, smoothing: float = 0.0) -> Loss:
    """The sandwich rule's loss: labels teach the largest member, and it alone teaches the others.

    Yu & Huang 2019, arXiv:1903.05134; AlphaNet uses `adaptive_alpha_divergence` and smoothing 0.1.
    For other settings bind them: `functools.partial(adaptive_alpha_divergence, alpha_min=0.0)`.

    Args:
        divergence: `(student_logits, teacher_logits) -> scalar`.
        smoothing: of the labels of the largest member, in [0, 1).

    Raises:
        UserError: if the smoothing is out of range; from the loss, if a member has no teacher.
    """
    _check_smoothing(smoothing)

    def loss(
        student_logits: Array,
        teacher_logits: Array | None,
        features: Features,
        labels: Array,
        role: Role,
    ) -> Array:
        del features
        if role == "largest":
            return cross_entropy(student_logits, labels, smoothing=smoothing)
        if teacher_logits is None:
            raise UserError(
                f"in-place distillation got no teacher for a member in the role {role!r}; the "
                "largest arch must come first among the fixed archs of the sampler, or use "
                "hard_labels(smoothing=...), which needs no teacher"
            )
        return divergence(student_logits, teacher_logits)

    return loss


def hard_labels(*, smoothing: float = 0.0) -> Loss:
    """Every member learns from the labels; no distillation.

    Args:
        smoothing: of the labels, in [0, 1).

    Raises:
        UserError: if the smoothing is out of range.
    """
    _check_smoothing(smoothing)

    def loss(
        student_logits: Array,
        teacher_logits: Array | None,
        features: Features,
        labels: Array,
        role: Role,
    ) -> Array:
        del teacher_logits, features, role
        return cross_entropy(student_logits, labels, smoothing=smoothing)

    return loss


def _precise(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _pair(student_logits: Array, teacher_logits: Array) -> tuple[Array, Array]:
    """Both in float32 or better; the teacher as a constant."""
    chex.assert_rank([student_logits, teacher_logits], 2)
    chex.assert_equal_shape([student_logits, teacher_logits])
    return _precise(student_logits), jax.lax.stop_gradient(_precise(teacher_logits))


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise UserError(
            f"label smoothing is {smoothing}; it must lie in [0, 1): 0 for none, commonly 0.1"
        )
