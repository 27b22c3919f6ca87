"""The pages of docs/doors: each shows a whole example, and each example does what it says.

That of the space, with which a user goes the whole way, is in tests/spaces/test_own_space.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from light_space import CHANNELS, CLASSES, Mix, Pool, Sizes, light
from test_doors import filters
from theorem import Check, archs_of, largest_difference
from tiny_space import tiny

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import TRANSFORMS, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.experiment import config
from supernet_jax.searching import Budget, Costs, Searcher, random_search
from supernet_jax.searching import run as run_search
from supernet_jax.storage import typed_json, user_code
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import train_step
from supernet_jax.training.recipe import Batch, Recipe

PAGES, EXAMPLES = ROOT / "docs" / "doors", ROOT / "docs" / "examples"
CONFIGS = (
    *("space", "task", "sampler", "loss", "teacher", "combination", "optimizer", "cost"),
    *("penalty", "transform", "bank", "features"),
)
# No parts of a configuration; the predictor is tested in tests/searching/test_predictors.py, the
# logger in tests/reporting/test_loggers.py.
DOORS = (*CONFIGS, "searcher", "predictor", "logger")


@functools.cache
def example(door: str) -> Any:
    """The module of a door's example."""
    return user_code.run(EXAMPLES / f"{door}.py")


@pytest.mark.parametrize("door", DOORS)
def test_a_page_shows_its_whole_example(door: str) -> None:
    page = (PAGES / f"{door}.md").read_text("utf-8")
    source = (EXAMPLES / f"{door}.py").read_text("utf-8")
    assert f"```python\n{source}```\n" in page, f"copy docs/examples/{door}.py into its page"
    assert f"](../examples/{door}.py)" in page
    assert f"]({door}.md)" in (PAGES / "index.md").read_text("utf-8")


def test_every_page_is_of_a_door() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {"index", *DOORS}


@pytest.mark.parametrize("door", CONFIGS)
def test_an_example_is_a_config_file(door: str) -> None:
    """Its own part is written into a run folder as its name and numbers, and read back by them."""
    settings, types = config.load_file(EXAMPLES / f"{door}.py")
    (own,) = config.user_files(settings)
    written = typed_json.to_json(settings)
    named = {**config.LIBRARY, own: types[own]}
    assert typed_json.parse(Any, written, "config", named=named) == settings
    with pytest.raises(Exception, match=f"{own}.*not part of the library"):
        typed_json.parse(Any, written, "config", named=config.LIBRARY)


def test_the_task_counts_bits() -> None:
    task = example("task").CountBits().build(vocabulary=16, length=3)
    outputs = jnp.zeros((2, 3, 16)).at[0, 0, 5].set(100.0)
    scores = task.score(outputs, jnp.int32([[5, 1, 2], [3, 4, 5]]))
    # One of six bytes is sure; each of the others is one of 16, which takes four bits.
    assert float(task.value(scores)) == pytest.approx(4 * 5 / 6)
    assert task.metric.shown(3.3) == "3.3 per byte" and task.metric.score(1.0) < 0


@pytest.mark.parametrize("tilt", [-2.0, 0.0, 1.5])
def test_the_sampler_draws_as_it_says(tilt: float) -> None:
    menu, count = tiny().menu, 4000
    sampler = example("sampler").Tilted(n_random=count, tilt=tilt).build(menu=menu)
    drawn = jax.jit(lambda key: sampler.sample((), key, jnp.int32(0), None))(jax.random.key(0))
    for choice, leaf in zip(jax.tree.leaves(menu), jax.tree.leaves(drawn), strict=True):
        weights = np.exp(tilt * np.linspace(0, 1, len(choice)))
        shares = np.bincount(leaf, minlength=len(choice)) / count
        # five standard deviations of the share of one option
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=5 * 0.5 / count**0.5)


def test_the_loss_brings_logits_together() -> None:
    student, teacher = jax.random.normal(jax.random.key(0), (2, 8, 5))
    loss = example("loss").LogitMatching().build()
    labels = jnp.zeros(8, jnp.int32)
    value = jax.jit(lambda x: loss(x, teacher, {}, labels, "random"))
    start = float(value(student))
    for _ in range(60):
        student = student - 8 * 5 / 2 * jax.grad(value)(student)  # half of the way
    assert start > 0.1 and float(value(student)) < 1e-10
    np.testing.assert_allclose(jax.nn.softmax(student), jax.nn.softmax(teacher), atol=1e-5)


def test_the_teacher_is_a_snapshot_of_the_right_step() -> None:
    space = light(resolutions=(8,))
    teacher = example("teacher").Snapshot(every=3).build(space=space, dtype=jnp.float32)
    memory, taken = teacher.init({"w": jnp.float32(0)}), []
    for step in range(1, 8):
        memory = teacher.update(memory, {"w": jnp.float32(step)}, jnp.int32(step))
        taken.append(float(memory["w"]))
    assert taken == [0, 0, 3, 3, 3, 6, 6]


