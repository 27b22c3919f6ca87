"""Samplers that search by gradients, on a problem whose answer is known.

A method joins by a line in `CASES`: then it must find the planted answer (`planted`) from every
seed, the cheapest arch instead where costs weigh more, and go on to the bit.
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from planted import ANSWER, PIXELS, Running, Search, price
from test_checkpoint import same, target

from supernet_jax.elastic.mixed import mixed
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs import BlockCost, BlockTables
from supernet_jax.spaces.fbnet import FBNetSmall
from supernet_jax.storage import checkpoint
from supernet_jax.training import samplers, train_step
from supernet_jax.training.architecture_step import SecondBatch
from supernet_jax.training.members import Members
from supernet_jax.training.recipe import State
from supernet_jax.training.samplers import FBNet, architecture
from supernet_jax.training.samplers.fbnet import falling

SEEDS, STEPS = 10, 300
MENU = planted.space().menu


def fbnet(weight: Any) -> samplers.Sampler:
    """FBNet; the weight of the cost is its power."""
    return samplers.fbnet(
        MENU,
        cost=price(),
        temperature=falling(5.0, 4.05, STEPS),
        beta=weight,
        learning_rate=0.05,
        start=STEPS // 9,
    )


CASES: dict[str, Search] = {
    "darts": Search(lambda weight: samplers.darts(MENU, learning_rate=0.05)),
    "darts_ahead": Search(lambda weight: samplers.darts(MENU, learning_rate=0.05, ahead=0.02)),
    "fbnet": Search(fbnet, weights=(0.6, 8.0)),
}


class Outcome(NamedTuple):
    """What a case came to.

    Attributes:
        running: its programs.
        half: states after half of the steps.
        end: states after all.
        applied: which steps were.
    """

    running: Running
    half: State
    end: State
    applied: np.ndarray

    @property
    def archs(self) -> np.ndarray:
        """What was found."""
        return self.running.archs(self.end)


HALVES = np.split(np.arange(STEPS), 2)


@functools.cache
def outcome(name: str) -> Outcome:
    running = Running(CASES[name], SEEDS)
    half, before = running.advanced(running.start, HALVES[0])
    end, after = running.advanced(half, HALVES[1])
    return Outcome(running, half, end, np.stack([before["applied"], after["applied"]]))


@pytest.mark.parametrize("name", CASES)
def test_the_planted_answer_is_found_from_every_seed(name: str) -> None:
    made = outcome(name)
    assert np.all(made.applied == 1)
    np.testing.assert_array_equal(made.archs[:SEEDS], [list(ANSWER.values())] * SEEDS)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.weights[1]])
def test_more_weight_of_costs_finds_cheaper_archs(name: str) -> None:
    """So much that little else counts: the same seeds then find the cheapest arch."""
    np.testing.assert_array_equal(outcome(name).archs[SEEDS:], 0)


@pytest.mark.parametrize("name", CASES)
def test_a_search_goes_on_to_the_bit(name: str, tmp_path: pathlib.Path) -> None:
    """Its whole state through a checkpoint."""
    made = outcome(name)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS // 2, made.half, {})
    restored = checkpoint.restore(tmp_path, target(made.half))
    same(restored, made.half)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), restored)  # no other program
    again, _ = made.running.advanced(restored, HALVES[1])
    same(again, made.end)
    first, last = (jax.tree.leaves(s.sampler.alpha) for s in (made.half, made.end))
    assert any(not np.array_equal(a, b) for a, b in zip(first, last, strict=True))


RATE = 0.3  # of the weights' step ahead: large, so that its effect is


def test_a_step_ahead_and_its_gradient() -> None:
    """DARTS' second order: the loss after a step of plain gradient descent that is made by hand,
    and its derivative by the code beside finite differences, in float64.
    """
    with jax.enable_x64(True):
        recipe = planted.recipe(samplers.darts(MENU), dtype=jnp.float64)
        state = train_step.create(recipe)
        double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)  # noqa: E731
        state = dataclasses.replace(state, params=double(state.params))
        first, second = (planted.examples(seed, 32) for seed in (1, 2))
        score = SecondBatch(
            *(Members(recipe, None, None, state, *one, state.key) for one in (first, second)),
            PIXELS,
        )
        code = double({"first": [0.5, 0.3, 0.2], "second": [0.1, 0.3, 0.6], "resolution": [1.0]})
        code = {name: jnp.stack(values) for name, values in code.items()}

        def loss(params: Any, code: Any, images: Any, labels: Any) -> Any:
            how: Any = {"size": PIXELS, "dtype": jnp.float64}
            logits = mixed(planted.space(), params, code, images, **how).logits
            chosen = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
            return -jnp.mean(chosen)

        @jax.jit
        def by_hand(code: Any) -> Any:
            slopes = jax.grad(loss)(state.params, code, *first)
            moved = jax.tree.map(lambda p, g: p - RATE * g, state.params, slopes)
            return loss(moved, code, *second)

        ahead = jax.jit(jax.value_and_grad(lambda code: score.ahead(code, rate=RATE)))
        value, gradient = ahead(code)
        assert value == pytest.approx(float(by_hand(code)), rel=1e-12)
        now = jax.jit(jax.value_and_grad(score))(code)
        assert abs(now[0] - value) > 1e-3  # the step changes something

        worst = 0.0
        for name in ANSWER:
            for option in range(3):
                numbers = []
                for shift in (1e-5, -1e-5):
                    moved = {**code, name: code[name].at[option].add(shift)}
                    numbers.append(float(by_hand(moved)))
                slope = (numbers[0] - numbers[1]) / 2e-5
                assert gradient[name][option] == pytest.approx(slope, abs=1e-8)
                worst = max(worst, abs(float(now[1][name][option]) - slope))
        assert worst > 1e-3  # the gradient of first order is another one


class Counted:
    """A score that is a linear function of the code."""

    def __call__(self, code: Any, *, paths: Any = None) -> Any:
        return 2.0 + jnp.dot(code["first"], jnp.asarray([0.3, 0.1, 0.2]))

    def ahead(self, code: Any, *, rate: float) -> Any:
        raise AssertionError("FBNet looks at the weights as they are")


@pytest.mark.parametrize("form", ["product", "sum"])
def test_the_loss_of_fbnet(form: Any) -> None:
    """Equation 3 of the paper for the code that equation 6 draws, and no step before `start`."""
    sampler = samplers.fbnet(
        MENU,
        cost=price(),
        temperature=falling(2.0, 1.0, 10),
        alpha=0.3,
        beta=1.5,
        form=form,
        start=4,
    )
    assert sampler.learn is not None
    state, key = sampler.init(jax.random.key(1)), jax.random.key(2)
    leaves = jax.tree.leaves(state.alpha)
    noise = [
        jax.random.gumbel(k, leaf.shape)
        for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    for step in (3, 5):
        temperature = 2.0 * np.exp(-step / 10)
        drawn = [jax.nn.softmax((a + g) / temperature) for a, g in zip(leaves, noise, strict=True)]
        code = jax.tree.unflatten(jax.tree.structure(state.alpha), drawn)
        cost = 10 + sum(float(jnp.dot(code[name], jnp.asarray([1, 8, 8]))) for name in ANSWER)
        term, score = 0.3 * np.log(cost) ** 1.5, float(Counted()(code))
        moved, loss = sampler.learn.update(state, key, jnp.int32(step), Counted())
        assert float(loss) == pytest.approx(score * term if form == "product" else score + term)
        still = jax.tree.leaves(jax.tree.map(np.array_equal, state, moved))
        assert all(still) == (step < 4)
        likely = sampler.learn.code(state, {})
        assert all(np.allclose(leaf.sum(), 1) for leaf in jax.tree.leaves(likely))
        weights = jax.tree.map(lambda x: x[0], sampler.sample(state, key, jnp.int32(step), len))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), weights, code)


def test_expected_latency_is_the_sum_and_the_mean() -> None:
    """Of a table with a number for each block: the sum for a one-hot code, and of a soft one the
    mean over archs that it draws.
    """
    space = FBNetSmall(widths=(4, 6)).build()
    rng = np.random.default_rng(0)
    tables = {
        name: rng.uniform(0.1, 3.0, (1, len(block.specs))) for name, block in space.blocks.items()
    }
    cost = BlockCost(space, BlockTables(tables, constant=0.5))
    expected = costs.expected(cost)
    logits = jax.tree.map(
        lambda choice: jnp.asarray(rng.normal(size=len(choice)), jnp.float32), space.menu
    )
    arch = architecture.argmax(logits)
    one_hot = jax.tree.map(lambda leaf, i: jax.nn.one_hot(i, len(leaf)), logits, arch)
    chosen = [tables[f"layer{i + 1}"][0, int(option)] for i, option in enumerate(arch["layer"])]
    by_hand = 0.5 + tables["stem"][0, 0] + tables["head"][0, 0] + sum(chosen)
    assert float(expected(one_hot)) == pytest.approx(by_hand, rel=1e-6)
    code = architecture.probabilities(logits)
    archs = jax.device_get(architecture.drawn(jax.random.key(0), code, (40_000,)))
    values = np.asarray(cost(archs))
    error = values.std() / np.sqrt(len(values))
    assert abs(float(expected(code)) - values.mean()) < 4 * error < 0.05


@dataclasses.dataclass(frozen=True)
class Depth:
    """A cost of one's own without tables of blocks."""

    name = "depth"
    unit = "layers"

    def build(self, space: Any) -> Any:
        """The number of layers that are not skipped."""
        return lambda arch: sum(leaf > 0 for leaf in arch["layer"])


