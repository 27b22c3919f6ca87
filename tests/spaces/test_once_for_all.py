"""The Once-for-All space: its size, its costs, and the published code's numbers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from conftest import ROOT
from test_train_step import QUICK
from theorem import flat, largest_difference
from tiny_space import tiny, transforming

from supernet_jax.elastic import (
    block_call,
    channel_order,
    choices,
    elastic_block,
    shared_params,
    strategies,
)
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.notation import from_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config
from supernet_jax.networks import extract
from supernet_jax.networks.importers import tensor_mapping
from supernet_jax.networks.importers.once_for_all import load
from supernet_jax.spaces import once_for_all
from supernet_jax.training import train_step
from supernet_jax.training.losses import divergences, loss
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.samplers import Phase, Progressive

GOLDEN = reference.golden("parity_ofa_mobilenetv3")
SPACE = once_for_all.ofa_mobilenetv3(dropout=0.0)
STEPS = 24  # of a short training
WIDE = once_for_all.ofa_mobilenetv3(width=1.2)
TENSORS = reference.tensors(GOLDEN["param_names_shapes"])


def same_everywhere(space: Any, *, ks: int, e: int, d: int, r: int) -> Any:
    """The arch with one kernel, one expansion and one depth everywhere."""
    blocks, stages = len(space.menu["ks"]), len(space.menu["d"])
    notation = {"ks": [ks] * blocks, "e": [e] * blocks, "d": [d] * stages, "r": [r]}
    return from_notation(space.menu, notation)


def test_size_of_the_space() -> None:
    assert choices.count(SPACE.menu) == 9**20 * 3**5 * 25
    assert SPACE.sizes == tuple(range(128, 225, 4))
    # Subnets that differ: of a stage of 2, 3 or 4 blocks with 9 specs each.
    assert sum(9**depth for depth in (2, 3, 4)) ** 5 == 7371**5 > 1e19
    specs = [spec for block in SPACE.blocks.values() for spec in block.specs]
    assert len(specs) == 20 * 9 + 3
    # The blocks of a stage after its first are alike: 90 specs, and three blocks of one spec.
    assert len(set(specs)) == 5 * 2 * 9 + 3


@pytest.mark.parametrize(("space", "size"), [(SPACE, 7_678_880), (WIDE, 10_715_752)])
def test_supernet_parameters(space: Any, size: int) -> None:
    shapes = jax.eval_shape(functools.partial(shared_params.init, space), jax.random.key(0))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == size
    transforms = [
        tree[elastic_block.TRANSFORMS] for tree in shapes.values() if "transforms" in tree
    ]
    assert len(transforms) == 20
    assert {sum(x.size for x in jax.tree.leaves(tree)) for tree in transforms} == {625 + 81}


@pytest.mark.parametrize(
    ("space", "arch", "published", "parameters"),
    [
        (SPACE, (7, 6, 4), 566_170_688, 7_664_760),
        (SPACE, (3, 3, 2), 121_278_672, 3_410_792),
        (SPACE, (5, 4, 3), 250_746_944, 4_551_792),
        (SPACE, (3, 3, 4), 226_193_808, None),
        (WIDE, (7, 6, 4), 843_101_056, 10_701_632),
    ],
)
def test_costs_are_the_published_ones(
    space: Any, arch: tuple[int, int, int], published: int, parameters: int | None
) -> None:
    ks, e, d = arch
    chosen = same_everywhere(space, ks=ks, e=e, d=d, r=224)
    layers = layers_by_hand(space, ks, e, d)
    assert int(costs.macs(space)(chosen)) == sum(layers)
    # The published counter adds layer after layer in float32, which rounds sums above 2**24 * 16.
    rounded = functools.reduce(lambda total, n: np.float32(total + np.float32(n)), layers)
    assert int(rounded) == published and abs(sum(layers) - published) <= 32
    if parameters is not None:
        assert int(costs.parameters(space)(chosen)) == parameters


def layers_by_hand(space: Any, ks: int, e: int, d: int) -> list[int]:
    """MACs of each layer at 224 pixels, in the published order."""
    width = 1.0 if space is SPACE else 1.2
    stem, c, *stages, middle, last = [
        published_rounding(n * width) for n in (16, 16, 24, 40, 80, 112, 160, 960, 1280)
    ]
    side = 112
    found = [27 * stem * side**2, 9 * stem * side**2, stem * c * side**2]
    for i, c_out in enumerate(stages):
        for j in range(d):
            inner = published_rounding(c * e)
            found.append(c * inner * side**2)
            side = side // 2 if j == 0 and i != 3 else side
            found.append(ks**2 * inner * side**2)
            reduced = published_rounding(inner // 4)
            found += [inner * reduced] * 2 if i in (1, 3, 4) else []
            found.append(inner * c_out * side**2)
            c = c_out
    return [*found, c * middle * side**2, middle * last, last * 1000]


def published_rounding(value: float) -> int:
    """To a multiple of 8, not below 90 %."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


