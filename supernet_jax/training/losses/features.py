"""Losses on features: relations that a narrower student can share with its teacher.

A subnet has fewer channels than the largest, and often fewer places. None of these needs a learned
projection: each compares something that has no channel axis. Channels that a masked subnet does not
have are zero and add nothing, so all strategies give the same loss. The teacher gets no gradient.

Shapes: B examples of a batch; features are [B, H, W, C] or [B, N, C]; sizes but B may differ
between student and teacher where a function says so.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from supernet_jax.errors import UserError
from supernet_jax.training.losses import divergences
from supernet_jax.training.losses.loss import Feature, Features, Loss, Role, tempered_in_place

Array = jax.Array
Relation = Callable[[Array, Array], Array]  # (student features, teacher features) -> scalar
_TINY = 1e-9  # a vector of no larger element has no direction: it stays as it is


def similarity(student: Array, teacher: Array) -> Array:
    """Which examples of a batch look alike: `|G_T - G_S|_F**2 / B**2`.

    Tung & Mori 2019 (arXiv:1907.09682), equations 1 to 4: G is the product of the flattened
    features with themselves, B x B, each row of length one. All sizes but B may differ. Like
    BatchNorm it couples the examples of a batch.

    Args:
        student: [B, ...].
        teacher: [B, ...], taken as constants.
    """
    chex.assert_equal_shape_prefix([student, teacher], 1)
    own, others = (_gram(x.reshape(1, x.shape[0], -1))[0] for x in _pair(student, teacher))
    return jnp.mean(jnp.square(_unit(others) - _unit(own)))


def attention(student: Array, teacher: Array) -> Array:
    """Where in an example a block responds: the squared distance of two maps of length one.

    Attention transfer, Zagoruyko & Komodakis 2017 (arXiv:1612.03928), equation 2, with the map
    `sum_c F_c**2`; the distance is squared, which is smooth where the maps agree. C may differ.
    A teacher's map of another size is brought to the student's linearly, which is ours.

    Args:
        student: [B, H, W, C].
        teacher: [B, H', W', C'], taken as constants.
    """
    chex.assert_rank([student, teacher], 4)
    chex.assert_equal_shape_prefix([student, teacher], 1)
    own, others = (jnp.sum(jnp.square(x), axis=-1) for x in _pair(student, teacher))
    if others.shape != own.shape:
        others = jax.image.resize(others, own.shape, "linear")
    own, others = (_unit(x.reshape(x.shape[0], -1)) for x in (own, others))
    return jnp.mean(jnp.sum(jnp.square(own - others), axis=-1))


def tokens(student: Array, teacher: Array, *, temperature: float = 0.1) -> Array:
    """Which places of an example attend to which: KL between rows of two N x N relations.

    Self-attention relations, Wang et al. 2021 (MiniLMv2, arXiv:2012.15828), section 3.1, applied
    to the outputs of blocks: `KL(softmax(R_T) || softmax(R_S))`, mean over rows and examples. There
    R is the scaled dot product of queries (keys, values); here it is the cosine of two places'
    features over a temperature, because the width of a masked subnet is no shape to scale with.
    C may differ, the number of places may not.

    Args:
        student: [B, N, C] or [B, H, W, C].
        teacher: [B, N, C'] or [B, H, W, C'], taken as constants.
        temperature: above 0; about 1 / sqrt(width) is comparable to the scaled dot product.

    Raises:
        UserError: student and teacher have different places, or the temperature is out of range.
    """
    if not temperature > 0:
        raise UserError(f"the temperature of relations is {temperature}; it must be above 0")
    if student.shape[:-1] != teacher.shape[:-1]:
        raise UserError(
            f"relations of places need equal sizes, but the student's features are "
            f"{student.shape[1:-1]} and the teacher's {teacher.shape[1:-1]}: use one size, "
            "an earlier kind of relation (similarity, attention), or a block after pooling"
        )

    def log_rows(x: Array) -> Array:
        places = _unit(x.reshape(x.shape[0], -1, x.shape[-1]))
        return jax.nn.log_softmax(_gram(places) / temperature)

    log_q, log_p = map(log_rows, _pair(student, teacher))
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def with_features(loss: Loss, relation: Relation, *, weight: float) -> Loss:
    """Adds `weight` times the mean relation over the features that student and teacher have.

    They are those of `Recipe.features`. The largest member has none added, and neither has one that
    skips all blocks with wanted values inside.

    Args:
        loss: of the logits.
        relation: `(student features, teacher features) -> scalar`.
        weight: at least 0.

    Raises:
        UserError: the weight is below 0; from the loss, if there are none of a teacher.
    """
    if not weight >= 0:
        raise UserError(f"the weight of features is {weight}; it must be at least 0")

    def total(
        student_logits: Array,
        teacher_logits: Array | None,
        features: Features,
        labels: Array,
        role: Role,
    ) -> Array:
        value = loss(student_logits, teacher_logits, features, labels, role)
        if role == "largest":
            return value
        taught = [f for f in features.values() if f.teacher is not None]
        if not taught:
            raise UserError(
                f"a member in the role {role!r} has no features to compare; name blocks with "
                "train.features, and let the sampler's first fixed arch be the largest"
            )
        return value + weight * _mean(relation, [f for f in taught if f.student is not None])

    return total


def _mean(relation: Relation, features: list[Feature]) -> Array | float:
    """The mean over those features that are there; 0 without."""
    related = [
        relation(f.student, f.teacher)
        for f in features
        if f.student is not None and f.teacher is not None
    ]
    if not related:
        return 0.0
    if all(f.there is None for f in features):
        return jnp.mean(jnp.stack(related))
    there = jnp.stack([jnp.asarray(True if f.there is None else f.there) for f in features])
    total = jnp.sum(jnp.where(there, jnp.stack(related), 0.0))
    return total / jnp.maximum(jnp.sum(there), 1)


def _pair(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Both in float32 or better; the teacher as a constant."""
    student, teacher = (
        x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (student, teacher)
    )
    return student, jax.lax.stop_gradient(teacher)


def _gram(vectors: Array) -> Array:
    """`[B, N, C]` -> `[B, N, N]`, the products of each example's vectors."""
    highest = jax.lax.Precision.HIGHEST  # in float32 also where matrices are of fewer bits
    return jnp.einsum("bnc,bmc->bnm", vectors, vectors, precision=highest)


def _unit(x: Array) -> Array:
    """Vectors of the last axis at length one; nearly nothing stays so, its gradient 1."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    directed = largest > _TINY
    x = x / jnp.where(directed, largest, 1)  # so that squares neither overflow nor underflow
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(directed, squares, 1))


@dataclasses.dataclass(frozen=True)
class FeatureRelations:
    """In-place distillation by KL, and by relations of the features of `train.features`."""

    kind: Literal["similarity", "attention", "tokens"] = "similarity"
    """which examples are alike, where an example responds, or which places attend to which"""
    weight: float = 1.0
    """weight of the relations, a mean over blocks; the logits' divergence has 1"""
    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """divisor of the logits; more softens distributions; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> Loss:
        """The loss."""
        kinds: dict[str, Relation] = {
            "similarity": similarity,
            "attention": attention,
            "tokens": tokens,
        }
        loss = tempered_in_place(divergences.kl_divergence, self)
        return with_features(loss, kinds[self.kind], weight=self.weight)
