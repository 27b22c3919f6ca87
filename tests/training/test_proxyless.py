"""ProxylessNAS: gradients of gates by hand, the memory of two paths, and planted operations."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.elastic import choices, decision_groups, shared_params, strategies
from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.nn import layers
from supernet_jax.spaces import Digits
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import train_step
from supernet_jax.training.losses import hard_labels
from supernet_jax.training.optimizers import adamw
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.samplers import ProxylessNAS, architecture, proxyless
from supernet_jax.training.samplers.proxyless import drawn_pairs, gradient, rescaled

BATCH = 32
OPERATIONS = {"none": jnp.zeros_like, "same": lambda x: x, "square": jnp.square, "sine": jnp.sin}
NAMES = tuple(OPERATIONS)
PLANTED = ("square", "same")  # on the two halves of an image
SEEDS = 10


@dataclasses.dataclass(frozen=True)
class Kind:
    """Which operation, or how many classes."""

    what: Any


class Operation(nn.Module):
    """An operation on each pixel, and logits of their mean."""

    spec: Kind

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return layers.Dense(2, name="dense")(jnp.mean(OPERATIONS[self.spec.what](x), (1, 2)))


def operations() -> Space:
    """Logits are the sum of those of an operation of four on each half of an image."""
    menu = {"operation": [Choice(tuple(range(len(NAMES))))] * 2, "resolution": Choice((4,))}
    options = {name: (Operation, Kind(name)) for name in NAMES}
    blocks = {
        half: choice_block(options, menu=menu, decision=("operation", i), channels=(1,))
        for i, half in enumerate(("left", "right"))
    }

    def forward(run: Any, x: Any) -> Any:
        left, right = jnp.split(x, 2, axis=2)
        return run("left", left) + run("right", right)

    return Space("operations", menu, blocks, forward, ImageClassification(1, 2), (("resolution",),))


SPACE = operations()


def planted(key: Any) -> Any:
    """Images whose label is that of the planted operations, with a fixed classifier."""
    images = 1.5 * jax.random.normal(key, (BATCH, 4, 4, 1))
    left, right = jnp.split(images[..., 0], 2, axis=2)
    value = OPERATIONS[PLANTED[0]](left).mean((1, 2)) + OPERATIONS[PLANTED[1]](right).mean((1, 2))
    return images, (value > 1.5**2).astype(jnp.int32)


def learning(space: Space, *names: str) -> Any:
    """Whether each decision learns: those of these names."""
    own = [np.array(name in names) for name in choices.names(space.menu)]
    return jax.tree.unflatten(jax.tree.structure(space.menu), own)


def test_the_gradient_of_gates_by_hand() -> None:
    """Equation 4, from what the two paths of each half put out."""
    params = shared_params.init(SPACE, jax.random.key(0))
    images, labels = planted(jax.random.key(1))
    alpha = {"operation": [jnp.array([0.3, -0.2, 0.9, 0.1]), jnp.array([-0.5, 0.4, 0.2, 0.0])]}
    alpha["resolution"] = jnp.zeros(1)
    pairs = {"operation": [jnp.int32([2, 0]), jnp.int32([1, 3])], "resolution": jnp.int32([0, 0])}

    def score(code: Any, *, paths: Any = None) -> Any:
        logits = mixed(SPACE, params, code, images, size=4, paths=paths).logits
        return hard_labels.hard_labels()(logits, None, {}, labels, "codes")

    learns = learning(SPACE, "operation/0", "operation/1")
    graded = jax.jit(functools.partial(gradient, score=score))
    loss, found = graded(alpha, pairs, learns)

    outputs: list[dict[int, Any]] = []
    for half, x, two in zip(
        ("left", "right"), jnp.split(images, 2, 2), ((2, 0), (1, 3)), strict=True
    ):
        outputs.append({})
        for option in two:
            dense = params[half][NAMES[option]]["dense"]
            mean = jnp.mean(OPERATIONS[NAMES[option]](x), (1, 2))
            outputs[-1][option] = np.asarray(dense["bias"]) + np.asarray(
                mean @ dense["kernel"], np.float64
            )
    logits = outputs[0][2] + outputs[1][1]  # of the active options
    likely = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(likely[np.arange(BATCH), labels]).mean(), rtol=1e-5)
    slope = (likely - np.eye(2)[np.asarray(labels)]) / BATCH
    for i, (two, own) in enumerate(zip(((2, 0), (1, 3)), outputs, strict=True)):
        gates = {option: float(np.sum(slope * own[option])) for option in two}
        share = np.exp([float(alpha["operation"][i][option]) for option in two])
        share = dict(zip(two, share / share.sum(), strict=True))
        wanted = np.zeros(4)
        for m in two:
            wanted[m] = sum(gates[n] * share[n] * ((m == n) - share[m]) for n in two)
        assert abs(wanted).max() > 1e-3
        np.testing.assert_allclose(found["operation"][i], wanted, atol=1e-6)
    _, without = graded(alpha, pairs, learning(SPACE, "operation/0"))
    np.testing.assert_allclose(without["operation"][0], found["operation"][0], atol=1e-6)
    assert not np.any(without["operation"][1]) and not np.any(without["resolution"])


def test_two_options_are_drawn_without_replacement() -> None:
    likely = np.array([0.5, 0.3, 0.2])
    logits = np.log(likely).astype(np.float32)
    alpha = {"a": logits, "b": np.zeros(1, np.float32), "c": logits}
    learns = {"a": np.array(True), "b": np.array(False), "c": np.array(False)}
    draw = jax.jit(jax.vmap(drawn_pairs, in_axes=(0, None, None)))
    drawn = draw(jax.random.split(jax.random.key(0), 20_000), alpha, learns)
    assert not np.any(drawn["b"])
    np.testing.assert_array_equal(drawn["c"][:, 0], drawn["c"][:, 1])
    first, second = np.asarray(drawn["a"]).T
    assert np.all(first != second)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = likely[i] * likely[j] * (1 / (1 - likely[i]) + 1 / (1 - likely[j]))
        for active, other in ((i, j), (j, i)):
            wanted = both * likely[active] / (likely[i] + likely[j])
            seen = np.mean((first == active) & (second == other))
            assert abs(seen - wanted) < 5 * np.sqrt(wanted / 20_000)


def test_other_options_stay_as_likely_as_they_were() -> None:
    before = {"a": np.float32([0.0, 1.0, 2.0, 3.0])}
    after = {"a": before["a"] + np.float32([0.7, 0.0, -0.3, 0.0])}
    two = {"a": np.int32([2, 0])}
    change = functools.partial(jax.jit(rescaled), before, after, two)
    logits = [before["a"], np.asarray(change({"a": True})["a"])]
    old, found = (np.exp(x) / np.exp(x).sum() for x in logits)
    np.testing.assert_allclose(found[[1, 3]], old[[1, 3]], rtol=1e-5)
    assert found[0] > old[0] * 1.1 and found[2] < old[2]
    np.testing.assert_array_equal(change({"a": False})["a"], before["a"])


def test_the_expected_cost_moves_the_two_options_alone() -> None:
    def score(code: Any, *, paths: Any = None) -> Any:
        return jnp.zeros(()) * code["a"][0]

    alpha, two = {"a": np.float32([0.5, 0.0, -0.5])}, {"a": np.int32([2, 1])}
    price = np.float32([1.0, 2.0, 4.0])
    how: Any = {"score": score, "cost": lambda code: jnp.sum(price * code["a"])}
    slope = jax.jit(functools.partial(gradient, **how))(alpha, two, {"a": True})[1]["a"]
    share = np.exp([0.0, -0.5]) / np.exp([0.0, -0.5]).sum()  # of options 1 and 2
    wanted = [0, share[0] * share[1] * (2 - 4), share[0] * share[1] * (4 - 2)]
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)


def test_decisions_of_one_block_learn_in_turn() -> None:
    (every,) = decision_groups.groups(SPACE)
    assert dict(zip(choices.names(SPACE.menu), every, strict=True)) == {
        "operation/0": True,
        "operation/1": True,
        "resolution": False,
    }
    space = Digits().build()
    table, names = decision_groups.groups(space), choices.names(space.menu)
    several = [len(choice) > 1 for choice in jax.tree.leaves(space.menu)]
    np.testing.assert_array_equal(table.sum(0), several)
    together = [{names[i] for i in np.flatnonzero(row)} for row in table]
    for group in together:
        for block in space.blocks.values():
            read = {*block.index.paths, *(block.alive.paths if block.alive else ())}
            assert len(group & {"/".join(map(str, path)) for path in read}) <= 1
    assert max(map(len, together)) > 1
    # Of blocks with a common owner, as where they share parameters, all decisions meet.
    alone = decision_groups.groups(space, lambda name: ("all",))
    assert alone.sum(1).tolist() == [1] * sum(several)


def test_planted_operations_are_found_from_every_seed() -> None:
    """By the step that trains weights as well, which begin as random ones."""
    recipe = Recipe(
        space=SPACE,
        sampler=proxyless(SPACE, learning_rate=0.03),
        loss=hard_labels.hard_labels(),
        optimizer=adamw.adamw(0.1),
        augment=lambda images, key, ids: images,
        strategy=strategies.switched,
    )
    step = train_step.Step(recipe)

    @jax.jit
    def trained(seed: Any) -> Any:
        def one(state: Any, key: Any) -> Any:
            (images, labels), second = map(planted, jax.random.split(key))
            ids = jnp.zeros(BATCH, jnp.int32)
            batch = Batch(images, labels, ids, Batch(*second, ids))
            return step(state, batch, sizes=(4,))[0], None

        key = jax.random.key(seed)
        state = train_step.create(recipe, jax.random.key_data(key))
        return jax.lax.scan(one, state, jax.random.split(key, 200))[0]

    for seed in range(SEEDS):
        state = trained(seed)
        code = recipe.sampler.learn.code(state.sampler, state.params)  # type: ignore[union-attr]
        found = architecture.argmax(code)["operation"]
        assert tuple(NAMES[i] for i in found) == PLANTED, seed


@dataclasses.dataclass(frozen=True)
class Wide:
    """Channels of a `Perceptron`."""

    c_in: int


class Perceptron(nn.Module):
    spec: Wide

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.swish(layers.Pointwise(4 * self.spec.c_in, name="first")(x))
        return x + layers.Pointwise(self.spec.c_in, name="second")(y)


def perceptrons(options: int) -> Space:
    """A block of so many options, which are alike in size."""
    menu = {"which": Choice(tuple(range(options))), "resolution": Choice((8,))}
    named = {f"option{i}": (Perceptron, Wide(4)) for i in range(options)}
    blocks = {"block": choice_block(named, menu=menu, decision=("which",), channels=(4,))}

    def forward(run: Any, x: Any) -> Any:
        return jnp.mean(run("block", jnp.concatenate([x, x], -1)), (1, 2))

    return Space("many", menu, blocks, forward, ImageClassification(2, 4), (("resolution",),))


def temporary(options: int, *, two: bool) -> int:
    """Bytes that the compiler plans for the gradient of a code, of all paths or of two."""
    space = perceptrons(options)
    params = shared_params.parameter_shapes(space)
    images = jax.ShapeDtypeStruct((64, 8, 8, 2), jnp.float32)
    code = jax.tree.map(lambda c: jax.ShapeDtypeStruct((len(c),), jnp.float32), space.menu)
    pairs = jax.tree.map(lambda c: jax.ShapeDtypeStruct((2,), jnp.int32), space.menu)

    def loss(code: Any, params: Any, images: Any, pairs: Any) -> Any:
        paths = pairs if two else None
        return jnp.mean(jnp.square(mixed(space, params, code, images, size=8, paths=paths).logits))

    lowered = jax.jit(jax.value_and_grad(loss)).lower(code, params, images, pairs)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_a_step_of_the_architecture_has_the_memory_of_two_paths() -> None:
    few, many = temporary(2, two=True), temporary(8, two=True)
    assert many < 1.05 * few, "more options take more memory"
    assert many <= temporary(2, two=False)
    assert 3 * many < temporary(8, two=False)


class Plain:
    """A part whose cost is no sum of those of blocks."""

    def build(self, space: Space) -> Any:
        return lambda arch: 1.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": 0.0}, r"sampler\.learning-rate is 0\.0, but must be above 0"),
        ({"weight": -1.0}, r"sampler\.weight is -1\.0, must be at least 0"),
        ({"weight": 1.0, "cost": 3}, r"sampler\.cost is 3; give a part that builds a cost"),
        ({"weight": 1.0, "cost": Plain()}, "an expected cost is made of the costs of blocks"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, said: str) -> None:
    space = Digits().build()
    with pytest.raises(UserError, match=said):
        ProxylessNAS(**settings).build(menu=space.menu, space=space)
