"""What every loss of the library keeps: all parts of `sj.losses` join by being there."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from supernet_jax.errors import UserError
from supernet_jax.storage import user_code
from supernet_jax.training import losses as parts
from supernet_jax.training.losses import alpha_divergence, divergences
from supernet_jax.training.losses.loss import (
    Feature,
    cross_entropy,
    in_place_distillation,
    tempered,
)

KINDS = [kind for kind in vars(parts).values() if dataclasses.is_dataclass(kind)]
DEFAULTS = [kind() for kind in KINDS]
OTHERS = [
    parts.AlphaDivergence(alpha_min=0.0, alpha_max=2.0, hard_weight=0.25),
    parts.SoftCrossEntropy(temperature=4.0),
    parts.ReverseKL(temperature=0.5, hard_weight=0.5),
    parts.JensenShannon(smoothing=0.0, hard_weight=1.0),
    user_code.run(ROOT / "docs" / "examples" / "loss.py").LogitMatching(hard_weight=0.5),
]
VARIANTS = DEFAULTS + OTHERS
ROLES = ("largest", "random", "smallest")
FAR = 1e4  # softmax underflows in float32 from a distance of 104
RNG = np.random.default_rng(0)
B, K = 4, 6
STUDENT, TEACHER = RNG.normal(size=(2, B, K)).astype(np.float32)
LABELS = RNG.integers(0, K, B).astype(np.int32)


def call(part: Any, role: str) -> Callable[..., Any]:
    """`(student, teacher, labels) -> value` as a step calls the loss."""
    loss = part.build()
    alone = role == "largest" and not isinstance(part, parts.OutsideTeacher)

    def value(student: Any, teacher: Any, labels: Any) -> Any:
        same = jnp.ones((len(student), 2, 2, 3))  # in which student and teacher agree
        features = {"block": Feature(same, None if alone else same)}
        return loss(student, None if alone else teacher, features, labels, role)

    return value


def per_case(test: Callable) -> Callable:
    """All parts in all roles, and their other settings where they matter."""
    cases = [*itertools.product(DEFAULTS, ROLES), *((part, "random") for part in OTHERS)]
    return pytest.mark.parametrize(("part", "role"), cases, ids=lambda x: str(x))(test)


@functools.cache
def graded(part: Any, role: str) -> Callable[..., Any]:
    return jax.jit(jax.value_and_grad(call(part, role), argnums=(0, 1)))


@per_case
def test_a_scalar_of_float32_whatever_the_logits(part: Any, role: str) -> None:
    half = jnp.bfloat16(STUDENT), jnp.bfloat16(TEACHER)
    value = call(part, role)(*half, jnp.asarray(LABELS))
    assert value.shape == () and value.dtype == jnp.float32
    whole = call(part, role)(*(x.astype(jnp.float32) for x in half), jnp.asarray(LABELS))
    np.testing.assert_array_equal(value, whole)


@per_case
def test_finite_however_far_the_logits(part: Any, role: str) -> None:
    rows = np.asarray(list(itertools.product((-FAR, 0.0, FAR), repeat=3)), np.float32)
    students, teachers = (np.repeat(rows, 27, 0), np.tile(rows, (27, 1)))
    labels = np.arange(len(students), dtype=np.int32) % 3
    alone = lambda s, t, y: call(part, role)(s[None], t[None], y[None])  # noqa: E731
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(alone)))(students, teachers, labels)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()


@per_case
def test_only_differences_of_logits_count(part: Any, role: str) -> None:
    value, (gradient, of_teacher) = graded(part, role)(STUDENT, TEACHER, LABELS)
    assert not np.any(of_teacher), "the teacher is a constant"
    assert np.any(gradient)
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-6)
    shift = np.float32([[1.0], [-2.0], [0.5], [4.0]])
    moved, (same, _) = graded(part, role)(STUDENT + shift, TEACHER - shift, LABELS)
    np.testing.assert_allclose(moved, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(same, gradient, rtol=1e-4, atol=1e-6)


@per_case
def test_a_mean_over_images_in_any_order(part: Any, role: str) -> None:
    args = STUDENT, TEACHER, LABELS
    value, (gradient, _) = graded(part, role)(*args)
    order = np.asarray([2, 0, 3, 1])
    other, (moved, _) = graded(part, role)(*(x[order] for x in args))
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(moved, gradient[order], rtol=1e-6, atol=1e-7)
    parts_of = [call(part, role)(*(x[i : i + 1] for x in args)) for i in range(B)]
    np.testing.assert_allclose(value, np.mean(parts_of), rtol=1e-5)


@per_case
def test_sequences_are_rows_of_which_some_do_not_count(part: Any, role: str) -> None:
    """Two sequences of 3 tokens; targets go on behind them, and one token has none."""
    student, teacher = RNG.normal(size=(2, 2, 3, K)).astype(np.float32)
    targets = np.asarray([[1, -1, 5, 2], [0, 3, 3, 4]], np.int32)
    if type(part) not in KINDS:
        with pytest.raises(UserError, match="on sequences"):  # a user's own divergence need not
            graded(part, role)(student, teacher, targets)
        return
    value, (gradient, of_teacher) = graded(part, role)(student, teacher, targets)
    counts = targets[:, :3] >= 0
    wanted, (rows, _) = graded(part, role)(student[counts], teacher[counts], targets[:, :3][counts])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient[counts], rows, rtol=1e-5, atol=1e-7)
    assert not np.any(gradient[~counts]) and not np.any(of_teacher)


def test_a_divergence_of_ones_own_says_which_rows_count() -> None:
    loss = in_place_distillation(lambda student, teacher: jnp.mean(student - teacher))
    logits, targets = jnp.zeros((1, 2, K)), jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(UserError, match=r"on sequences .* `where`"):
        loss(logits, logits, {}, targets, "random")


@pytest.mark.parametrize("part", VARIANTS, ids=str)
def test_a_student_that_agrees_with_its_teacher_learns_nothing_of_it(part: Any) -> None:
    """Nothing but what the labels say."""
    _, (gradient, _) = graded(part, "random")(STUDENT, STUDENT, LABELS)
    weight = 1.0 if isinstance(part, parts.HardLabels) else getattr(part, "hard_weight", 0.0)
    smoothing = getattr(part, "smoothing", 0.0)
    hard = functools.partial(cross_entropy, labels=LABELS, smoothing=smoothing)
    np.testing.assert_allclose(gradient, weight * jax.grad(hard)(STUDENT), atol=1e-6)


@pytest.mark.parametrize("part", VARIANTS, ids=str)
def test_the_largest_learns_from_labels_alone(part: Any) -> None:
    """Unless there is a teacher for all."""
    if isinstance(part, parts.OutsideTeacher):
        return
    wanted = cross_entropy(STUDENT, LABELS, smoothing=getattr(part, "smoothing", 0.0))
    np.testing.assert_array_equal(call(part, "largest")(STUDENT, None, LABELS), wanted)


def softmax(logits: Any) -> Any:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected(kind: str, q: Any, p: Any) -> tuple[Any, Any]:
    """Value and gradient with respect to the student's logits, of each image, in closed form."""
    kl = lambda a, b: (a * np.log(a / b)).sum(-1)  # noqa: E731
    if kind == "kl":
        return kl(p, q), q - p
    if kind == "reverse":
        return kl(q, p), q * (np.log(q / p) - kl(q, p)[:, None])
    m = (p + q) / 2
    value = (kl(p, m) + kl(q, m)) / 2
    return value, q * (np.log(q / m) - kl(q, m)[:, None]) / 2


