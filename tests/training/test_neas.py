"""NEAS's sampler: diversity by its definition, what options are booked, and which of them leave."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import random_inputs, random_params
from tiny_space import parted, tiny

from supernet_jax.elastic import ensembles, strategies
from supernet_jax.elastic.ensembles import ensemble
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training import samplers
from supernet_jax.training.samplers import Neas, neas
from supernet_jax.training.samplers.neas import NeasState, diversity, option_scores

SPACE = parted()
ABOUT = ensembles.parts(SPACE)
KERNEL = ABOUT.paths.index(("kernel_size", 0))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_hand(logits: np.ndarray) -> np.ndarray:
    """Mean over members of KL(ensemble || member), `[K, B, C] -> [B]`."""
    whole = softmax(logits.mean(0))
    each = softmax(logits)
    return np.mean([(whole * (np.log(whole) - np.log(one))).sum(-1) for one in each], axis=0)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(np.take_along_axis(softmax(logits), labels[..., None], -1)[..., 0])


def test_diversity_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(3, 7, 5))
    found = np.asarray(diversity(jnp.float32(logits)))
    np.testing.assert_allclose(found, by_hand(logits), atol=1e-5)
    assert found.min() > 0.1
    # Whatever the labels are, the ensemble gains so much over its members.
    for seed in range(3):
        labels = np.random.default_rng(seed).integers(0, 5, 7)
        gain = np.mean([cross_entropy(one, labels) for one in logits], axis=0)
        np.testing.assert_allclose(found, gain - cross_entropy(logits.mean(0), labels), atol=1e-5)
    # Two sure members by hand: (0.9, 0.1) and (0.1, 0.9) make (0.5, 0.5).
    sure = np.log([[[0.9, 0.1]], [[0.1, 0.9]]])
    wanted = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    np.testing.assert_allclose(diversity(jnp.float32(sure)), [wanted], atol=1e-6)
    twins = jnp.float32(np.stack([logits[0]] * 3))
    np.testing.assert_allclose(diversity(twins), 0, atol=1e-6)


@functools.cache
def losses() -> Any:
    """`archs [M] -> (losses [M], logits [M, B, K])` of real ensembles, as a step sees them."""
    params, images = random_params(SPACE), random_inputs(SPACE, 6, 8)
    # Sure of itself: of outputs that differ little all divergences are the same.
    params["head"]["classifier"] = jax.tree.map(lambda p: 12 * p, params["head"]["classifier"])
    labels = jnp.arange(8) % 5

    def one(arch: Any) -> Any:
        logits = strategies.masked(SPACE, params, arch, images, size=6).logits
        right = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)
        return -jnp.mean(right), logits

    return jax.jit(lambda archs: jax.lax.map(one, archs))


def test_options_are_booked_by_their_definition() -> None:
    """What five steps on real networks leave in the state, recounted in NumPy."""
    made = neas(SPACE, n_random=2)
    assert samplers.roles(made) == ("ensemble",) * 2 + ("alone",) * 4
    state = made.init(jax.random.key(3))
    total = np.zeros((3, *state.seen.shape))
    for step in range(5):
        archs = made.sample(state, jax.random.key(9), jnp.int32(step), lambda arch: jnp.zeros(()))
        archs = SPACE.at_size(archs, jnp.zeros(6, jnp.int32))
        found, logits = jax.device_get(losses()(archs))
        metrics = dict(zip([f"loss/{name}" for name in samplers.names(made)], found, strict=True))
        state = made.update(state, metrics)
        rows = ensembles.decisions(SPACE, jax.device_get(archs))  # [6, 2, D]
        for e in range(2):
            alone = [2 + e, 4 + e]
            for k in range(2):  # alone is that member, and no other
                np.testing.assert_array_equal(rows[alone[k], 0], rows[e, k])
            mean, far = found[alone].mean(), by_hand(logits[alone].astype(float)).mean()
            np.testing.assert_allclose(mean - found[e], far, atol=2e-6)
            for d, options in enumerate(rows[e].T):
                for option in set(options.tolist()):
                    total[:, d, option] += mean, far, 1
    np.testing.assert_allclose(state.losses, total[0], rtol=1e-5)
    np.testing.assert_allclose(state.diversities, total[1], atol=1e-5)
    np.testing.assert_array_equal(state.seen, total[2])
    assert total[1].max() > 0.1
    for weight in (0.0, 2.5):
        with np.errstate(invalid="ignore"):
            wanted = (weight * total[1] - total[0]) / np.where(total[2], total[2], np.nan)
        np.testing.assert_allclose(option_scores(state, weight=weight), wanted, atol=1e-4)


@functools.cache
def three_kernels() -> Space:
    """Ensembles that part behind the stem or never; only the kernel has more than two options."""
    stage = Stage((4, 6), (1, 2), (1, 3, 5), (2,), 2)
    members = mobilenet(
        "three-kernels",
        resolutions=(6,),
        stem=(4, 6),
        stem_stride=1,
        stages=(stage,),
        last=(8,),
        classes=5,
    )
    return ensemble(members, splits=(1, 4))


def planted(rows: Any, kernel: int) -> Any:
    """Losses of ensembles by their decisions `[M, 2, D]`: a kernel of 5 is worse by 0.2 alone, but
    beside another one it makes an ensemble that is better by 0.6. Else members hardly differ.
    """
    worse = rows[..., kernel] == 2
    others = 0.01 * jnp.sin(rows @ jnp.arange(1.0, rows.shape[-1] + 1))
    return 1.0 + jnp.mean(0.2 * worse + others, -1) - 0.6 * (worse[:, 0] != worse[:, 1])


def shrunk(weight: float, *, drops: int = 1, steps: int = 40, keep: int = 2) -> tuple[Any, Any]:
    """Options of three kernels that remain after each step, bool `[steps, D, O]`, and the archs
    that were drawn.
    """
    space = three_kernels()
    made = neas(space, n_random=4, drops=drops, start=20, every=5, keep=keep, weight=weight)
    kernel = ensembles.parts(space).paths.index(("kernel_size", 0))

    def step(state: Any, i: Any) -> Any:
        archs = made.sample(state, jax.random.key(0), i, lambda arch: jnp.zeros(()))
        names = [f"loss/{name}" for name in samplers.names(made)]
        losses = planted(ensembles.decisions(space, archs), kernel)
        state = made.update(state, dict(zip(names, losses, strict=True)))
        return state, (state.open, archs)

    start = made.init(jax.random.key(0))
    _, (remain, archs) = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(steps)))(start)
    return np.asarray(remain), jax.device_get(archs)


def test_a_worse_option_stays_where_it_makes_ensembles_diverse() -> None:
    """By members' losses alone it leaves; with the diversity one of two that are the same does."""
    about = ensembles.parts(three_kernels())
    kernel, every = about.paths.index(("kernel_size", 0)), about.options.sum()
    for weight, stays in ((0.0, False), (1.0, True)):
        remain, archs = shrunk(weight)
        assert np.all(remain.sum((1, 2)) == np.where(np.arange(40) < 19, every, every - 1))
        assert remain[-1][kernel].sum() == 2 and remain[-1][kernel][2] == stays
        gone = np.flatnonzero(~remain[-1][kernel])
        drawn = ensembles.decisions(three_kernels(), archs)[..., kernel]
        assert np.isin(drawn[:20], gone).any() and not np.isin(drawn[20:], gone).any()


