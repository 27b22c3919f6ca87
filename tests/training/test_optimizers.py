import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

from supernet_jax.errors import UserError
from supernet_jax.storage import user_code
from supernet_jax.training import optimizers as parts
from supernet_jax.training.optimizers import adamw, schedules, sgd

PUBLISHED = {"steps": 225000, "warmup_steps": 3125}  # AlphaNet: 360 epochs of 625 steps, 5 warm-up
# base_lr 0.8, warm-up factor 0.001: AlphaNet's schedule evaluated in float64
SCHEDULE = {
    0: 0.0008,
    1: 0.0010557439999485444,
    100: 0.026374387145439406,
    1562: 0.4002245315116061,
    3124: 0.799363909838349,
    3125: 0.7996192886327432,
    3126: 0.7996190449771725,
    6250: 0.7984778792366982,
    112500: 0.4,
    187500: 0.05358983848622452,
    224999: 3.89910326248355e-11,
}
SHAPES = {
    "first": {"conv": {"kernel": (3, 3, 3, 4)}, "norm": {"scale": (4,), "bias": (4,)}},
    "head": {"linear": {"kernel": (4, 5), "bias": (5,)}},
}
MASK = {
    "first": {"conv": {"kernel": True}, "norm": {"scale": False, "bias": False}},
    "head": {"linear": {"kernel": True, "bias": False}},
}

# All parts of `sj.optimizers` join what every optimiser keeps by being there.
KINDS = [kind for kind in vars(parts).values() if dataclasses.is_dataclass(kind)]
VARIANTS = [kind() for kind in KINDS] + [
    user_code.run(ROOT / "docs" / "examples" / "optimizer.py").Lion(),
]


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: scale * rng.standard_normal(shape), SHAPES, is_leaf=lambda x: type(x) is tuple
    )


def as_float32(tree):
    return jax.tree.map(jnp.float32, tree)


def assert_trees_close(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def test_schedule_has_the_published_values():
    schedule = jax.jit(schedules.warmup_cosine(0.8, **PUBLISHED))
    got = [schedule(jnp.int32(step)) for step in SCHEDULE]
    np.testing.assert_allclose(got, list(SCHEDULE.values()), rtol=1e-6)  # float32


def test_schedule_is_exact_in_float32_at_every_step():
    steps = np.arange(PUBLISHED["steps"])
    a = np.minimum(steps / PUBLISHED["warmup_steps"], 1)
    # 1 + cos x written as 2 cos(x/2)**2, which float64 keeps to 1e-10 even at the last step
    exact = 0.8 * (0.001 * (1 - a) + a) * np.cos(np.pi * steps / PUBLISHED["steps"] / 2) ** 2
    got = jax.jit(schedules.warmup_cosine(0.8, **PUBLISHED))(jnp.asarray(steps, jnp.int32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=1e-6)


def test_schedule_without_warm_up_starts_at_its_peak_and_stays_at_zero():
    schedule = schedules.warmup_cosine(0.3, steps=10)
    np.testing.assert_allclose(schedule(0), 0.3, rtol=1e-6)
    np.testing.assert_allclose(schedule(5), 0.15, rtol=1e-6)
    assert schedule(10) == schedule(17) == 0


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (10, 11), (10, -1)])
def test_impossible_schedules_are_named(steps, warmup):
    with pytest.raises(UserError, match=f"steps={steps} and warmup_steps={warmup}"):
        schedules.warmup_cosine(0.1, steps=steps, warmup_steps=warmup)


def test_kernels_decay_and_nothing_else():
    assert schedules.decay_mask(random_tree(0)) == MASK
    squeeze = {"expand": {"kernel": 0, "bias": 0}, "reduce": {"kernel": 0, "bias": 0}}
    params = {
        "mb1": {
            "squeeze": squeeze,
            "shortcut": {"kernel": 0},
            "transforms": {"depthwise/kernel": {"5": 0, "kernel": 0}},
        },
        "transforms_like": {"kernel": 0},
    }
    mask = schedules.decay_mask(params)
    assert mask["mb1"]["transforms"] == {"depthwise/kernel": {"5": False, "kernel": False}}
    assert mask["mb1"]["squeeze"]["expand"] == {"kernel": True, "bias": False}
    assert mask["mb1"]["shortcut"]["kernel"] is True
    assert mask["transforms_like"]["kernel"] is True


def test_a_parameter_without_a_rule_does_not_decay_and_of_ones_own_rules_is_named():
    params = {"stem": {"kernel": 0, "positions": 0}, "cls": {"kernels": 0, "scale": 0}}
    assert schedules.decay_mask(params) == {
        "stem": {"kernel": True, "positions": False},
        "cls": {"kernels": False, "scale": False},
    }
    groups = ((r"cls/.*", schedules.DECAY), (r".*/kernel", schedules.DECAY))
    with pytest.raises(UserError, match="parameters stem/positions; every"):
        schedules.decay_mask(params, groups=groups)
    mask = functools.partial(schedules.decay_mask, groups=(*groups, *schedules.DECAY_GROUPS))
    assert mask(params) == {
        "stem": {"kernel": True, "positions": False},
        "cls": {"kernels": True, "scale": True},
    }


def torch_sgd(params, gradients, rates, *, momentum, nesterov, decay, clip):
    """torch.optim.SGD after clip_grad_value_, in float64; decay only where MASK says so."""
    params, buffers = jax.tree.map(np.copy, params), None
    for gradient, rate in zip(gradients, rates, strict=True):
        d = jax.tree.map(lambda g: np.clip(g, -clip, clip), gradient)
        d = jax.tree.map(lambda g, p, m: g + decay * p if m else g, d, params, MASK)
        if buffers is None:
            buffers = jax.tree.map(np.copy, d)
        else:
            buffers = jax.tree.map(lambda v, g: momentum * v + g, buffers, d)
        step = jax.tree.map(lambda g, v: g + momentum * v, d, buffers) if nesterov else buffers
        params = jax.tree.map(lambda p, s, lr=rate: p - lr * s, params, step)
    return params