@functools.cache
def published() -> Any:
    return load(TENSORS, SPACE)[0]


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_published_logits(case: str) -> None:
    golden = GOLDEN["cases"][case]
    size = golden["res"]
    arch = same_everywhere(SPACE, **golden["cfg"], r=size)
    images = reference.images(2, size, 0)
    run = jax.jit(lambda p, x: strategies.sliced(SPACE, p, arch, x, size=size).logits)
    logits, wanted = np.asarray(run(published(), images)), golden["batchstat_logits"]
    assert logits.shape == tuple(wanted["shape"])
    np.testing.assert_allclose(logits[:, :8], wanted["first8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits.sum(1), wanted["sum"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), wanted["l2"], rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == wanted["argmax"]


def test_every_tensor_is_imported_in_either_spelling() -> None:
    params, report = load(TENSORS, SPACE)
    shapes = jax.eval_shape(functools.partial(shared_params.init, SPACE), jax.random.key(0))
    assert jax.tree.map(lambda s: s.shape, shapes) == jax.tree.map(lambda p: p.shape, params)
    assert len(report.mapped) == len(TENSORS) and report.left == ()
    matrix = TENSORS["blocks.7.conv.depth_conv.conv.7to5_matrix"]
    own = params["stage2_block3"][elastic_block.TRANSFORMS]["depthwise/kernel"]["7to5"]
    np.testing.assert_array_equal(own, matrix)
    older = {name.replace(".conv.d", ".mobile_inverted_conv.d"): x for name, x in TENSORS.items()}
    older["first_conv.bn.running_mean"] = np.zeros(16, np.float32)
    again, report = load(older, SPACE)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, again))
    assert report.left == (f"first_conv.bn.running_mean: {tensor_mapping.CALIBRATED}",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classifier.linear.bias": None}, "classifier.linear.bias is missing"),
        ({"classifier.bias": np.zeros(1)}, "no classifier.bias; did you mean classifier.linear.bi"),
        ({"first_conv.conv.conv.weight": np.zeros(1)}, "two spellings of one tensor"),
        ({"classifier.linear.bias": np.zeros(10)}, "linear.bias has the shape [10], but"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict, words: str) -> None:
    changed = {name: x for name, x in {**TENSORS, **change}.items() if x is not None}
    with pytest.raises(UserError) as error:
        load(changed, SPACE)
    assert words in str(error.value)
    with pytest.raises(UserError, match="tiny is not of the Once-for-All family"):
        load(TENSORS, tiny())


def test_transforms_are_learned_maps_of_centres() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(7, 7, 1, 3)).astype(np.float32)
    block = SPACE.blocks["stage1_block1"]
    (transform,) = block.transforms
    start = transform.init(jax.random.key(0), kernel.shape)
    for size in (7, 5, 3):  # identity at the start: centre crops
        border = (7 - size) // 2
        crop = kernel[border : 7 - border, border : 7 - border]
        np.testing.assert_array_equal(transform.apply(start, kernel, size), crop)
    first, second = (rng.normal(size=(n, n)).astype(np.float32) for n in (25, 9))
    middle = np.einsum("oi,ic->oc", first, kernel[1:6, 1:6].reshape(25, 3)).reshape(5, 5, 1, 3)
    last = np.einsum("oi,ic->oc", second, middle[1:4, 1:4].reshape(9, 3)).reshape(3, 3, 1, 3)
    made = transform.apply({"7to5": first, "5to3": second}, kernel, 3)
    np.testing.assert_allclose(made, last, rtol=1e-4, atol=1e-4)


def test_how_parameters_start() -> None:
    space = once_for_all.ofa_small()
    geometry = elastic_space.geometry(space, 32)

    def start(name: str) -> Any:
        block = space.blocks[name]
        how = {"make": block.module, "spec": block.union, "inputs": geometry[name].inputs}
        return jax.device_get(block_call.init_module(jax.random.key(0), **how))

    changes, keeps = start("stage1_block1"), start("stage1_block2")
    kernel = keeps["expand"]["kernel"]  # He et al., by the outputs
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / kernel.shape[-1]), rtol=0.05)
    assert abs(kernel.mean()) < 0.01 and not np.any(keeps["squeeze"]["reduce"]["bias"])
    # A block with an input to add starts as that, one without must let its own through.
    assert not np.any(keeps["project_norm"]["scale"]) and np.all(changes["project_norm"]["scale"])


