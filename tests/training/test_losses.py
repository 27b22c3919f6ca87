import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from supernet_jax.errors import UserError
from supernet_jax.training.losses import alpha_divergence, divergences, hard_labels
from supernet_jax.training.losses.loss import cross_entropy, in_place_distillation

GOLDEN = json.loads((ROOT / "tests" / "goldens" / "alpha_divergence.json").read_text())
CASES = sorted(GOLDEN["cases"])
STUDENT, TEACHER = (np.asarray(GOLDEN[f"{who}_logits"]) for who in ("student", "teacher"))
LABELS = np.asarray(GOLDEN["labels"])
DISTILLING = [
    divergences.soft_cross_entropy,
    divergences.kl_divergence,
    alpha_divergence.adaptive_alpha_divergence,
]


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def in_float64(fn, *args):
    """The function's value in float64, as NumPy."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, fn(*(jnp.asarray(a) for a in args)))


def terms(student, teacher, **settings):
    log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    return alpha_divergence.alpha_terms(log_q, log_p, **settings)


def settings_of(case):
    values = GOLDEN["cases"][case]
    return {
        "alpha_min": values["alpha_min"],
        "alpha_max": values["alpha_max"],
        "clip": values["iw_clip"],
    }


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_smoothed_labels(smoothing):
    targets = np.eye(6)[LABELS] * (1 - smoothing) + smoothing / 6
    expected = -(targets * np.log(softmax(STUDENT))).sum(-1).mean()
    got = in_float64(functools.partial(cross_entropy, smoothing=smoothing), STUDENT, LABELS)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    gradient = in_float64(
        jax.grad(functools.partial(cross_entropy, smoothing=smoothing)), STUDENT, LABELS
    )
    np.testing.assert_allclose(gradient, (softmax(STUDENT) - targets) / 4, atol=1e-12)


def test_kl_is_soft_cross_entropy_less_the_teachers_entropy():
    p = softmax(TEACHER)
    entropy = -(p * np.log(p)).sum(-1).mean()
    soft = in_float64(divergences.soft_cross_entropy, STUDENT, TEACHER)
    kl = in_float64(divergences.kl_divergence, STUDENT, TEACHER)
    np.testing.assert_allclose(soft, kl + entropy, rtol=1e-12)
    np.testing.assert_allclose(
        kl, (p * (np.log(p) - np.log(softmax(STUDENT)))).sum(-1).mean(), rtol=1e-12
    )
    for loss in (divergences.soft_cross_entropy, divergences.kl_divergence):
        gradient = in_float64(jax.grad(loss), STUDENT, TEACHER)
        np.testing.assert_allclose(gradient, (softmax(STUDENT) - p) / 4, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_golden_alpha_divergence_in_float64(case):
    golden, settings = GOLDEN["cases"][case], settings_of(case)
    loss = functools.partial(alpha_divergence.adaptive_alpha_divergence, **settings)
    value, gradient = in_float64(jax.value_and_grad(loss), STUDENT, TEACHER)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-10)
    np.testing.assert_allclose(gradient, golden["grad_wrt_student_logits"], atol=1e-10)
    divergences = []
    for side, alpha in (("left", settings["alpha_min"]), ("right", settings["alpha_max"])):
        one = functools.partial(terms, alpha=alpha, clip=settings["clip"])
        divergence, weights = in_float64(one, STUDENT, TEACHER)
        np.testing.assert_allclose(divergence, golden[f"div_{side}"], rtol=1e-10)
        surrogate = -(weights * np.log(softmax(STUDENT))).sum(-1)
        np.testing.assert_allclose(surrogate, golden[f"surrogate_{side}"], rtol=1e-10)
        divergences.append(divergence)
    assert (divergences[0] > divergences[1]).tolist() == golden["picked_left"]


@pytest.mark.parametrize("case", CASES)
def test_golden_alpha_divergence_in_float32(case):
    # a power of a ratio of probabilities carries the rounding of its logarithm, up to 1e-6 here
    golden = GOLDEN["cases"][case]
    loss = functools.partial(alpha_divergence.adaptive_alpha_divergence, **settings_of(case))
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(STUDENT), jnp.float32(TEACHER))
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(value, golden["loss"], rtol=5e-6)
    np.testing.assert_allclose(gradient, golden["grad_wrt_student_logits"], rtol=5e-6, atol=1e-6)


def published_terms(alpha, clip):
    """The published definition, written without logarithms."""
    q, p = softmax(STUDENT), softmax(TEACHER)
    w = p / q
    if alpha == 1:
        return (p * np.log(w)).sum(-1), w
    if alpha == 0:
        w = np.minimum(w, clip)
        return -(q * np.log(w)).sum(-1), np.log(w) - 1
    a = np.minimum(w**alpha, clip)
    divergence = (q * (a - 1)).sum(-1) / (alpha * (alpha - 1))
    return divergence, a / alpha + 1 / (alpha * (alpha - 1))


@pytest.mark.parametrize("clip", [1.5, 5.0, 1e9])
@pytest.mark.parametrize("alpha", [-2.0, -1.0, -0.3, 0.0, 0.01, 0.5, 1.0, 1.01, 2.0])
def test_every_alpha_follows_its_definition(alpha, clip):
    divergence, rho = published_terms(alpha, clip)
    one = functools.partial(terms, alpha=alpha, clip=clip)
    got = in_float64(one, STUDENT, TEACHER)
    np.testing.assert_allclose(got.divergence, divergence, rtol=1e-9)
    q = softmax(STUDENT)
    np.testing.assert_allclose(got.weights, q * rho, rtol=1e-9)
    loss = functools.partial(
        alpha_divergence.adaptive_alpha_divergence, alpha_min=alpha, alpha_max=alpha, clip=clip
    )
    gradient = in_float64(jax.grad(loss), STUDENT, TEACHER)
    expected = q * ((q * rho).sum(-1, keepdims=True) - rho) / len(q)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_surrogate_has_the_gradient_of_the_unclipped_divergence(alpha):
    loss = functools.partial(
        alpha_divergence.adaptive_alpha_divergence, alpha_min=alpha, alpha_max=alpha, clip=1e30
    )

    def divergence(student, teacher):
        return jnp.mean(terms(student, teacher, alpha=alpha, clip=1e30).divergence)

    surrogate, true = (in_float64(jax.grad(f), STUDENT, TEACHER) for f in (loss, divergence))
    np.testing.assert_allclose(surrogate, true, rtol=1e-9, atol=1e-12)


def test_alpha_one_is_kl_and_alpha_zero_the_reverse():
    student = 2 * STUDENT  # the golden pair's two divergences are too close to be told apart
    kl = in_float64(divergences.kl_divergence, student, TEACHER)
    reverse = in_float64(divergences.kl_divergence, TEACHER, student)
    assert abs(kl / reverse - 1) > 0.1
    for limit, expected in ((1.0, kl), (0.0, reverse)):
        for distance, tolerance in ((0.0, 1e-12), (2e-3, 2e-2), (-2e-3, 2e-2)):
            one = functools.partial(terms, alpha=limit + distance, clip=1e9)
            got = in_float64(one, student, TEACHER).divergence.mean()
            np.testing.assert_allclose(got, expected, rtol=tolerance)


def test_small_alpha_loses_no_digits_in_float32():
    one = functools.partial(terms, alpha=2e-3, clip=5.0)
    exact = in_float64(one, STUDENT, TEACHER)
    rough = one(jnp.float32(STUDENT), jnp.float32(TEACHER))
    for got, expected in zip(rough, exact, strict=True):
        np.testing.assert_allclose(got, expected, rtol=5e-6, atol=1e-6)


def test_images_pick_their_alpha_independently():
    loss = functools.partial(alpha_divergence.adaptive_alpha_divergence, clip=1000.0)
    alone = [in_float64(loss, STUDENT[i : i + 1], TEACHER[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(in_float64(loss, STUDENT, TEACHER), np.mean(alone), rtol=1e-12)


def test_clipped_alpha_minus_one_never_beats_a_kl_of_two():
    divergence = in_float64(functools.partial(terms, alpha=-1.0, clip=5.0), STUDENT, -3 * STUDENT)
    assert divergence.divergence.max() <= 2
    value = in_float64(alpha_divergence.adaptive_alpha_divergence, STUDENT, -3 * STUDENT)
    kl_branch = in_float64(divergences.soft_cross_entropy, STUDENT, -3 * STUDENT)
    np.testing.assert_allclose(value, kl_branch, rtol=1e-12)


def test_a_tie_takes_alpha_max():
    tie = in_float64(alpha_divergence.adaptive_alpha_divergence, STUDENT, STUDENT)
    entropy = in_float64(
        divergences.soft_cross_entropy, STUDENT, STUDENT
    )  # alpha = 1; else -1/2 of it
    np.testing.assert_allclose(tie, entropy, rtol=1e-12)


FAR = 1e4  # softmax underflows in float32 from a distance of 104
EXTREMES = {
    # student, teacher, loss, gradient for alphas -1 and 1, clip 5, by hand
    "disagree": ([FAR, 0, 0], [0, FAR, 0], FAR, [1, -1, 0]),
    "agree": ([FAR, 0, -FAR], [FAR, 0, -FAR], 0, [0, 0, 0]),
    "student certain": ([FAR, 0, -FAR], [0, 0, 0], FAR, [2 / 3, -1 / 3, -1 / 3]),
    # KL = log 3 = 1.10 < 11/9, the divergence at alpha = -1, where rho = 1/2 - (1/3, 5, 5)
    "teacher certain": (
        [0, 0, 0],
        [FAR, 0, -FAR],
        -math.log(3) * 53 / 18,
        [-28 / 27, 14 / 27, 14 / 27],
    ),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_survives_underflow_of_student_and_teacher(name):
    student, teacher, loss, gradient = EXTREMES[name]
    args = jnp.float32([student]), jnp.float32([teacher])
    value, got = jax.value_and_grad(alpha_divergence.adaptive_alpha_divergence)(*args)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    np.testing.assert_allclose(got[0], gradient, atol=1e-6)


@pytest.mark.parametrize("alphas", [(0.0, 1.0), (-2.0, 2.0), (0.5, 1.5), (-1.0, 0.0)])
def test_every_alpha_is_finite_where_probabilities_underflow(alphas):
    students, teachers = (jnp.float32([case[i] for case in EXTREMES.values()]) for i in (0, 1))
    loss = functools.partial(
        alpha_divergence.adaptive_alpha_divergence, alpha_min=alphas[0], alpha_max=alphas[1]
    )
    value, gradient = jax.value_and_grad(loss)(students, teachers)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [divergences.soft_cross_entropy, divergences.kl_divergence])
@pytest.mark.parametrize("name", EXTREMES)
def test_kl_survives_underflow(loss, name):
    student, teacher = (jnp.float32([logits]) for logits in EXTREMES[name][:2])
    value, gradient = jax.value_and_grad(loss)(student, teacher)
    assert np.isfinite(value)
    expected = softmax(np.asarray(student)) - softmax(np.asarray(teacher))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("loss", DISTILLING)
def test_half_precision_logits_are_computed_in_float32(loss):
    half = jnp.bfloat16(STUDENT), jnp.bfloat16(TEACHER)
    whole = [x.astype(jnp.float32) for x in half]
    value = loss(*half)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, loss(*whole))
    labels = jnp.asarray(LABELS)
    np.testing.assert_array_equal(cross_entropy(half[0], labels), cross_entropy(whole[0], labels))


@pytest.mark.parametrize("loss", DISTILLING)
def test_the_teacher_is_a_constant(loss):
    student, teacher = jnp.float32(STUDENT), jnp.float32(TEACHER)
    assert not np.any(jax.grad(loss, argnums=1)(student, teacher))
    assert np.any(jax.grad(loss)(student, teacher))


@pytest.mark.parametrize("role", ["largest", "random", "smallest"])
def test_in_place_distillation_gives_labels_to_the_largest_only(role):
    student, teacher = jnp.float32(STUDENT), jnp.float32(TEACHER)
    labels = jnp.asarray(LABELS)
    loss = in_place_distillation(divergences.kl_divergence, smoothing=0.1)
    if role == "largest":
        got = loss(student, None, {}, labels, role)
        expected = cross_entropy(student, labels, smoothing=0.1)
    else:
        got = loss(student, teacher, {}, labels, role)
        expected = divergences.kl_divergence(student, teacher)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("role", ["largest", "random", "smallest"])
def test_hard_labels_ignores_the_teacher(role):
    student, labels = jnp.float32(STUDENT), jnp.asarray(LABELS)
    loss = hard_labels.hard_labels(smoothing=0.1)
    expected = cross_entropy(student, labels, smoothing=0.1)
    for teacher in (None, jnp.float32(TEACHER)):
        np.testing.assert_array_equal(loss(student, teacher, {}, labels, role), expected)


def test_mistakes_are_named():
    student, labels = jnp.float32(STUDENT), jnp.asarray(LABELS)
    with pytest.raises(UserError, match="no teacher for a member in the role 'random'"):
        in_place_distillation(divergences.kl_divergence)(student, None, {}, labels, "random")
    for build in (
        lambda: hard_labels.hard_labels(smoothing=1.0),
        lambda: in_place_distillation(divergences.kl_divergence, smoothing=-0.1),
        lambda: cross_entropy(student, labels, smoothing=1.5),
    ):
        with pytest.raises(UserError, match="label smoothing is"):
            build()
    for clip in (0.0, math.inf):
        with pytest.raises(UserError, match="positive and finite"):
            alpha_divergence.adaptive_alpha_divergence(student, student, clip=clip)


def test_shapes_never_broadcast_silently():
    student = jnp.float32(STUDENT)
    for loss in DISTILLING:
        with pytest.raises(AssertionError):
            loss(student, student[:1])
    with pytest.raises(AssertionError):
        cross_entropy(student, jnp.asarray(LABELS)[:1])
