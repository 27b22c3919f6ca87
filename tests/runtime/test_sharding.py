"""State split over the devices: less on each, the same training, the same checkpoints."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from light_space import CHANNELS, CLASSES, light

from supernet_jax import data
from supernet_jax.elastic import blockwise, choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.runtime import native, sharding
from supernet_jax.storage import checkpoint
from supernet_jax.training import loop, recipe, train_step
from supernet_jax.training.job import Job
from supernet_jax.training.losses import divergences, hard_labels, loss
from supernet_jax.training.members import Members
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.samplers import Sampler, sandwich, uniform

BATCH, STEPS = 16, 4
SPACE = light(widths=(64, 128), resolutions=(8,))
RECIPE = recipe.Recipe(
    space=SPACE,
    sampler=sandwich(SPACE.menu, n_random=1),
    loss=loss.in_place_distillation(divergences.soft_cross_entropy, smoothing=0.1),
    optimizer=sgd.alphanet_sgd(0.05),
    augment=lambda images, key, ids: images.astype(jnp.float32) / 128 - 1,
    ema_decay=0.9,
)
BLOCKS = RECIPE._replace(strategy=blockwise.blockwise, optimizer=optax.sgd(0.1), ema_decay=0.0)
SHAPES = jax.eval_shape(lambda: train_step.create(RECIPE))
LARGE = 3 * 128 * 128 * 4  # bytes: the one large kernel, its momentum and its average


def images() -> data.Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (80, 8, 8, CHANNELS), np.uint8)
    return data.Images(pixels, rng.integers(0, CLASSES, 80).astype(np.int32))


# --- rules ----------------------------------------------------------------------------------


def shapes() -> dict[str, Any]:
    sizes = {"a": (3, 3, 16, 64), "b": (64, 64), "c": (7, 150), "d": (8,), "e": ()}
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def test_the_largest_axis_that_divides_is_split() -> None:
    mesh = sharding.data_mesh()
    placed = sharding.place(mesh, shapes(), rules=((".*", "largest"),), least=1000)
    specs = {name: where.spec for name, where in placed.items()}
    whole = PartitionSpec()
    assert specs == {
        "a": PartitionSpec(None, None, None, "data"),
        "b": PartitionSpec(None, "data"),
        "c": whole,  # no axis is a multiple of 8
        "d": whole,  # small
        "e": whole,
    }
    assert sharding.bytes_per_device(shapes(), placed) == 4 * (9216 // 8 + 512 + 1050 + 8 + 1)
    small = sharding.place(mesh, shapes(), rules=((".*", "largest"),), least=8)
    assert small["d"].spec == PartitionSpec("data")


def test_the_first_rule_that_matches_decides() -> None:
    rules = (("a", 2), ("[ab]", "whole"), (".*", "largest"))
    placed = sharding.place(sharding.data_mesh(), shapes(), rules=rules, least=8)
    assert placed["a"].spec == PartitionSpec(None, None, "data")
    assert placed["b"].spec == PartitionSpec()
    assert placed["d"].spec == PartitionSpec("data")


def test_rules_name_the_axes_of_the_mesh() -> None:
    mesh = sharding.data_mesh(model=2)
    assert dict(mesh.shape) == {"data": 4, "model": 2}
    rules: sharding.Rules = (
        ("a", (None, None, "data", "model")),
        ("b", (("data", "model"),)),
        (".*", "model"),
    )
    placed = sharding.place(mesh, shapes(), rules=rules, least=8)
    assert {name: where.spec for name, where in placed.items()} == {
        "a": PartitionSpec(None, None, "data", "model"),
        "b": PartitionSpec(("data", "model")),
        "c": PartitionSpec(None, "model"),
        "d": PartitionSpec("model"),
        "e": PartitionSpec(),
    }
    assert sharding.bytes_per_device(shapes(), placed) == 4 * (9216 // 8 + 512 + 525 + 4 + 1)


def test_two_axes_split_what_one_cannot() -> None:
    mesh = sharding.data_mesh(model=2)
    made = {
        "odd": jax.ShapeDtypeStruct((14, 12), jnp.float32),  # neither is a multiple of 8
        "even": jax.ShapeDtypeStruct((24, 96), jnp.float32),
    }
    first = sharding.place(mesh, made, rules=((".*", "first"),), least=8)
    assert first["odd"].spec == PartitionSpec("model", "data")
    assert first["even"].spec == PartitionSpec(("data", "model"))
    largest = sharding.place(mesh, made, rules=((".*", "largest"),), least=8)
    assert largest["even"].spec == PartitionSpec(None, ("data", "model"))


def test_model_devices_divide_the_devices() -> None:
    with pytest.raises(UserError, match=r"is 3, but must divide .* \(8\): 1, 2, 4, 8"):
        sharding.data_mesh(model=3)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((("[a-d]", "whole"),), "parameters e;"),
        ((("c", 0), (".*", "whole")), r"axis 0 of c, whose shape is \(7, 150\), over 8 devices"),
        ((("d", 1), (".*", "whole")), "axis 1 of d"),
        ((("c", (None, "data")), (".*", "whole")), r"axis 1 of c, .* over 8 devices; .*'first'"),
        ((("a", ("rows",)), (".*", "whole")), "as .*'rows'.*axes of the mesh.*'data' and 'model'"),
        ((("a", (None, None, "data", "data")), (".*", "whole")), "each at most once"),
        ((("a", "biggest"), (".*", "whole")), "a is 'biggest', but must be 'first', 'largest'"),
    ],
)
def test_rules_that_do_not_fit(rules: sharding.Rules, words: str) -> None:
    with pytest.raises(UserError, match=words):
        sharding.place(sharding.data_mesh(), shapes(), rules=rules)


def test_every_array_of_the_state_has_a_place() -> None:
    placed = train_step.places(RECIPE, sharding.data_mesh(), sharding.SHARDED)
    split = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, where in jax.tree_util.tree_leaves_with_path(placed)
        if not where.is_fully_replicated
    }
    kernel = "second/mix/kernel"
    assert split == {f"params/{kernel}", f"ema/{kernel}", f"opt_state/2/trace/{kernel}"}


# --- training -------------------------------------------------------------------------------


def job(folder: pathlib.Path, rules: sharding.Rules, *, devices: int, steps: int) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(
        recipe=RECIPE,
        examples=images(),
        steps=steps,
        batch=BATCH,
        mesh=sharding.data_mesh(jax.devices()[:devices]),
        checkpoints=checkpoint.Checkpoints(folder / "checkpoints"),
        meta={},
        metrics=folder / "metrics.jsonl",
        checkpoint_every=2,
        log_every=1,
        rules=rules,
    )


def run(
    folder: pathlib.Path, rules: sharding.Rules, *, devices: int = 8, steps: int = STEPS
) -> recipe.State:
    made = job(folder, rules, devices=devices, steps=steps)
    with made.checkpoints:
        return loop.fit(made)[0]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> recipe.State:
    """Trained with everything whole on each of 8 devices."""
    return run(tmp_path_factory.mktemp("plain"), sharding.REPLICATED)


def close(one: recipe.State, other: recipe.State) -> None:
    """Only the order of sums differs: see `test_distributed.py` for the tolerance."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        size = max(np.abs(a).max(), 1e-3)
        assert np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-3 * size


