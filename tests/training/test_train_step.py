"""The training step: the published one to its digits, and every promise on small spaces."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from light_space import CLASSES, light
from tiny_space import deep

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.choices import Arch, Lookup
from supernet_jax.elastic.notation import from_notation
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.networks.importers import attentivenas as attentivenas_files
from supernet_jax.networks.importers.tensor_mapping import Place
from supernet_jax.runtime import sharding
from supernet_jax.spaces import attentivenas, mobilenet
from supernet_jax.spaces.mobilenet import Stage
from supernet_jax.training import samplers, train_step
from supernet_jax.training.gradients import combine
from supernet_jax.training.losses import alpha_divergence, divergences, hard_labels, loss
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Batch, Metrics, Recipe, State

QUICK: Any = {"compiler_options": {"xla_backend_optimization_level": 0}}  # for one run
SUMS = 1e-5  # float32 sums in another order, of a whole tree relative to its norm
BATCH = 6


def stored() -> optax.GradientTransformation:
    """Keeps the gradients that it is given in its state."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return gradients, gradients

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def as_they_are(images: Any, key: Any, ids: Any) -> Any:
    return images


def drawing(menu: Any, archs: list[Arch], fixed: tuple[Arch, ...] = ()) -> samplers.Sampler:
    """A sampler that always draws the same archs."""
    stacked = choices.stack(archs)
    return samplers.uniform(menu, n_random=len(archs))._replace(
        fixed=fixed, sample=lambda state, key, step, score: jax.tree.map(jnp.asarray, stacked)
    )


# Four networks of AttentiveNAS's size, two of them at the largest width: about two minutes on two
# cores, nearly all of it compiling.
@pytest.mark.slow
def test_published_training_step() -> None:
    golden = reference.golden("parity_attentivenas")
    wanted = golden["alphanet_train_step"]["steps"]["0"]
    space = attentivenas.attentivenas(dropout=0.0, drop_path=0.0)
    archs = {
        name: from_notation(space.menu, notation)
        for name, notation in golden["train_step_archs"].items()
    }
    params, _ = attentivenas_files.load(reference.tensors(golden["param_names_shapes"]), space)
    params = jax.tree.map(jnp.asarray, params)
    optimizer = optax.chain(stored(), sgd.alphanet_sgd(0.1, weight_decay=1e-5))
    recipe = Recipe(
        space=space,
        sampler=drawing(space.menu, [archs["a1"], archs["a4"]], (archs["max"], archs["min"])),
        loss=loss.in_place_distillation(alpha_divergence.adaptive_alpha_divergence, smoothing=0.1),
        optimizer=optimizer,
        augment=as_they_are,
    )
    zero = jnp.zeros((), jnp.int32)
    counters = zero, zero + 0
    state = State(
        zero + 0,
        params,
        optimizer.init(params),
        (),
        None,
        *counters,
        jax.random.key_data(jax.random.key(0)),
    )
    labels, ids = np.asarray([1, 20, 300, 999], np.int32), np.arange(4, dtype=np.int32)
    batch = Batch(reference.images(4, 224, 30), labels, ids)
    state, metrics = train_step.Step(recipe)(state, batch, sizes=(288, 192, 224, 256))

    members = ("largest", "random_1", "random_2", "smallest")
    found = [float(metrics[f"loss/{member}"]) for member in members]
    # seen: 4e-6, float32 sums in another order through 37 blocks
    np.testing.assert_allclose(found, wanted["losses_max_a1_a4_min"], rtol=0, atol=1e-4)
    places = attentivenas_files.places(space)
    norms(state.opt_state[0], wanted["grad_l2_preclip"], places, relative=1e-3)  # seen: 9e-6
    norms(state.params, wanted["param_l2_after"], places, relative=2e-6)  # seen: 3e-7


def norms(
    tree: Any, wanted: dict[str, float], places: dict[str, Place], *, relative: float
) -> None:
    """Compares published norms; those of rounding noise only with zero."""
    checked = 0
    for name, norm in wanted.items():
        if name not in places:  # shortcuts that the published code makes and never runs
            continue
        leaf = functools.reduce(lambda node, key: node[key], places[name].leaf, tree)
        found = float(np.linalg.norm(np.asarray(leaf, np.float64)))
        if norm < 1e-6:
            assert found < 1e-6, name
        else:
            assert found == pytest.approx(norm, rel=relative), name
        checked += 1
    assert checked > 30