def test_options_leave_one_at_a_time_and_one_stays() -> None:
    options = ensembles.parts(three_kernels()).options
    most = int((options - 1).sum())
    remain, _ = shrunk(1.0, drops=most + 1, steps=25 + 5 * most, keep=1)
    left = np.clip((np.arange(1, len(remain) + 1) - 15) // 5, 0, most)
    np.testing.assert_array_equal(remain.sum((1, 2)), options.sum() - left)
    np.testing.assert_array_equal(remain[-1].sum(1), 1)


def test_the_code_is_what_remains() -> None:
    made = neas(SPACE, drops=1)
    assert made.learn is not None and made.learn.update is None
    state = made.init(jax.random.key(0))
    code = made.learn.code(state._replace(open=state.open.at[KERNEL, 0].set(False)), {})
    assert jax.tree.structure(code) == jax.tree.structure(SPACE.menu)
    for member in code["members"]:
        np.testing.assert_allclose(member["kernel_size"][0], [0, 1])
        np.testing.assert_allclose(member["depth"][0], [0.5, 0.5])
    for weights in jax.tree.leaves(code):
        np.testing.assert_allclose(np.sum(weights), 1, rtol=1e-6)


def test_nothing_leaves_that_was_not_seen() -> None:
    """After one ensemble: what it lacks may be better."""
    made = neas(SPACE, drops=1, start=1, keep=1)
    state = made.init(jax.random.key(0))
    metrics = {f"loss/{name}": jnp.float32(1) for name in samplers.names(made)}
    after = made.update(state, metrics)
    np.testing.assert_array_equal(after.open, state.open)
    assert int(after.taken) == 1 and not np.any(after.seen)  # it began anew


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drops": 99}, "sampler.drops is 99, but with 2 options kept in each decision at most 0"),
        ({"drops": -1}, "sampler.drops is -1, must be 0 or more"),
        ({"keep": 0}, "sampler.keep is 0, must be 1 or more"),
        ({"weight": -1.0}, "sampler.weight is -1.0, must be 0 or more"),
        ({"start": 0.9, "end": 0.5}, "sampler.start is 0.9 and sampler.end 0.5; the start comes"),
        ({"n_random": 0}, "sampler.n-random is 0, must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        Neas(**settings).build(menu=SPACE.menu, space=SPACE, steps=100)


def test_spaces_that_it_does_not_fit() -> None:
    with pytest.raises(UserError, match="the space tiny is none of ensembles"):
        Neas().build(menu=tiny().menu, space=tiny(), steps=100)
    with pytest.raises(UserError, match="have 6 among its splits"):
        neas(ensemble(tiny(), splits=(2, 3)))
    with pytest.raises(UserError, match="never part; give it more splits"):
        neas(ensemble(tiny(), splits=(6,)))
    with pytest.raises(UserError, match='make the space with weights="shared"'):
        neas(ensemble(tiny(), weights="own"))
    assert isinstance(neas(SPACE).init(jax.random.key(0)), NeasState)