def test_split_and_whole_train_alike(plain: recipe.State, tmp_path: pathlib.Path) -> None:
    state = run(tmp_path / "run", sharding.SHARDED)
    kernel, trace = state.params["second"]["mix"]["kernel"], state.opt_state[2].trace
    for array in (kernel, trace["second"]["mix"]["kernel"], state.ema["second"]["mix"]["kernel"]):
        assert {shard.data.size for shard in array.addressable_shards} == {array.size // 8}
    close(plain, state)


@pytest.mark.parametrize(
    ("first", "then", "devices"),
    [
        (sharding.SHARDED, sharding.REPLICATED, 1),
        (sharding.REPLICATED, sharding.SHARDED, 8),
    ],
)
def test_checkpoints_restore_however_they_were_split(
    plain: recipe.State,
    tmp_path: pathlib.Path,
    first: sharding.Rules,
    then: sharding.Rules,
    devices: int,
) -> None:
    folder = tmp_path / "run"
    before = run(folder, first, steps=2)
    made = job(folder, then, devices=devices, steps=STEPS)
    with made.checkpoints:
        restored = loop.restore(made)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    where = train_step.places(RECIPE, made.mesh, then)
    assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, restored, where))
    close(plain, run(folder, then, devices=devices))


def test_a_state_goes_from_mesh_to_mesh(tmp_path: pathlib.Path) -> None:
    """Eight devices, four by two, four, and one: of the same state, each saves for the next."""
    meshes = [
        (sharding.data_mesh(), sharding.SHARDED),
        (sharding.data_mesh(model=2), sharding.OVER_MODEL),
        (sharding.data_mesh(jax.devices()[:4], model=2), sharding.SHARDED),
        (sharding.data_mesh(jax.devices()[:1]), sharding.SHARDED),
    ]
    kernel, parts = "second", (8, 2, 4, 1)
    made = job(tmp_path / "0", sharding.REPLICATED, devices=1, steps=1)
    with made.checkpoints:
        state = first = loop.restore(made)  # made anew, whole
    for i, (mesh, rules) in enumerate(meshes):
        made = job(tmp_path / str(i), rules, devices=1, steps=1)._replace(mesh=mesh)
        with made.checkpoints:
            if i:
                made.checkpoints.save(0, state, {}, wait=True)
            state = loop.restore(made)
        jax.tree.map(np.testing.assert_array_equal, first, state)
        leaf = state.params[kernel]["mix"]["kernel"]
        assert {shard.data.size for shard in leaf.addressable_shards} == {leaf.size // parts[i]}


# --- block by block -------------------------------------------------------------------------

WHOLE_KERNEL = 128 * 128  # elements


@pytest.fixture(scope="module")
def one_block_by_block() -> tuple[Any, Any]:
    return sandwiched(BLOCKS, np.arange(BATCH))


@pytest.mark.parametrize("rules", [sharding.SHARDED, sharding.OVER_MODEL], ids=["both", "model"])
def test_block_by_block_on_two_axes(
    one_block_by_block: tuple[Any, Any], rules: sharding.Rules
) -> None:
    mesh = sharding.data_mesh(jax.devices()[:4], model=2)
    params, metrics = sandwiched(BLOCKS, np.arange(BATCH), mesh, rules)
    for name, value in one_block_by_block[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, one_block_by_block[0]
    )


def test_no_device_ever_has_all_weights_or_gradients() -> None:
    """Nor does one keep gathered weights between the passes: they are gathered again."""
    mesh = sharding.data_mesh()
    where = train_step.places(BLOCKS, mesh, sharding.SHARDED).params
    run = blockwise.Blockwise(SPACE, mesh=mesh, where=where)
    create = loop.creator(BLOCKS, mesh, rules=sharding.SHARDED)
    params = run.leaves(create().params)
    plan = run.plan(choices.largest(SPACE.menu), blockwise.Mode(8, BATCH))
    pixels = sharding.split(mesh, np.ones((BATCH, 8, 8, CHANNELS), np.float32))
    passed = run.forward(plan, params, pixels)
    kept = [leaf.size for ran in passed.ran for leaf in ran.kept]
    assert kept and WHOLE_KERNEL not in kept
    sums = jax.tree.map(jnp.zeros_like, params)
    gradients = run.tree(run.backward(passed, jnp.ones_like(passed.logits), {}, sums))
    assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, gradients, where))
    kernel = gradients["second"]["mix"]["kernel"]
    assert float(jnp.abs(kernel).max()) > 0
    assert {shard.data.size for shard in kernel.addressable_shards} == {WHOLE_KERNEL // 8}


def test_the_first_state_is_made_group_by_group() -> None:
    """The numbers are those of all at once; no program needs more than twice its group."""
    mesh = sharding.data_mesh(model=2)
    where = train_step.places(RECIPE, mesh, sharding.SHARDED)
    split = loop.creator(RECIPE, mesh, rules=sharding.SHARDED)()
    whole = loop.creator(RECIPE, mesh, rules=sharding.REPLICATED)()
    jax.tree.map(np.testing.assert_array_equal, split, whole)
    assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, split, where))
    key = sharding.replicate(mesh, split.key)
    for group in train_step.starters(RECIPE, key, where.params):
        own = sum(4 * leaf.size for leaf in jax.tree.leaves(SHAPES.params[group.owner]))
        plan = group.program.lower(*group.arguments).compile().memory_analysis()
        assert plan.temp_size_in_bytes < 2 * own + 4096  # few are small: alignment