def mobile() -> Space:
    """Blocks of every kind: depthwise convolution, squeeze-excitation, both kinds of shortcut."""
    return mobilenet.mobilenet(
        "mobile",
        resolutions=(6, 8),
        stem=(4,),
        stem_stride=2,
        stages=(Stage((4, 6), (1, 2), (1, 3), (1, 2), 1, squeeze=True),),
        last=(6, 8),
        classes=CLASSES,
        input_channels=2,
        head_ratio=2,
    )


def half(images: Any, key: Any, ids: Any) -> Any:
    return images.astype(jnp.float32) / 128 - 1


def recipe_of(space: Space, wide: Arch, deep: Arch) -> Recipe:
    fixed = choices.largest(space.menu), choices.smallest(space.menu)
    return Recipe(
        space=space,
        sampler=drawing(space.menu, [wide, deep], fixed),
        loss=loss.in_place_distillation(divergences.kl_divergence, smoothing=0.1),
        optimizer=stored(),
        augment=half,
    )


SPACE, MOBILE = light(), mobile()
MENU = SPACE.menu
FIXED = (choices.largest(MENU), choices.smallest(MENU))
WIDE, DEEP = {**FIXED[1], "width": np.int32(1)}, {**FIXED[1], "depth": np.int32(1)}
RECIPE = recipe_of(SPACE, WIDE, DEEP)
SIZES = (8, 6, 6, 8)  # of largest, smallest, WIDE and DEEP


def some_batch(seed: int = 0, **changes: Any) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (BATCH, 8, 8, 2), np.uint8)
    labels = rng.integers(0, CLASSES, BATCH, np.int32)
    labels[0] = 0  # never all 3 or 4, which below stand for something
    return Batch(images, labels, np.arange(BATCH, dtype=np.int32))._replace(**changes)


PROGRAMS: dict[Any, Callable] = {}  # of `creating`, by what makes them differ


def creating(recipe: Recipe) -> Callable:
    """`train_step.create` by a key, compiled once for all recipes that begin alike."""
    how = (recipe.space, recipe.sampler.init, recipe.optimizer, recipe.teacher, recipe.ema_decay)
    if how not in PROGRAMS:
        PROGRAMS[how] = jax.jit(functools.partial(train_step.create, recipe), **QUICK)
    return PROGRAMS[how]


def beginning(recipe: Recipe) -> State:
    """The first state with noise on every float, so that nothing is zero or one."""
    state = creating(recipe)(jax.random.key_data(jax.random.key(recipe.seed)))
    rng = np.random.default_rng(0)

    def one(leaf: Any) -> Any:
        noise = 0.2 * rng.normal(size=leaf.shape)
        return leaf + noise.astype(np.float32) if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(one, jax.device_get(state))


def on_device(state: State) -> State:
    return jax.tree.map(jnp.array, state)


def stepping(recipe: Recipe, sizes: tuple[int, ...]) -> Callable:
    """A step by a program that compiles fast and donates nothing."""
    return jax.jit(functools.partial(train_step.Step(recipe), sizes=sizes), **QUICK)


def once(recipe: Recipe, *, sizes: tuple[int, ...], state: Any = None) -> Any:
    """State and metrics after one step."""
    state = beginning(recipe) if state is None else state
    return jax.device_get(stepping(recipe, sizes)(state, some_batch()))