def test_channels_that_may_be_sorted() -> None:
    found = {c.size: c for c in channel_order.couplings(once_for_all.ofa_small())["stage1_block2"]}
    assert set(found) == {"middle", "reduced"}
    assert {path for path, *_ in found["middle"].reads} == {
        ("project", "kernel"),
        ("squeeze", "reduce", "kernel"),
    }
    middle = {(("expand", "kernel"), -1), (("depthwise", "kernel"), -1)}
    assert middle < found["middle"].axes and len(found["middle"].axes) == 10


def test_codes_and_extraction_go_through_transforms() -> None:
    space = transforming()
    params = noisy(space)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
    arch = from_notation(space.menu, {"ks": [3, 5], "e": [2, 4], "d": [2], "r": [8]})
    masked = jax.jit(lambda a: strategies.masked(space, params, a, images, size=8))
    output = masked(jax.tree.map(jnp.asarray, arch))
    hard = masked(choices.one_hot(space.menu, arch))
    assert largest_difference(hard.logits, output.logits) < 1e-5
    made, variables = extract.extract(space, params, arch, output.moments)
    assert variables["params"]["stage1_block1"]["depthwise"]["kernel"].shape[:2] == (3, 3)
    assert elastic_block.TRANSFORMS not in variables["params"]["stage1_block1"]
    assert extract.prove(space, params, arch, output.moments, made, variables, images) < 1e-5


def noisy(space: Any) -> Any:
    """Parameters in which nothing is 0 or 1."""
    shapes = jax.eval_shape(functools.partial(shared_params.init, space), jax.random.key(0))
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), jnp.float32), shapes)
    assert flat(made).size > 1000
    return made


def test_progressive_shrinking_trains_the_space() -> None:
    space = transforming()
    phases = Phase(("ks",), 0.25), Phase(("d",), 0.25), Phase(("e",), 0.5, sort=True)
    settings = Progressive(n_random=1, largest_alone=0.0, phases=phases)
    sampler = settings.build(menu=space.menu, space=space, steps=STEPS)
    recipe = Recipe(
        space=space,
        sampler=sampler,
        loss=loss.in_place_distillation(divergences.kl_divergence, smoothing=0.0),
        optimizer=optax.sgd(0.1, momentum=0.9),
        augment=lambda images, key, ids: images.astype(jnp.float32) / 128 - 1,
    )
    rng = np.random.default_rng(0)
    labels = np.arange(10, dtype=np.int32) % 5
    images = rng.integers(0, 256, (5, 8, 8, 2))[labels] // 2 + rng.integers(0, 128, (10, 8, 8, 2))
    batch = Batch(images.astype(np.uint8), labels, np.arange(10, dtype=np.int32))
    step = jax.jit(functools.partial(train_step.Step(recipe), sizes=(8, 8)), **QUICK)
    state, seen = train_step.create(recipe), []
    for i in range(STEPS):
        assert train_step.step_sizes(recipe, step=i) == (8, 8)
        state, metrics = step(state, batch)
        assert float(metrics["applied"]) == 1
        seen.append(float(metrics["loss/largest"]))
    assert np.mean(seen[-4:]) < 0.5 * np.mean(seen[:4])
    # Matrices of the block that always runs have learned.
    own = state.params["stage1_block1"][elastic_block.TRANSFORMS]["depthwise/kernel"]
    assert all(np.abs(np.asarray(m) - np.eye(len(m))).max() > 1e-3 for m in own.values())


def test_phases_open_kernels_then_depths_then_expansions() -> None:
    settings, _ = config.load_file(ROOT / "configs" / "imagenet_ofa.py")
    sampler = settings.sampler.build(menu=SPACE.menu, space=SPACE, steps=605)

    @jax.jit
    def least(step: Any) -> Any:
        def one(key: Any) -> Any:
            return sampler.sample(sampler.init(key), key, step, None)  # type: ignore[arg-type]

        drawn = jax.vmap(one)(jax.random.split(jax.random.key(0), 200))
        return {name: jnp.min(jnp.stack(drawn[name])) for name in ("ks", "d", "e")}

    phases = {200: (0, 2, 2), 310: (0, 1, 2), 340: (0, 0, 2), 460: (0, 0, 1), 500: (0, 0, 0)}
    for step, wanted in phases.items():
        found = least(jnp.int32(step))
        assert tuple(int(found[name]) for name in ("ks", "d", "e")) == wanted
    assert sampler.members(100) == 1 and sampler.members(200) == 3
    assert sampler.reorder is not None and sampler.reorder.step == 455