# --- the compiled step ----------------------------------------------------------------------


def compiled(rules: sharding.Rules) -> Any:
    mesh = sharding.data_mesh()
    where = train_step.places(RECIPE, mesh, rules)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), SHAPES, where
    )
    part = images()
    host = recipe.Batch(part.images[:BATCH], part.labels[:BATCH], np.arange(BATCH, dtype=np.int32))
    step = jax.jit(
        train_step.Step(RECIPE, mesh=mesh, rules=rules),
        static_argnames="sizes",
        donate_argnames="state",
        out_shardings=(where, sharding.replicated(mesh)),
    )
    return step.lower(state, sharding.split(mesh, host), sizes=(8,) * 3).compile()


def test_less_memory_on_each_device() -> None:
    """What the compiled step takes and keeps on a device, as the compiler counts it."""
    # The compiled kernels have vectors of channels of their own, which are not what is split.
    with native.aside():
        whole, split = (
            compiled(rules).memory_analysis() for rules in (sharding.REPLICATED, sharding.SHARDED)
        )
    saved = LARGE * 7 // 8
    assert whole.argument_size_in_bytes - split.argument_size_in_bytes == saved
    assert whole.output_size_in_bytes - split.output_size_in_bytes == saved
    placed = [
        train_step.places(RECIPE, sharding.data_mesh(), rules)
        for rules in (sharding.REPLICATED, sharding.SHARDED)
    ]
    kept = [sharding.bytes_per_device(SHAPES, where) for where in placed]
    assert kept[0] - kept[1] == saved > 0.7 * kept[0]
    # More for a while: the gathered parameters, a third of what is split, and besides the whole
    # gradient of a member the parts that stay, of it and of the sum. The last summand is alignment.
    gathered = LARGE // 3
    most = whole.temp_size_in_bytes + gathered + 2 * gathered // 8 + 1024
    assert split.temp_size_in_bytes < most


