"""Losses: cross-entropy on labels, and divergences from a student to its teacher.

A *divergence* maps the logits of student and teacher to a scalar; the teacher gets no gradient.
A `Loss` is what a training step calls for each member of a sandwich. Everything is computed in
float32 or better, whatever the dtype of the logits, and averaged over the batch.

Shape letters: `B` images of a batch, `K` classes. `q` and `p` are the probabilities of student
and teacher, `w = p / q`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError

Array = jax.Array


class Feature(NamedTuple):
    """What a named block puts out.

    Attributes:
        student: [B, ...] of the member that learns.
        teacher: [B, ...] of the largest member, as a constant; None for the largest itself.
    """

    student: Array
    teacher: Array | None


Features = Mapping[str, Feature]  # by block
Role = Literal["largest", "random", "smallest"]
Divergence = Callable[[Array, Array], Array]  # (student logits, teacher logits) -> scalar
# (student_logits, teacher_logits, features, labels, role) -> scalar. The teacher's logits are None
# for the largest member (unless the teacher is another network), features may be empty, labels are
# integers [B], or [B, K] and sum to 1 where images are mixed; role is a static `Role`.
Loss = Callable[..., Array]

_NEAR = 1e-3  # an alpha this close to 0 or 1 is taken for the limit, as published


def cross_entropy(logits: Array, labels: Array, *, smoothing: float = 0.0) -> Array:
    """Cross-entropy against `(1 - smoothing) * one_hot(labels) + smoothing / K`.

    Args:
        logits: [B, K].
        labels: [B], integers in [0, K); or [B, K], at least 0, of sum 1, in the place of one_hot.
        smoothing: in [0, 1).

    Raises:
        UserError: if the smoothing is out of range.
    """
    _check_smoothing(smoothing)
    chex.assert_rank([logits, labels], [2, {1, 2}])
    logits = _precise(logits)
    if labels.ndim == 1:
        chex.assert_equal_shape_prefix([logits, labels], 1)
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    else:
        chex.assert_equal_shape([logits, labels])
        targets = labels.astype(logits.dtype)
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


def reverse_kl_divergence(student_logits: Array, teacher_logits: Array) -> Array:
    """`KL(q || p) = sum_k q_k (log q_k - log p_k)`: seeks a mode of the teacher, not all of it.

    The limit of the alpha-divergence at alpha = 0 (AlphaNet, arXiv:2102.07954, section 2). Its
    gradient with respect to student logit j is `q_j (log q_j - log p_j - KL)`. Unlike KL(p || q)
    it grows with the teacher's logits: up to 1e4 where a student is certain of what its teacher
    excludes at logits of 1e4.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
    """
    log_q, log_p = map(jax.nn.log_softmax, _pair(student_logits, teacher_logits))
    return jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1))


def jensen_shannon_divergence(student_logits: Array, teacher_logits: Array) -> Array:
    """`(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2`: symmetric, in [0, log 2].

    Lin 1991, "Divergence measures based on the Shannon entropy", with equal weights. The gradient
    with respect to student logit j is `q_j (log(q_j / m_j) - KL(q || m)) / 2`.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
    """
    log_q, log_p = map(jax.nn.log_softmax, _pair(student_logits, teacher_logits))
    log_m = jnp.logaddexp(log_q, log_p) - math.log(2)
    sums = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
    return jnp.mean(jnp.sum(sums, axis=-1)) / 2


def tempered(divergence: Divergence, *, temperature: float) -> Divergence:
    """`T**2 D(student / T, teacher / T)`: softer targets, gradients of about the same size.

    Hinton et al. 2015 (arXiv:1503.02531), section 2. The factor is theirs; it is exact for
    cross-entropy in the limit of a high temperature. At T = 1 this is the divergence itself.

    Args:
        divergence: `(student_logits, teacher_logits) -> scalar`.
        temperature: T, above 0.

    Raises:
        UserError: if the temperature is out of range.
    """
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature is {temperature}; it must be above 0: 1 changes nothing")

    def softer(student_logits: Array, teacher_logits: Array) -> Array:
        student, teacher = (_precise(x) / temperature for x in (student_logits, teacher_logits))
        return temperature**2 * divergence(student, teacher)

    return divergence if temperature == 1 else softer


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


def in_place_distillation(
    divergence: Divergence, *, smoothing: float = 0.0, hard_weight: float = 0.0
) -> Loss:
    """The sandwich rule's loss: labels teach the largest member, and it teaches the others.

    Yu & Huang 2019, arXiv:1903.05134; AlphaNet uses `adaptive_alpha_divergence` and smoothing 0.1.
    For other settings bind them: `functools.partial(adaptive_alpha_divergence, alpha_min=0.0)`.

    With `hard_weight = v` the others learn from labels too: `(1 - v) D + v CE`, the mixture of
    soft and hard targets of Hinton et al. 2015 (arXiv:1503.02531), section 2. Published in-place
    distillation has v = 0.

    Args:
        divergence: `(student_logits, teacher_logits) -> scalar`.
        smoothing: of the labels, in [0, 1).
        hard_weight: v, in [0, 1].

    Raises:
        UserError: if a number is out of range; from the loss, if a member has no teacher.
    """
    _check_smoothing(smoothing)
    if not 0 <= hard_weight <= 1:
        raise UserError(
            f"the weight of the labels is {hard_weight}; it must lie in [0, 1]: 0 for the teacher "
            "alone, 1 for the labels alone"
        )

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
        if hard_weight == 0:
            return divergence(student_logits, teacher_logits)
        hard = cross_entropy(student_logits, labels, smoothing=smoothing)
        if hard_weight == 1:
            return hard
        return (1 - hard_weight) * divergence(student_logits, teacher_logits) + hard_weight * hard

    return loss


def outside_distillation(
    divergence: Divergence, *, smoothing: float = 0.0, hard_weight: float = 0.5
) -> Loss:
    """One teacher for every member, the largest too: `(1 - v) D + v CE`.

    For a teacher that is no part of the supernet (`Recipe.teacher`), as Once-for-All has it (Cai
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
            raise UserError("every member is to learn from a teacher of its own, but there is none")
        role = "random" if role == "largest" else role
        return taught(student_logits, teacher_logits, features, labels, role)

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
