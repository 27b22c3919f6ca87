"""The door of losses, and in-place distillation by any divergence."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError

Array = jax.Array


class Feature(NamedTuple):
    """What a named block puts out, or a value inside one.

    Attributes:
        student: [B, ...] of the member that learns; None for a value inside a block that it skips.
        teacher: [B, ...] of the teacher, as a constant; None where there is none, as for the
            largest member itself.
        there: bool [], whether the member has the block that the value is inside of; without, the
            student is zeros. None where that is no question.
    """

    student: Array | None
    teacher: Array | None
    there: Array | None = None


Features = Mapping[str, Feature]  # by block, or BLOCK/NAME
Role = str  # "largest", "smallest", "random", or what else the sampler calls a member
# (student logits [n, K], teacher logits [n, K], where=None) -> scalar, the mean over those rows
# that `where`, bool [n], lets count; a user's own needs `where` for sequences only.
Divergence = Callable[..., Array]
# (student_logits, teacher_logits, features, labels, role) -> scalar. The teacher's logits are None
# for the largest member (unless the teacher is no member), features may be empty, labels are
# integers [B], or [B, K] and sum to 1 where examples are mixed; role is a static `Role`. Of
# sequences all have an axis of tokens more, see `rows`.
Loss = Callable[..., Array]


class Rows(NamedTuple):
    """What members put out, as rows of logits: of examples, or of all tokens of all sequences.

    Attributes:
        student: `[n, K]`.
        teacher: `[n, K]`, or None.
        labels: `[n]`, or `[n, K]` where examples are mixed.
        where: bool `[n]`, which rows count; None for all.
    """

    student: Array
    teacher: Array | None
    labels: Array
    where: Array | None


def rows(student: Array, teacher: Array | None, labels: Array) -> Rows:
    """Logits and labels as rows.

    Args:
        student: `[B, K]`, or `[B, T, K]` of sequences.
        teacher: the same, or None.
        labels: `[B]` or `[B, K]`; of sequences `[B, T']` with T' of at least T, of which the first
            T count, but for negative ones.
    """
    if student.ndim == 2:
        return Rows(student, teacher, labels, None)
    width, labels = student.shape[-1], labels[:, : student.shape[1]].reshape(-1)
    flat = None if teacher is None else teacher.reshape(-1, width)
    return Rows(student.reshape(-1, width), flat, jnp.maximum(labels, 0), labels >= 0)


def cross_entropy(
    logits: Array, labels: Array, *, smoothing: float = 0.0, where: Array | None = None
) -> Array:
    """Cross-entropy against `(1 - smoothing) * one_hot(labels) + smoothing / K`.

    Args:
        logits: [B, K].
        labels: [B], integers in [0, K); or [B, K], at least 0, of sum 1, in the place of one_hot.
        smoothing: in [0, 1).
        where: bool [B], what counts; None for all.

    Raises:
        UserError: if the smoothing is out of range.
    """
    check_smoothing(smoothing)
    chex.assert_rank([logits, labels], [2, {1, 2}])
    logits = _precise(logits)
    if labels.ndim == 1:
        chex.assert_equal_shape_prefix([logits, labels], 1)
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    else:
        chex.assert_equal_shape([logits, labels])
        targets = labels.astype(logits.dtype)
    targets = optax.losses.smooth_labels(targets, smoothing)
    return mean(optax.losses.safe_softmax_cross_entropy(logits, targets), where)


def mean(values: Array, where: Array | None) -> Array:
    """Mean of those values [n] that count: all, or those of `where`, 0 if there are none."""
    if where is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(jnp.sum(where), 1)


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

    def softer(student_logits: Array, teacher_logits: Array, **counting: Array) -> Array:
        student, teacher = (_precise(x) / temperature for x in (student_logits, teacher_logits))
        return temperature**2 * divergence(student, teacher, **counting)

    return divergence if temperature == 1 else softer


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
    check_smoothing(smoothing)
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
        student, teacher, wanted, where = rows(student_logits, teacher_logits, labels)
        if role == "largest":
            return cross_entropy(student, wanted, smoothing=smoothing, where=where)
        if teacher is None:
            raise UserError(
                f"in-place distillation got no teacher for a member in the role {role!r}; let the "
                "largest arch come first among the fixed archs of the sampler, set another teacher "
                "of sj.teachers, or use hard_labels(smoothing=...), which needs none"
            )
        if hard_weight == 0:
            return _diverging(divergence, student, teacher, where)
        hard = cross_entropy(student, wanted, smoothing=smoothing, where=where)
        if hard_weight == 1:
            return hard
        soft = _diverging(divergence, student, teacher, where)
        return (1 - hard_weight) * soft + hard_weight * hard

    return loss


def _diverging(
    divergence: Divergence, student: Array, teacher: Array, where: Array | None
) -> Array:
    if where is None:
        return divergence(student, teacher)
    try:
        return divergence(student, teacher, where=where)
    except TypeError as error:
        raise UserError(
            f"the divergence cannot be used on sequences ({error}); give it an argument `where`, "
            "bool [n], that says which rows count"
        ) from error


def _precise(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def precise_pair(student_logits: Array, teacher_logits: Array) -> tuple[Array, Array]:
    """Both in float32 or better; the teacher as a constant."""
    chex.assert_rank([student_logits, teacher_logits], 2)
    chex.assert_equal_shape([student_logits, teacher_logits])
    return _precise(student_logits), jax.lax.stop_gradient(_precise(teacher_logits))


def check_smoothing(smoothing: float) -> None:
    """Raises a `UserError` unless label smoothing is in [0, 1)."""
    if not 0 <= smoothing < 1:
        raise UserError(
            f"label smoothing is {smoothing}; it must lie in [0, 1): 0 for none, commonly 0.1"
        )


class Distillation(Protocol):
    """The numbers that parts for in-place distillation have alike."""

    @property
    def smoothing(self) -> float:
        """Label smoothing of the largest subnet's cross-entropy."""

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""

    @property
    def hard_weight(self) -> float:
        """Weight of the labels for the other subnets, in [0, 1]."""


def tempered_in_place(divergence: Divergence, part: Distillation) -> Loss:
    """In-place distillation by a divergence, with the numbers that these parts have alike."""
    softer = tempered(divergence, temperature=part.temperature)
    return in_place_distillation(softer, smoothing=part.smoothing, hard_weight=part.hard_weight)