# --- other subnets on other parts of a batch --------------------------------------------------

PLAIN = RECIPE._replace(optimizer=optax.sgd(0.1), ema_decay=0.0)


def batch(places: np.ndarray) -> recipe.Batch:
    part = images()
    return recipe.Batch(part.images[places], part.labels[places], places.astype(np.int32))


def constant(arch: Arch) -> Sampler:
    """Draws the same subnet always."""

    def sample(state: Any, key: Any, step: Any, score: Any) -> Arch:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.int32)[None], arch)

    return Sampler((), 1, lambda key: (), sample, lambda state, metrics: state)


def stepped(recipe: recipe.Recipe, places: np.ndarray) -> tuple[Any, float]:
    """Parameters after one step on one device, and the loss."""
    resolutions = train_step.step_sizes(recipe, step=0)
    made = train_step.Step(recipe)(train_step.create(recipe), batch(places), sizes=resolutions)
    return made[0].params, float(made[1]["loss/random_1"])


def test_a_step_is_the_mean_of_the_steps_of_its_parts() -> None:
    """One subnet on both halves is trained by each half alone: BatchNorm sees no other."""
    sampler = constant(choices.largest(SPACE.menu))
    recipe = PLAIN._replace(sampler=sampler, loss=hard_labels.hard_labels(smoothing=0.1))
    places = np.arange(BATCH)
    halves = [stepped(recipe, places[part]) for part in (slice(0, 8), slice(8, BATCH))]
    params, loss = stepped(recipe._replace(arch_shards=2), places)
    np.testing.assert_allclose(loss, (halves[0][1] + halves[1][1]) / 2, rtol=1e-6)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][0], halves[1][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), params, mean)


