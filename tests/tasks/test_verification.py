"""Verification of speakers: rates of errors against brute force, margins, missing trials."""

import fractions
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from supernet_jax.errors import UserError
from supernet_jax.tasks import SpeakerVerification, VerifySpeakers
from supernet_jax.tasks.task import trained_logits
from supernet_jax.tasks.verification import equal_error_rate, min_dcf, trials
from supernet_jax.training.losses import SoftCrossEntropy

TASK = SpeakerVerification(bands=4, length=6, speakers=3)


def points(scores: Any, same: Any) -> list[tuple[fractions.Fraction, fractions.Fraction]]:
    """(missed, accepted) of every threshold, highest first, counted one by one."""
    targets, others = int(same.sum()), int((~same).sum())
    found = []
    for threshold in [math.inf, *sorted({*scores.tolist()}, reverse=True)]:
        missed = sum(s < threshold for s, own in zip(scores, same, strict=True) if own)
        accepted = sum(s >= threshold for s, own in zip(scores, same, strict=True) if not own)
        found.append((fractions.Fraction(missed, targets), fractions.Fraction(accepted, others)))
    return found


def crossing(curve: list[tuple[fractions.Fraction, fractions.Fraction]]) -> float:
    """Where straight lines between points meet the line of equal shares, in whole fractions."""
    for (m0, a0), (m1, a1) in itertools.pairwise(curve):
        if m0 > a0 and m1 <= a1:
            return float(a0 + (m0 - a0) / ((m0 - a0) + (a1 - m1)) * (a1 - a0))
    raise AssertionError("the curve crosses the line of equal shares")


@pytest.mark.parametrize("seed", range(6))
def test_error_rates_of_scores_with_ties_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    same = rng.random(60) < 0.3
    scores = np.round(rng.normal(size=60) + same, 1 if seed % 2 else 0)  # with many ties
    curve = points(scores, same)
    assert len(curve) < 55
    assert equal_error_rate(scores, same) == pytest.approx(crossing(curve), abs=1e-12)
    for target in (0.01, 0.05, 0.9):
        cost = min(target * m + (1 - target) * a for m, a in curve) / min(target, 1 - target)
        assert min_dcf(scores, same, target=target) == pytest.approx(float(cost), abs=1e-12)
    traced = jax.jit(lambda s, t: (equal_error_rate(s, t), min_dcf(s, t)))(scores, same)
    wanted = equal_error_rate(scores, same), min_dcf(scores, same)
    np.testing.assert_allclose(traced, wanted, atol=1e-6)


@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
def test_the_rate_of_normal_scores_has_a_closed_form(distance: float) -> None:
    n = 20_000
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    scores = np.concatenate([quantiles + distance, quantiles])
    rate = equal_error_rate(scores, np.arange(2 * n) < n)
    assert rate == pytest.approx(stats.norm.cdf(-distance / 2), abs=1 / n)


def test_the_ends_of_the_scale() -> None:
    same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([3.0, 2.0, 1.0, 0.0]), same) == 0
    assert equal_error_rate(np.array([0.0, 1.0, 2.0, 3.0]), same) == 1
    assert equal_error_rate(np.zeros(4), same) == 0.5
    assert min_dcf(np.array([3.0, 2.0, 1.0, 0.0]), same) == 0
    assert min_dcf(np.array([0.0, 1.0, 2.0, 3.0]), same) == 1  # never accepting costs no more


def test_trials_are_all_pairs() -> None:
    embeddings = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]])
    cosines, same = trials(embeddings, np.array([7, 7, 8]))
    np.testing.assert_allclose(cosines, [0.6, 0.0, -0.8], atol=1e-12)
    assert same.tolist() == [True, False, False]