def test_the_combination_gives_members_an_equal_say() -> None:
    rule = example("combination").EqualLengths().build()
    members = [{"a": jnp.float32([4.0, 0.0])}, {"a": jnp.float32([0.0, -1.0])}]
    carry = rule.init(members[0])
    for gradient, role in zip(members, ("largest", "random"), strict=True):
        carry = rule.add(carry, gradient, role, jnp.int32(0))
    # both at the mean of the lengths 4 and 1
    np.testing.assert_allclose(rule.finish(carry)["a"], [2.5, -2.5], rtol=1e-6)


def test_the_optimiser_moves_every_element_alike() -> None:
    part = example("optimizer").Lion(learning_rate=0.01, warmup=0.0, weight_decay=0.5)
    chain = part.build(steps=10)
    params = {"kernel": jnp.float32([3.0, -2.0]), "bias": jnp.float32([3.0, -2.0])}
    gradients = {"kernel": jnp.float32([1e-6, 1e3]), "bias": jnp.float32([1e-6, 1e3])}
    updates, _ = chain.update(gradients, chain.init(params), params)
    np.testing.assert_allclose(updates["bias"], [-0.01, -0.01], rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"], [-0.025, 0.0], rtol=1e-5, atol=1e-9)


def test_the_penalty_draws_codes_to_archs() -> None:
    """By hand, and by steps along its gradient by logits: the likeliest option wins."""
    space = tiny()
    part = example("penalty").Decided(weight=3.0)
    penalty = part.build(space=space)
    logits = jax.tree.map(
        lambda choice: 0.1 * jax.random.normal(jax.random.key(len(choice)), (len(choice),)),
        space.menu,
    )
    code = jax.tree.map(jax.nn.softmax, logits)
    by_hand = [1 - float(np.square(np.asarray(p, np.float64)).sum()) for p in jax.tree.leaves(code)]
    assert float(penalty({}, code)) == pytest.approx(3 * np.mean(by_hand), rel=1e-5)

    @jax.jit
    def decided(logits: Any) -> Any:
        slope = jax.grad(lambda logits: penalty({}, jax.tree.map(jax.nn.softmax, logits)))
        step = lambda _, x: jax.tree.map(lambda a, g: a - 10 * g, x, slope(x))  # noqa: E731
        return jax.lax.fori_loop(0, 200, step, logits)

    for before, after in zip(*map(jax.tree.leaves, (logits, decided(logits))), strict=True):
        shares = np.asarray(jax.nn.softmax(after))
        assert np.argmax(shares) == np.argmax(before) and shares.max() > 0.9
    assert float(penalty({}, choices.largest(space.menu))) == 0


def optional() -> Space:
    """A space whose only large map is of a block that may be skipped."""
    menu = {"resolution": Choice((6, 8)), "depth": Choice((0, 1))}
    blocks = {
        "mix": elastic(Mix, lambda: Sizes(CHANNELS, CHANNELS), menu=menu, depth=(("depth",), 0)),
        "pool": elastic(Pool, lambda: Sizes(CHANNELS, CLASSES), menu=menu),
    }
    task, static = ImageClassification(CHANNELS, CLASSES), (("resolution",),)
    return Space("optional", menu, blocks, strategies.chain(tuple(blocks)), task, static)


@pytest.mark.parametrize("make", [light, optional])
def test_the_cost_is_the_largest_output_of_a_block(make: Callable[[], Space]) -> None:
    space = make()
    cost, names = example("cost").LargestMap(2).build(space), tuple(space.blocks)
    params, archs = shared_params.parameter_shapes(space), archs_of(space, 6)

    def largest(arch: Any) -> int:
        """Of the blocks as they run."""
        size = space.sizes[int(arch["resolution"])]
        images = jax.ShapeDtypeStruct((1, 8, 8, CHANNELS), jnp.float32)
        run = functools.partial(strategies.sliced, space, arch=arch, size=size, features=names)
        outputs = jax.eval_shape(lambda p, x: run(p, inputs=x), params, images).features
        there = [name for name in names if space.blocks[name].spec(arch) is not None]
        return max(outputs[name].size for name in there)

    wanted = [2 * largest(arch) for arch in archs]
    assert len(set(wanted)) > 2
    stacked = choices.stack(archs)
    np.testing.assert_array_equal(cost(stacked), wanted)
    on_device = jax.jit(cost)(jax.tree.map(jnp.asarray, stacked))
    np.testing.assert_array_equal(on_device, wanted)
    assert int(cost(archs[2])) == wanted[2]


def test_the_searcher_beats_random_search() -> None:
    """On a landscape in which every decision matters, within a budget that binds."""
    menu = [Choice((0, 1, 2, 3))] * 12
    target = np.asarray([0, 3, 2, 0, 1, 0, 2, 0, 1, 0, 2, 0])
    packed = lambda archs: np.asarray(choices.pack(archs))  # noqa: E731
    cost = lambda archs: packed(archs).sum(-1)  # noqa: E731
    score = lambda archs: -np.abs(packed(archs) - target).sum(-1).astype(float)  # noqa: E731
    costs = Costs((cost,), (Budget(4, 16),))

    def best(searcher: Searcher, seed: int) -> float:
        key = jax.random.key(seed)
        history = run_search(searcher, score, costs=costs, key=key, evaluations=240)
        assert history.costs.min() >= 4 and history.costs.max() <= 16
        return history.scores.max()

    own = example("searcher").aging(menu, costs, population=40, tournament=10)
    baseline = random_search(menu, costs, batch=50)
    differences = [best(own, seed) - best(baseline, seed) for seed in range(2)]
    assert min(differences) >= 2, differences


def sliced_logits(check: Check, arch: Any) -> Any:
    """Of the subnet at its own size."""
    run = functools.partial(strategies.sliced, check.space, arch=arch, size=8)
    return jax.jit(lambda params: run(params, inputs=check.images).logits)(check.params)


def test_the_transform_is_a_centre_crop_that_learns() -> None:
    made = example("transform").with_scaled_taps(filters(transform=False))
    (transform,) = made.blocks["filter0"].transforms
    kernel = jax.random.normal(jax.random.key(0), (7, 7, 1, 4))
    start = transform.init(jax.random.key(1), kernel.shape)
    for size, crop in ((3, kernel[2:-2, 2:-2]), (5, kernel[1:-1, 1:-1]), (7, kernel)):
        np.testing.assert_array_equal(transform.apply(start, kernel, size), crop)

    check = Check(made, size=8)
    for size, arch in zip((3, 7), archs_of(made, 0), strict=True):  # smallest and largest
        output, gradients = check.run("masked", arch)
        if size == 3:
            assert largest_difference(sliced_logits(check, arch), output.logits) < 1e-5
        learned = gradients["filter0"][TRANSFORMS]["depthwise/kernel"]
        assert np.any(learned["taps3"]) == (size == 3) and not np.any(learned["taps5"])


def test_the_bank_has_a_row_for_each_option() -> None:
    check = Check(example("bank").split(light(), ("width",)), size=8)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(check.params))
    arch = choices.largest(check.space.menu)
    assert (
        largest_difference(sliced_logits(check, arch), check.run("masked", arch)[0].logits) < 1e-5
    )
    for row in range(3):
        _, gradients = check.run("masked", choices.replace(arch, ("width",), np.int32(row)))
        touched = [np.any(leaf, tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(gradients)]
        assert np.any(touched, 0).tolist() == [i == row for i in range(3)]


def test_features_compare_the_channels_that_a_subnet_has() -> None:
    """The same under all strategies, and lower after steps along the gradient."""
    space, hints = light(resolutions=(8,)), example("features").hints
    check, name = Check(space, size=8), "second"
    large = choices.largest(space.menu)
    narrow = choices.replace(large, ("width",), np.int32(0))

    def distance(params: Any, strategy: Any, arch: Any) -> Any:
        def output(strategy: Any, arch: Any) -> Any:
            how = {"size": 8, "features": (name,)}
            return strategy(space, params, arch, check.images, **how).features[name]

        return hints(output(strategy, arch), output(strategies.sliced, large))

    traced = jax.tree.map(jnp.asarray, narrow)
    alone = jax.jit(lambda p: distance(p, strategies.sliced, narrow))
    slope = jax.jit(jax.value_and_grad(lambda p, a: distance(p, strategies.masked, a)))
    params, start = check.params, float(alone(check.params))
    assert start > 0.01
    np.testing.assert_allclose(slope(params, traced)[0], start, rtol=1e-5)
    for _ in range(30):
        _, gradient = slope(params, traced)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    assert float(alone(params)) < 0.7 * start


def test_the_examples_train_together() -> None:
    """One recipe of four examples: the largest learns the labels, and the smallest from it."""
    space = light(widths=(16, 32), resolutions=(8,))
    steps = 60
    recipe = Recipe(
        space=space,
        sampler=example("sampler").Tilted(n_random=1).build(menu=space.menu),
        loss=example("features").Hints(smoothing=0.0).build(),
        optimizer=example("optimizer").Lion(learning_rate=0.02).build(steps=steps),
        augment=lambda images, key, ids: images.astype(jnp.float32) / 128 - 1,
        combine=example("combination").EqualLengths().build(),
        features=("second",),
    )
    rng = np.random.default_rng(0)
    labels = (np.arange(20) % CLASSES).astype(np.int32)
    shades = 40 * labels[:, None, None, None] + rng.integers(0, 40, (20, 8, 8, CHANNELS))
    batch = Batch(shades.astype(np.uint8), labels, np.arange(20, dtype=np.int32))
    step, state, lines = train_step.Step(recipe), train_step.create(recipe), []
    for _ in range(steps):
        state, metrics = step(state, batch, sizes=(8,) * 3)
        lines.append({k: float(v) for k, v in metrics.items()})
    assert all(line["applied"] for line in lines)
    assert lines[-1]["loss/largest"] < 0.5 * lines[0]["loss/largest"]
    assert lines[0]["accuracy/smallest"] < 0.5 and lines[-1]["accuracy/smallest"] > 0.9