@dataclasses.dataclass(frozen=True)
class Light:
    """A cost in a unit so large that it is below 1."""

    def build(self, space: Any) -> Any:
        """Half a unit for each block."""
        each = {name: np.full((1, len(b.specs)), 0.01) for name, b in space.blocks.items()}
        return BlockCost(space, BlockTables(each))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, "sampler.temperature is 0.0, but must be above 0"),
        ({"temperature": float("nan")}, "sampler.temperature is nan"),
        ({"temperature": 1e-40}, "ends at 1.74e-42, but must end at 0.001 or more"),
        ({"alpha": float("nan")}, "sampler.alpha is nan, but must be above 0"),
        ({"beta": float("nan")}, "sampler.beta is nan, must be from 0 to 10"),
        ({"beta": 30.0}, "sampler.beta is 30.0, must be from 0 to 10"),
        ({"learning_rate": 0.0}, "sampler.learning-rate is 0.0"),
        ({"fall": -1.0}, "sampler.fall is -1.0, must be from 0"),
        ({"start": 1.5}, "sampler.start is 1.5, must be from 0 to 1"),
        ({"cost": Depth()}, "made of the costs of blocks"),
        ({"cost": Light()}, "must be more than 1"),
        ({"cost": "macs"}, "sampler.cost is 'macs'; give a cost of sj.costs"),
    ],
    ids=str,
)
def test_wrong_settings_of_fbnet(settings: Any, words: str) -> None:
    space = FBNetSmall(widths=(4,), layers=1, head=4).build()
    with pytest.raises(UserError, match=words.replace(".", r"\.")) as error:
        FBNet(**settings).build(menu=space.menu, space=space, steps=10)
    assert "\n" not in str(error.value)