def scores_of(speakers: list[int]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    outputs = rng.uniform(-1, 1, (len(speakers), 5 + 3)).astype(np.float32)
    found = TASK.score(jnp.asarray(outputs), jnp.asarray(speakers))
    np.testing.assert_array_equal(found["embedding"], outputs[:, :5])
    return {name: np.asarray(score) for name, score in found.items()}


def test_speakers_who_were_not_heard_in_training_have_trials() -> None:
    scores = scores_of([0, 2, 5, 5])
    assert scores["loss"][2:] == pytest.approx(math.log(3))
    own = equal_error_rate(*trials(scores["embedding"], np.array([0, 2, 5, 5])))
    assert TASK.value(scores) == pytest.approx(own)
    costly = SpeakerVerification(4, 6, 3, measure="min_dcf")
    assert costly.metric.name == "min_dcf" and 0 < costly.value(scores) <= 1
    assert costly.value(scores) != TASK.value(scores)


@pytest.mark.parametrize(
    ("speakers", "said"), [([1, 1, 1], "are of one speaker"), ([0, 1, 2], "of another speaker")]
)
def test_without_trials_there_is_nothing_to_measure(speakers: list[int], said: str) -> None:
    scores = scores_of(speakers)
    with pytest.raises(UserError, match=said) as error:
        TASK.value(scores)
    assert "3 utterances" in str(error.value) and "\n" not in str(error.value)
    assert TASK.value(jax.tree.map(jnp.asarray, scores)) == 0.5  # of a batch in training


def test_the_margin_turns_the_angle_to_the_right_speaker() -> None:
    angles = np.float32([[0.3, 1.5, 2.0], [1.0, 3.1, 0.2]])
    outputs = jnp.concatenate([jnp.ones((2, 5)), jnp.cos(angles)], 1)
    logits = TASK.logits(outputs, jnp.array([0, 1]))
    wanted = 30 * np.cos(angles)
    wanted[0, 0] = 30 * math.cos(0.3 + 0.2)
    wanted[1, 1] = 30 * (math.cos(3.1) - 0.2 * math.sin(0.2))  # beyond 180 degrees
    np.testing.assert_allclose(logits, wanted, rtol=1e-4)
    assert TASK.guess == pytest.approx(math.log(1 + 2 * math.exp(30 * math.sin(0.2))))
    right = jnp.zeros((1, 8))
    own = TASK.logits(right, jnp.array([2]))
    loss = -jax.nn.log_softmax(own)[0, 2]
    assert float(loss) == pytest.approx(TASK.guess, rel=1e-5)


def test_losses_of_margins_are_finite_and_distil_in_place() -> None:
    outputs = jnp.concatenate([jnp.ones((2, 5)), jnp.array([[1.0, -1.0, 0.0]] * 2)], 1)
    targets = jnp.array([0, 1])
    loss = SoftCrossEntropy(smoothing=0.0).build()

    def total(student: Any, teacher: Any, role: str) -> Any:
        made = [trained_logits(TASK, one, targets) for one in (student, teacher)]
        return loss(made[0], None if role == "largest" else made[1], {}, targets, role)

    assert np.isfinite(jax.grad(total)(outputs, outputs, "largest")).all()
    other = outputs.at[:, 5:].add(jnp.array([[-0.5, 0.2, 0.3]]))
    np.testing.assert_allclose(jax.grad(total)(other, other, "random"), 0, atol=1e-6)
    assert np.any(np.abs(jax.grad(total)(other, 0.5 * other, "random")) > 0.01)


def test_parts_that_cannot_be() -> None:
    about = {"bands": 4, "length": 6, "speakers": 3}
    assert VerifySpeakers(margin=0.1).build(**about).margin == 0.1
    for part, said in (
        (VerifySpeakers(scale=0.0), r"task.scale is 0.0, but must be a number above 0"),
        (VerifySpeakers(margin=-0.1), r"task.margin is -0.1, but must be in \[0, 1.57\)"),
    ):
        with pytest.raises(UserError, match=said):
            part.build(**about)
    with pytest.raises(UserError, match="have 3 frames, but the space wants 5"):
        TASK.fit(jnp.zeros((1, 3, 4)), 5)