@pytest.mark.parametrize("nesterov", [True, False])
def test_alphanet_sgd_is_torch_sgd_on_clipped_gradients(nesterov):
    # a decay this strong makes clipping after it, or decaying a bias, visible at once
    settings = {"momentum": 0.9, "nesterov": nesterov}
    start = random_tree(1, scale=3.0)
    gradients = [random_tree(10 + step) for step in range(5)]
    rate = schedules.warmup_cosine(0.5, steps=8, warmup_steps=3)
    rates = [float(rate(step)) for step in range(5)]
    expected = torch_sgd(start, gradients, rates, decay=0.3, clip=0.7, **settings)

    optimiser = sgd.alphanet_sgd(rate, weight_decay=0.3, clip_value=0.7, **settings)
    params = as_float32(start)
    state = optimiser.init(params)
    update = jax.jit(optimiser.update)
    for gradient in gradients:
        updates, state = update(as_float32(gradient), state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_close(params, expected, rtol=1e-5, atol=1e-5)  # five float32 steps


def test_alphanet_sgd_defaults_are_the_published_ones():
    params = {"conv": {"kernel": jnp.float32([2.0]), "bias": jnp.float32([2.0])}}
    gradient = {"conv": {"kernel": jnp.float32([-7.0]), "bias": jnp.float32([0.25])}}
    optimiser = sgd.alphanet_sgd(0.1)
    updates, _ = optimiser.update(gradient, optimiser.init(params), params)
    # first Nesterov step: -lr * 1.9 * (clipped gradient + 1e-5 * kernel)
    expected = {"conv": {"kernel": [-0.19 * (-1 + 2e-5)], "bias": [-0.19 * 0.25]}}
    assert_trees_close(updates, as_float32(expected), rtol=3e-7)


def test_clipping_can_be_switched_off():
    params = {"bias": jnp.zeros(1)}
    optimiser = sgd.alphanet_sgd(1.0, momentum=0.0, clip_value=None)
    updates, _ = optimiser.update({"bias": jnp.full(1, 9.0)}, optimiser.init(params), params)
    assert updates["bias"] == -9


def test_an_unused_parameter_still_decays_and_drifts():
    # the difference from PyTorch that the docstring states
    params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    optimiser = sgd.alphanet_sgd(1.0, weight_decay=0.1)
    gradient = {"kernel": jnp.zeros(1), "bias": jnp.ones(1)}
    updates, state = optimiser.update(gradient, optimiser.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -1.9 * 0.1, rtol=1e-6)
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, gradient), state, params)
    np.testing.assert_allclose(updates["bias"], -0.9 * 0.9, rtol=1e-6)


def test_adamw_clips_the_norm_and_decays_kernels_only():
    rate, decay, b1, b2, eps = 0.1, 0.2, 0.8, 0.9, 1e-2
    start = random_tree(2)
    gradients = [random_tree(20 + step) for step in range(3)]
    optimiser = adamw.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=decay, clip_norm=1.5)
    got = as_float32(start)
    state = optimiser.init(got)
    expected = start
    mean = variance = jax.tree.map(np.zeros_like, start)
    for t, gradient in enumerate(gradients, start=1):
        updates, state = optimiser.update(as_float32(gradient), state, got)
        got = optax.apply_updates(got, updates)
        norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient)))
        assert norm > 1.5
        g = jax.tree.map(lambda g, norm=norm: g * 1.5 / norm, gradient)
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mean, g)
        variance = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, variance, g)

        def step(p, m, v, decays, t=t):
            adam = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
            return p - rate * (adam + decay * p * decays)

        expected = jax.tree.map(step, expected, mean, variance, MASK)
    assert_trees_close(got, expected, rtol=1e-4, atol=1e-5)  # float32 roots of tiny variances


@pytest.mark.parametrize("part", VARIANTS, ids=str)
def test_what_every_optimiser_keeps(part):
    """Shapes, dtypes and one trace; no gradient, no growth; a quadratic is descended."""
    steps = 50
    optimiser, params = part.build(steps=steps), as_float32(random_tree(3))
    traced = []

    @jax.jit
    def update(gradients, state, params):
        traced.append(1)
        updates, state = optimiser.update(gradients, state, params)
        jax.tree.map(lambda p, u: chex.assert_equal_shape([p, u]), params, updates)
        assert all(u.dtype == jnp.float32 for u in jax.tree.leaves(updates))
        return optax.apply_updates(params, updates), state

    start, state = params, optimiser.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        params, state = update(zeros, state, params)
    for old, new, decays in zip(*map(jax.tree.leaves, (start, params, MASK)), strict=True):
        if decays:
            assert np.linalg.norm(new) <= np.linalg.norm(old)
        else:
            np.testing.assert_array_equal(new, old)

    params, state = start, optimiser.init(start)
    for _ in range(steps):  # the gradient of half the squared distance to 0
        params, state = update(params, state, params)
    assert optax.tree.norm(params) < optax.tree.norm(start)
    assert len(traced) == 1
    if hasattr(part, "schedule"):
        rates = np.asarray(jax.vmap(part.schedule(steps=steps))(jnp.arange(steps + 1)))
        assert rates.min() >= 0 and rates[-1] < 1e-3 * rates.max()
