"""Divergences of a student's distribution from a teacher's, and distillation by them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from supernet_jax.training.losses import loss

Array = jax.Array


def soft_cross_entropy(
    student_logits: Array, teacher_logits: Array, *, where: Array | None = None
) -> Array:
    """`-sum_k p_k log q_k`: the gradient of KL(p || q), but its minimum is the teacher's entropy.

    What AttentiveNAS distils with (Wang et al. 2021, arXiv:2011.09011), at temperature 1.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
        where: bool [B], what counts; None for all.
    """
    student, teacher = loss.precise_pair(student_logits, teacher_logits)
    values = optax.losses.safe_softmax_cross_entropy(student, jax.nn.softmax(teacher))
    return loss.mean(values, where)


def kl_divergence(
    student_logits: Array, teacher_logits: Array, *, where: Array | None = None
) -> Array:
    """`KL(p || q) = sum_k p_k (log p_k - log q_k)`, zero where student and teacher agree.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
        where: bool [B], what counts; None for all.
    """
    log_q, log_p = map(jax.nn.log_softmax, loss.precise_pair(student_logits, teacher_logits))
    return loss.mean(optax.losses.kl_divergence_with_log_targets(log_q, log_p), where)


def reverse_kl_divergence(
    student_logits: Array, teacher_logits: Array, *, where: Array | None = None
) -> Array:
    """`KL(q || p) = sum_k q_k (log q_k - log p_k)`: seeks a mode of the teacher, not all of it.

    The limit of the alpha-divergence at alpha = 0 (AlphaNet, arXiv:2102.07954, section 2). Its
    gradient with respect to student logit j is `q_j (log q_j - log p_j - KL)`. Unlike KL(p || q)
    it grows with the teacher's logits: up to 1e4 where a student is certain of what its teacher
    excludes at logits of 1e4.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
        where: bool [B], what counts; None for all.
    """
    log_q, log_p = map(jax.nn.log_softmax, loss.precise_pair(student_logits, teacher_logits))
    return loss.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1), where)


def jensen_shannon_divergence(
    student_logits: Array, teacher_logits: Array, *, where: Array | None = None
) -> Array:
    """`(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2`: symmetric, in [0, log 2].

    Lin 1991, "Divergence measures based on the Shannon entropy", with equal weights. The gradient
    with respect to student logit j is `q_j (log(q_j / m_j) - KL(q || m)) / 2`.

    Args:
        student_logits: [B, K].
        teacher_logits: [B, K], taken as constants.
        where: bool [B], what counts; None for all.
    """
    log_q, log_p = map(jax.nn.log_softmax, loss.precise_pair(student_logits, teacher_logits))
    log_m = jnp.logaddexp(log_q, log_p) - math.log(2)
    sums = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
    return loss.mean(jnp.sum(sums, axis=-1), where) / 2


@dataclasses.dataclass(frozen=True)
class SoftCrossEntropy:
    """In-place distillation by soft cross-entropy (BigNAS): its gradient is that of KL."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """divisor of the logits; more softens distributions; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> loss.Loss:
        """The loss."""
        return loss.tempered_in_place(soft_cross_entropy, self)


@dataclasses.dataclass(frozen=True)
class ReverseKL:
    """In-place distillation by KL(student || teacher), which seeks a mode of the teacher."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """divisor of the logits; more softens distributions; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> loss.Loss:
        """The loss."""
        return loss.tempered_in_place(reverse_kl_divergence, self)


@dataclasses.dataclass(frozen=True)
class JensenShannon:
    """In-place distillation by the Jensen-Shannon divergence: symmetric and bounded."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """divisor of the logits; more softens distributions; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> loss.Loss:
        """The loss."""
        return loss.tempered_in_place(jensen_shannon_divergence, self)