def difference(a: Any, b: Any) -> float:
    """Norm of the difference of two trees relative to that of the second."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in leaves]
    off = sum(np.sum((x - y) ** 2) for x, y in pairs)
    return float(np.sqrt(off / sum(np.sum(y**2) for _, y in pairs)))


def bitwise(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


def alone(recipe: Recipe, archs: list[Arch]) -> tuple[list[float], list[Any]]:
    """Loss and gradient of each member of a step, computed by itself."""
    return computing_alone(recipe, archs)(beginning(recipe).params)


def computing_alone(recipe: Recipe, archs: list[Arch]) -> Callable:
    """`alone` for any parameters, compiled once."""
    batch = some_batch()

    @functools.partial(jax.jit, **QUICK)
    def compute(params: Any) -> Any:
        def logits(params: Any, arch: Arch, size: int) -> Any:
            images = half(jnp.asarray(batch.inputs), None, None)
            return strategies.sliced(recipe.space, params, arch, images, size=size).logits

        teacher = logits(params, archs[0], SIZES[0])

        def loss(params: Any, arch: Arch, size: int, role: str) -> Any:
            return recipe.loss(logits(params, arch, size), teacher, {}, batch.targets, role)

        roles = ("largest", "smallest", "random", "random")
        return [
            jax.value_and_grad(loss)(params, *member)
            for member in zip(archs, SIZES, roles, strict=True)
        ]

    def run(params: Any) -> tuple[list[float], list[Any]]:
        members = jax.device_get(compute(params))
        return [float(value) for value, _ in members], [gradient for _, gradient in members]

    return run


@functools.cache
def alone_in_light() -> tuple[list[float], list[Any]]:
    return alone(RECIPE, [*FIXED, WIDE, DEEP])


def test_a_step_is_the_sum_of_its_members() -> None:
    smallest = choices.smallest(MOBILE.menu)
    wide = choices.replace(smallest, ("width", 1), np.int32(1))
    deep = {**smallest, "depth": [np.int32(1)], "kernel_size": [np.int32(1)]}
    recipe = recipe_of(MOBILE, wide, deep)
    values, gradients = alone(recipe, [choices.largest(MOBILE.menu), smallest, wide, deep])
    total = functools.reduce(optax.tree.add, gradients)
    names = ["loss/largest", "loss/smallest", "loss/random_1", "loss/random_2"]
    for strategy in (strategies.masked, strategies.switched):
        state, metrics = once(recipe._replace(strategy=strategy), sizes=SIZES)
        found = [float(metrics[name]) for name in names]
        np.testing.assert_allclose(found, values, rtol=SUMS, atol=1e-6)
        assert difference(state.opt_state, total) < SUMS
        norm = float(optax.tree.norm(total))
        assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=SUMS)
        assert difference(state.params, optax.tree.add(beginning(recipe).params, total)) < SUMS


def test_bfloat16() -> None:
    off = []
    step = stepping(RECIPE._replace(dtype=jnp.bfloat16), SIZES)  # which serves every seed
    exact = computing_alone(RECIPE, [*FIXED, WIDE, DEEP])
    for seed in range(5):
        start = beginning(RECIPE._replace(seed=seed))
        state, metrics = jax.device_get(step(start, some_batch()))
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        values, gradients = exact(start.params)
        off.append(difference(state.opt_state, functools.reduce(optax.tree.add, gradients)))
        assert float(metrics["loss/largest"]) == pytest.approx(values[0], rel=0.02)
    # 8 bits of mantissa through three blocks; what normalisations make of that depends on the
    # weights: from 1 % up, where a variance is small to many times that, so the median counts.
    # Exactly float32's would mean it was not used.
    assert 1e-4 < np.median(off) < 0.1


WEIGHTS = {"largest": 1.0, "random": 0.5, "smallest": 0.25}


def projecting() -> combine.Combine:
    """Weighs gradients by role, keeps them all, and takes out of each what opposes another.

    Conflict projection, as "gradient surgery" (arXiv 2001.06782), in the order of the members.
    """

    def init(params: Any) -> Any:
        return jnp.int32(0), jax.tree.map(lambda leaf: jnp.zeros((4, *leaf.shape)), params)

    def add(carry: Any, gradients: Any, role: str, step: Any) -> Any:
        i, kept = carry
        scale = WEIGHTS[role] / (1 + step)
        return i + 1, jax.tree.map(lambda k, g: k.at[i].set(scale * g), kept, gradients)

    def finish(carry: Any) -> Any:
        members = [jax.tree.map(lambda leaf, i=i: leaf[i], carry[1]) for i in range(4)]
        return functools.reduce(optax.tree.add, projected(members, optax.tree.vdot, jnp.minimum))

    return combine.Combine(init, add, finish)


def projected(members: list[Any], dot: Callable, minimum: Callable) -> list[Any]:
    result = []
    for i, own in enumerate(members):
        for j, other in enumerate(members):
            if j != i:
                opposed = minimum(dot(own, other), 0.0) / dot(other, other)
                own = jax.tree.map(lambda a, b, s=opposed: a - s * b, own, other)
        result.append(own)
    return result


def test_gradients_may_be_combined_in_any_way() -> None:
    recipe = RECIPE._replace(combine=projecting())
    state = beginning(recipe)
    state = dataclasses.replace(state, step=np.int32(3))
    state, _ = once(recipe, sizes=SIZES, state=state)
    scales = [WEIGHTS[role] / 4 for role in ("largest", "smallest", "random", "random")]
    flat = [
        scale * np.concatenate([np.float64(leaf).reshape(-1) for leaf in jax.tree.leaves(g)])
        for scale, g in zip(scales, alone_in_light()[1], strict=True)
    ]
    wanted = sum(projected(flat, np.dot, np.minimum))
    assert np.linalg.norm(wanted - sum(flat)) > 1e-3 * np.linalg.norm(wanted), "no conflict"
    found = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.opt_state)])
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)  # divides by a dot


def troubled(traced: list[str]) -> Recipe:
    """A whole recipe, in which certain ids and labels stand for certain troubles."""

    def augment(images: Any, key: Any, ids: Any) -> Any:
        traced.append("begin")  # runs when the step is traced, and only then
        shifted = half(images, key, ids) + 0.1 * jax.random.normal(key, images.shape)
        return jnp.where(jnp.all(ids < 0), jnp.nan, shifted)

    def loss(logits: Any, teacher: Any, features: Any, labels: Any, role: str) -> Any:
        traced.append(role)
        value = RECIPE.loss(logits, teacher, features, labels, role)
        # the root's gradient at zero is infinite, times zero is not a number
        value = value + jnp.sqrt(jnp.where(jnp.all(labels == 3), 0.0, 1.0) * jnp.sum(logits**2))
        return value + jnp.where(jnp.all(labels == 4), 1000.0, 0.0)

    def update(state: Any, metrics: Metrics) -> Any:
        return {"seen": state["seen"] + 1, "loss": metrics["loss/random_1"]}

    sampler = samplers.sandwich(MENU, n_random=2)._replace(
        init=lambda key: {"seen": jnp.int32(0), "loss": jnp.float32(0)}, update=update
    )
    return RECIPE._replace(
        sampler=sampler,
        loss=loss,
        augment=augment,
        optimizer=sgd.alphanet_sgd(0.1, weight_decay=0.1),
        ema_decay=0.75,
    )


TRACED: list[str] = []


@functools.cache
def troubled_step() -> tuple[Recipe, Callable]:
    recipe = troubled(TRACED)
    return recipe, train_step.Step(recipe)


def whole(labels: int) -> Batch:
    return some_batch(targets=np.full(BATCH, labels, np.int32))


@pytest.mark.parametrize(
    "bad",
    [some_batch(ids=np.full(BATCH, -1, np.int32)), whole(3), whole(4)],
    ids=["images that are not numbers", "a gradient that is not a number", "a collapsed loss"],
)
def test_a_bad_step_changes_nothing_but_the_counters(bad: Batch) -> None:
    recipe, step = troubled_step()
    how = {"sizes": (8, 6, 8, 8)}
    state, metrics = step(on_device(beginning(recipe)), some_batch(), **how)
    assert float(metrics["applied"]) == 1
    before = jax.device_get(state)
    assert int(before.sampler["seen"]) == 1 and float(before.sampler["loss"]) != 0

    state, metrics = step(state, bad, **how)
    state, metrics = step(state, bad, **how)
    after = jax.device_get(state)
    assert float(metrics["applied"]) == 0 and int(metrics["refused"]) == 2
    for part in ("params", "opt_state", "ema", "sampler", "rollbacks"):
        assert bitwise(vars(after)[part], vars(before)[part]), part
    assert (int(after.step), int(after.refused)) == (3, 2)

    state, metrics = step(state, some_batch(1), **how)
    assert float(metrics["applied"]) == 1 and int(state.refused) == 0 and int(state.step) == 4
    assert not bitwise(state.params, before.params) and not bitwise(state.ema, before.ema)
    assert int(state.sampler["seen"]) == 2


def test_one_trace_for_each_resolution_and_the_state_is_donated() -> None:
    recipe, step = troubled_step()
    state = on_device(beginning(recipe))
    step(on_device(state), some_batch(), sizes=(8, 6, 8, 8))
    TRACED.clear()
    drawn = set()
    for i in range(6):
        given = state
        state, metrics = step(state, some_batch(i), sizes=(8, 6, 8, 8))
        drawn.add(float(metrics["loss/random_1"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert len(drawn) == 6 and TRACED == []
    state, _ = step(state, some_batch(), sizes=(8, 6, 6, 6))
    assert set(TRACED) == {"random"}  # nothing else depends on their resolution
    TRACED.clear()
    step(state, some_batch(1), sizes=(8, 6, 6, 6))
    assert TRACED == []


@pytest.mark.parametrize("devices", [1, 2])
def test_a_chain_does_as_one_program(devices: int) -> None:
    mesh = sharding.data_mesh(jax.devices()[:devices])
    recipe, batch = troubled([]), sharding.split(mesh, some_batch())
    step = train_step.Step(recipe, mesh=mesh)
    sizes = (8, 6, 8, 8)
    (ours, seen), (theirs, wanted) = (
        run(sharding.replicate(mesh, beginning(recipe)), batch, sizes=sizes)
        for run in (step, jax.jit(step, static_argnames="sizes"))
    )
    assert seen.keys() == wanted.keys()
    assert float(wanted["applied"]) == 1 and float(wanted["gradient_norm"]) > 0.1
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((ours, theirs)))
    # The compiler orders sums otherwise: some units of the last place, on gradients below 10.
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(near, (ours, seen), (theirs, wanted))


def test_the_average_of_the_parameters() -> None:
    recipe, step = troubled_step()
    state = beginning(recipe)
    assert not bitwise(state.ema, state.params)
    after, _ = step(on_device(state), some_batch(), sizes=(8, 6, 8, 8))
    wanted = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * np.asarray(p), state.ema, after.params)
    assert difference(after.ema, wanted) < 1e-6
    assert not bitwise(after.params, state.params)


def test_a_step_is_a_function_of_seed_step_and_rollbacks() -> None:
    recipe, step = troubled_step()
    state = beginning(recipe)
    changes = ({}, {}, {"step": np.int32(1)}, {"rollbacks": np.int32(1)})
    found = []
    for change in changes:
        changed = on_device(dataclasses.replace(state, **change))
        found.append(step(changed, some_batch(), sizes=(8, 6, 8, 8)))
    (first, one), (again, same), *others = found
    assert bitwise(first, again) and bitwise(one, same)
    losses = [float(m["loss/largest"]) for m in (one, *(m for _, m in others))]
    assert len(set(losses)) == 3  # the augmentation differs


def test_a_compiled_step_serves_every_seed() -> None:
    """The seed is data of the state: the step of one recipe goes on as that of another seed."""
    recipe, step = troubled_step()
    other = recipe._replace(seed=recipe.seed + 1)
    first, mine = (train_step.create(r) for r in (recipe, other))
    assert not bitwise(first.params, mine.params)
    mixed = dataclasses.replace(first, key=mine.key)  # the same weights, other draws
    metrics = [
        run(on_device(jax.tree.map(jnp.copy, state)), some_batch(), sizes=(8, 6, 8, 8))[1]
        for run, state in ((step, mixed), (train_step.Step(other), mixed), (step, first))
    ]
    assert bitwise(metrics[0], metrics[1]) and not bitwise(metrics[0], metrics[2])


def test_resolutions_are_drawn_from_seed_and_step() -> None:
    recipe = RECIPE._replace(sampler=samplers.sandwich(MENU, n_random=3), seed=5)
    draw = functools.partial(train_step.step_sizes, recipe)
    many = [draw(step=step) for step in range(200)]
    assert many == [draw(step=step) for step in range(200)]
    assert all(m[:2] == (8, 6) and len(set(m[2:])) == 1 and len(m) == 5 for m in many)
    share = sum(m[2] == 8 for m in many) / 200
    assert 0.35 < share < 0.65  # four standard deviations
    other = [train_step.step_sizes(recipe._replace(seed=6), step=step) for step in range(200)]
    assert other != many != [draw(step=step, rollbacks=1) for step in range(200)]


def test_a_resolution_for_each_member() -> None:
    with pytest.raises(ValueError, match="needs a size for each member"):
        train_step.Step(RECIPE)(beginning(RECIPE), some_batch(), sizes=(8, 6, 8))


def test_a_sampler_may_score_archs() -> None:
    candidates = [FIXED[1], WIDE, DEEP]
    stacked = choices.stack(candidates)

    def worst(state: Any, key: Any, step: Any, score: Any) -> Arch:
        archs = jax.tree.map(jnp.asarray, stacked)
        scores = jax.lax.map(score, archs)
        order = jnp.argsort(-scores)[:1]
        return jax.tree.map(lambda leaf: leaf[order], archs)

    plain = samplers.uniform(MENU, n_random=1)
    recipe = RECIPE._replace(sampler=plain._replace(sample=worst), loss=hard_labels.hard_labels())
    _, metrics = once(recipe, sizes=(8,))
    batch, params = some_batch(), beginning(recipe).params

    @functools.partial(jax.jit, **QUICK)
    def each(params: Any) -> Any:
        images = half(jnp.asarray(batch.inputs), None, None)
        outputs = [strategies.sliced(SPACE, params, a, images, size=8) for a in candidates]
        return [loss.cross_entropy(o.logits, jnp.asarray(batch.targets)) for o in outputs]

    wanted = [float(value) for value in each(params)]
    assert np.ptp(wanted) > 1e-3
    assert float(metrics["loss/random_1"]) == pytest.approx(max(wanted), rel=SUMS)
    assert "loss/largest" not in metrics


def test_dropout_is_for_the_largest_alone() -> None:
    found = []
    for dropout in (0.0, 0.5):
        recipe = RECIPE._replace(
            space=light(dropout=dropout),
            sampler=samplers.sandwich(MENU, n_random=0),
            loss=hard_labels.hard_labels(),
        )
        found.append(once(recipe, sizes=(8, 6))[1])
    without, with_dropout = found
    assert float(without["loss/smallest"]) == float(with_dropout["loss/smallest"])
    assert float(without["loss/largest"]) != float(with_dropout["loss/largest"])


def test_rows_of_a_bank_that_no_member_chose_stay_as_they_are() -> None:
    row = Lookup((("depth",),), np.asarray([0, 2], np.int32))  # nobody chooses row 1
    space = light(bank=Bank(3, row))
    shallow, deep = (choices.stack([a]) for a in (WIDE, DEEP))

    def sample(state: Any, key: Any, step: Any, score: Any) -> Arch:
        return jax.tree.map(lambda a, b: jnp.where(step == 0, a, b), shallow, deep)

    recipe = RECIPE._replace(
        space=space,
        sampler=samplers.uniform(MENU, n_random=1)._replace(sample=sample),
        loss=hard_labels.hard_labels(),
        optimizer=optax.chain(
            sgd.alphanet_sgd(0.1, weight_decay=0.1), optax.scale_by_schedule(lambda count: 1.0)
        ),
    )
    step = jax.jit(functools.partial(train_step.Step(recipe), sizes=(8,)), **QUICK)
    states = [beginning(recipe)]
    for i in range(2):
        state, metrics = jax.device_get(step(states[-1], some_batch(i)))
        assert float(metrics["applied"]) == 1
        states.append(state)
    for before, after, chosen in ((states[0], states[1], 0), (states[1], states[2], 2)):
        for part in ("params", "opt_state"):
            old, new = (leaves_of_rows(vars(state)[part]) for state in (before, after))
            assert len(old) == len(new) >= 10
            for other in {0, 1, 2} - {chosen}:
                assert bitwise([x[other] for x in old], [x[other] for x in new]), (part, other)
            assert not any(bitwise(x[chosen], y[chosen]) for x, y in zip(old, new, strict=True))
    counts = [int(x) for x in jax.tree.leaves(states[2].opt_state) if x.ndim == 0]
    assert counts and set(counts) == {2}


def leaves_of_rows(tree: Any) -> list[Any]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
    assert all(leaf.shape[0] == 3 for leaf in leaves)
    return leaves


@pytest.mark.parametrize("strategy", [strategies.sliced, strategies.masked])
def test_rematerialisation_changes_memory_alone(strategy: Any) -> None:
    space = deep()
    arch = choices.largest(space.menu)
    if strategy is strategies.masked:
        arch = jax.tree.map(jnp.asarray, arch)
    params = jax.jit(lambda: shared_params.init(space, jax.random.key(0)), **QUICK)()
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 2))

    def loss(params: Any, remat: bool) -> Any:
        how = {"size": 8, "dropout_key": jax.random.key(2), "remat": remat}
        return jnp.sum(jnp.sin(strategy(space, params, arch, images, **how).logits))

    def kept(remat: bool) -> int:
        """Bytes that the backward pass is handed."""
        residuals = jax.eval_shape(lambda p: jax.vjp(lambda q: loss(q, remat), p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, remat=r)), **QUICK)(params) for r in (False, True)
    ]
    difference = optax.tree.norm(optax.tree.sub(*gradients)) / optax.tree.norm(gradients[0])
    assert float(difference) < SUMS
    assert kept(True) < 0.5 * kept(False)