DIVERGENCES = {
    "kl": divergences.kl_divergence,
    "reverse": divergences.reverse_kl_divergence,
    "jensen-shannon": divergences.jensen_shannon_divergence,
}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_divergences_follow_their_definitions(kind: str, temperature: float) -> None:
    student, teacher = np.float64(STUDENT), np.float64(TEACHER)
    value, gradient = expected(kind, softmax(student / temperature), softmax(teacher / temperature))
    divergence = tempered(DIVERGENCES[kind], temperature=temperature)
    with jax.enable_x64(True):
        found = jax.value_and_grad(divergence)(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(found[0], temperature**2 * value.mean(), rtol=1e-12)
    np.testing.assert_allclose(found[1], temperature * gradient / B, atol=1e-14)


def test_a_hot_divergence_compares_logits() -> None:
    """The limit of a high temperature: half the mean square of centred logits' difference."""
    centred = [np.float64(x) - np.float64(x).mean(-1, keepdims=True) for x in (STUDENT, TEACHER)]
    wanted = ((centred[0] - centred[1]) ** 2).mean(-1).mean() / 2
    with jax.enable_x64(True):
        hot = tempered(divergences.kl_divergence, temperature=1e4)
        found = hot(*(jnp.asarray(x) for x in (np.float64(STUDENT), np.float64(TEACHER))))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_reverse_kl_is_the_alpha_divergence_at_zero() -> None:
    reverse = jax.value_and_grad(divergences.reverse_kl_divergence)(STUDENT, TEACHER)
    log_q, log_p = jax.nn.log_softmax(STUDENT), jax.nn.log_softmax(TEACHER)
    terms = alpha_divergence.alpha_terms(log_q, log_p, alpha=0.0, clip=1e9)
    np.testing.assert_allclose(reverse[0], terms.divergence.mean(), rtol=1e-6)
    alpha = functools.partial(
        alpha_divergence.adaptive_alpha_divergence, alpha_min=0.0, alpha_max=0.0, clip=1e9
    )
    np.testing.assert_allclose(reverse[1], jax.grad(alpha)(STUDENT, TEACHER), atol=1e-6)


def test_jensen_shannon_is_symmetric_and_bounded() -> None:
    one = divergences.jensen_shannon_divergence(STUDENT, TEACHER)
    other = divergences.jensen_shannon_divergence(TEACHER, STUDENT)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    apart = np.float32([[FAR, 0.0]]), np.float32([[0.0, FAR]])
    np.testing.assert_allclose(divergences.jensen_shannon_divergence(*apart), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_soft_and_hard_targets_are_mixed_by_weight(weight: float) -> None:
    loss = in_place_distillation(divergences.kl_divergence, smoothing=0.1, hard_weight=weight)
    found = loss(STUDENT, TEACHER, {}, LABELS, "smallest")
    soft = divergences.kl_divergence(STUDENT, TEACHER)
    hard = cross_entropy(STUDENT, LABELS, smoothing=0.1)
    np.testing.assert_allclose(found, (1 - weight) * soft + weight * hard, rtol=1e-6)


def test_labels_alone_need_no_divergence() -> None:
    def never(student: Any, teacher: Any) -> Any:
        raise AssertionError

    loss = in_place_distillation(never, smoothing=0.1, hard_weight=1.0)
    wanted = cross_entropy(STUDENT, LABELS, smoothing=0.1)
    np.testing.assert_array_equal(loss(STUDENT, TEACHER, {}, LABELS, "random"), wanted)


def test_mistakes_are_named() -> None:
    for temperature in (0.0, -1.0, np.inf):
        with pytest.raises(UserError, match="temperature is"):
            tempered(divergences.kl_divergence, temperature=temperature)
    for weight in (-0.1, 1.1):
        with pytest.raises(UserError, match="weight of the labels is"):
            in_place_distillation(divergences.kl_divergence, hard_weight=weight)
    for divergence in DIVERGENCES.values():
        with pytest.raises(AssertionError):
            divergence(STUDENT, TEACHER[:1])