def test_each_part_draws_its_own_subnet() -> None:
    recipe = PLAIN._replace(sampler=uniform(SPACE.menu, n_random=2), arch_shards=8)
    host = batch(np.arange(BATCH))
    members = Members(
        recipe, None, None, train_step.create(recipe), host.inputs, host.targets, jax.random.key(0)
    )
    archs = choices.pack(members.draw(jax.random.key(1), None, (8, 8)))
    assert archs.shape[:2] == (2, 8)
    assert len(np.unique(np.asarray(archs).reshape(16, -1), axis=0)) == 4  # all there are


def test_normalisation_of_parts_alone() -> None:
    """The step of a sandwich is the mean of the steps on the parts, teachers' logits included."""
    recipe = PLAIN._replace(norm_shards=2)
    found = sandwiched(recipe, np.arange(BATCH))
    halves = [sandwiched(PLAIN, part) for part in np.split(np.arange(BATCH), 2)]
    for name in ("loss/largest", "loss/smallest", "loss/random_1", "accuracy/largest"):
        mean = (halves[0][1][name] + halves[1][1][name]) / 2
        np.testing.assert_allclose(found[1][name], mean, rtol=1e-6)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][0], halves[1][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found[0], mean)
    whole = sandwiched(PLAIN, np.arange(BATCH))
    apart = jax.tree.map(lambda a, b: a - b, found[0], whole[0])
    assert float(optax.tree.norm(apart)) > 1e-3


def sandwiched(
    recipe: recipe.Recipe,
    places: np.ndarray,
    mesh: Any = None,
    rules: sharding.Rules = sharding.REPLICATED,
) -> tuple[Any, Any]:
    """Parameters and metrics after one step of largest, smallest and a random subnet."""
    state, host = train_step.create(recipe), batch(places)
    if mesh is not None:
        where = train_step.places(recipe, mesh, rules)
        state, host = jax.device_put(state, where), sharding.split(mesh, host)
    step = train_step.Step(recipe, mesh=mesh, rules=rules)
    state, metrics = step(state, host, sizes=(8,) * 3)
    return jax.device_get((state.params, metrics))


def test_normalisation_of_parts_does_not_depend_on_the_devices() -> None:
    recipe = PLAIN._replace(norm_shards=8)
    one, eight = (
        sandwiched(recipe, np.arange(BATCH), mesh) for mesh in (None, sharding.data_mesh())
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, eight)


EIGHT = PLAIN._replace(arch_shards=8)


@pytest.fixture(scope="module")
def alone() -> tuple[Any, float]:
    return stepped(EIGHT, np.arange(BATCH))


@pytest.mark.parametrize("rules", [sharding.REPLICATED, sharding.SHARDED], ids=["whole", "split"])
def test_subnets_of_parts_on_any_number_of_devices(
    alone: tuple[Any, float], rules: sharding.Rules
) -> None:
    recipe, (params, loss) = EIGHT, alone
    mesh = sharding.data_mesh(model=2)
    create = jax.jit(
        lambda: train_step.create(recipe), out_shardings=train_step.places(recipe, mesh, rules)
    )
    step = train_step.Step(recipe, mesh=mesh, rules=rules)
    state, metrics = step(create(), sharding.split(mesh, batch(np.arange(BATCH))), sizes=(8,) * 3)
    np.testing.assert_allclose(metrics["loss/random_1"], loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, params)


@pytest.mark.parametrize(("shards", "devices"), [(3, 1), (4, 8), (12, 2)])
def test_parts_that_do_not_fit(tmp_path: pathlib.Path, shards: int, devices: int) -> None:
    made = job(tmp_path, sharding.REPLICATED, devices=devices, steps=1)
    with pytest.raises(UserError, match=f"train.arch-shards is {shards}, but must divide"):
        loop.fit(made._replace(recipe=RECIPE._replace(arch_shards=shards)))
