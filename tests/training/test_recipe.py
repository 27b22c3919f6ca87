"""Accumulation, features, an outside teacher and mixed labels inside the training step."""

import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from light_space import CHANNELS, CLASSES, light
from tiny_config import TinySpace

from supernet_jax.data import augment
from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, teaching
from supernet_jax.experiment.config import Config, Train
from supernet_jax.networks import extract, network_folder
from supernet_jax.nn import layers
from supernet_jax.runtime import sharding
from supernet_jax.spaces import AttentiveNAS
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import members, samplers, train_step
from supernet_jax.training.gradients import conflict_projection, unit_sum
from supernet_jax.training.losses import divergences, features, hard_labels, outside_teacher
from supernet_jax.training.losses.loss import cross_entropy, in_place_distillation
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.teachers import Taught, Teacher

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Sizes:
    c_in: int
    c_out: int


class Mix(nn.Module):
    """Nothing in it couples the images of a batch."""

    spec: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.swish(layers.Pointwise(self.spec.c_out, bias=True, name="mix")(x))


class Pool(nn.Module):
    spec: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return layers.Dense(self.spec.c_out, name="classifier")(jnp.mean(x, (1, 2)))


def uncoupled() -> Space:
    menu = {"resolution": Choice((4, 6)), "width": Choice((3, 5))}
    make = functools.partial(elastic, menu=menu, decisions=[("width",)])
    blocks = {
        "first": make(Mix, lambda c: Sizes(CHANNELS, c)),
        "second": make(Mix, lambda c: Sizes(c, c)),
        "pool": make(Pool, lambda c: Sizes(c, CLASSES)),
    }
    task, static = ImageClassification(CHANNELS, CLASSES), (("resolution",),)
    return Space("uncoupled", menu, blocks, strategies.chain(tuple(blocks)), task, static)


SPACE = uncoupled()
IN_PLACE = in_place_distillation(divergences.kl_divergence, smoothing=0.1)
RECIPE = Recipe(
    space=SPACE,
    sampler=samplers.sandwich(SPACE.menu, n_random=2),
    loss=features.with_features(IN_PLACE, features.attention, weight=2.0),
    features=("first", "second"),
    optimizer=optax.sgd(0.5),
    augment=lambda images, key, ids: images.astype(jnp.float32) / 128 - 1,
    combine=conflict_projection.conflict_projection(),  # needs whole gradients of members
)
SIZES = (6, 4, 4, 4)  # random members share one, as in a run, and so a program


def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 6, 6, CHANNELS), np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return Batch(images, labels, np.arange(BATCH, dtype=np.int32))


@functools.cache
def started() -> Any:
    """The state before the first step, which every recipe here has."""
    return jax.device_get(jax.jit(lambda: train_step.create(RECIPE))())


def stepped(recipe: Recipe, mesh: Any = None, sizes: Any = SIZES) -> Any:
    """Parameters and metrics after one step."""
    images = batch() if mesh is None else sharding.split(mesh, batch())
    where = None if mesh is None else train_step.places(recipe, mesh, sharding.REPLICATED)
    state = jax.tree.map(jnp.array, started())
    state = dataclasses.replace(state, teacher=recipe.teacher.init(state.params))
    state = state if mesh is None else jax.device_put(state, where)
    state, metrics = train_step.Step(recipe, mesh=mesh)(state, images, sizes=sizes)
    return jax.device_get((state.params, metrics))


def close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=1e-5), a, b)


@functools.cache
def plain() -> Any:
    return stepped(RECIPE)


@pytest.mark.parametrize(("devices", "shards"), [(8, 1), (1, 4)])
def test_micro_batches_make_the_step_of_the_whole_batch(devices: int, shards: int) -> None:
    """Four of them, on one device and unsharded: the test of mixed labels."""
    mesh = None if devices == 1 else sharding.data_mesh()
    recipe = RECIPE._replace(accumulate=2, arch_shards=shards)
    wanted = plain() if shards == 1 else stepped(recipe._replace(accumulate=1))
    close(stepped(recipe, mesh), wanted)  # float32 sums in another order


def test_candidates_are_scored_on_all_micro_batches() -> None:
    state, given = started(), batch()
    arch = jax.tree.map(jnp.asarray, choices.smallest(SPACE.menu))

    def scored(count: int, images: Any) -> Any:
        recipe = RECIPE._replace(accumulate=count, loss=hard_labels.hard_labels(), features=())
        made = members.Members(
            recipe, None, None, state, images, jnp.asarray(given.targets), jax.random.key(0)
        )
        member = members.Member(recipe.strategy, arch, "random", 4, None)
        return jax.jit(lambda arch: made.mean_loss(member._replace(arch=arch)))(arch)

    pixels = jnp.asarray(given.inputs, jnp.float32) / 128 - 1
    whole = scored(1, pixels)
    np.testing.assert_allclose(scored(4, pixels), whole, rtol=1e-6)
    other = scored(4, pixels.at[-1].set(3.0))  # an image of the last micro-batch
    assert abs(other - whole) > 1e-4


def test_batchnorm_sees_a_micro_batch() -> None:
    """Of the images k, 2 k, ... each: the mean of the steps on those alone."""
    space = light(resolutions=(8,))
    sampler = samplers.sandwich(space.menu, n_random=0)
    recipe = RECIPE._replace(
        space=space,
        sampler=sampler,
        loss=hard_labels.hard_labels(),
        features=(),
        combine=unit_sum.unit_sum(),
    )
    whole = batch()

    create = jax.jit(lambda: train_step.create(recipe))  # parameters do not depend on accumulation

    def after(step: Any, part: Any) -> Any:
        images = Batch(*(x[part] for x in whole[:3]))
        return step(create(), images, sizes=(8, 8))[0].params

    at_once, in_two = (train_step.Step(recipe._replace(accumulate=k)) for k in (1, 2))
    halves = [after(at_once, slice(i, None, 2)) for i in range(2)]
    found = after(in_two, slice(None))
    close(found, jax.tree.map(lambda a, b: (a + b) / 2, *halves))
    others = np.arange(BATCH).reshape(-1, 2).T.ravel()  # other images together: another step
    apart = jax.tree.map(lambda a, b: a - b, found, after(in_two, others))
    assert float(optax.tree.norm(apart)) > 1e-3


def parts(batch: int, mesh: Any, **given: int) -> None:
    all_of_it = {"arch_shards": 1, "norm_shards": 1, "accumulate": 1, **given}
    sharding.check_parts(batch, mesh, **all_of_it)


@pytest.mark.parametrize(("count", "shards", "size"), [(3, 1, 16), (4, 8, 16), (16, 2, 16)])
def test_batches_that_do_not_split(count: int, shards: int, size: int) -> None:
    mesh = sharding.data_mesh(jax.devices()[:1])
    with pytest.raises(UserError, match=f"train.accumulate is {count}"):
        parts(size, mesh, accumulate=count, arch_shards=shards)
    with pytest.raises(UserError, match="multiple of 16"):
        parts(24, sharding.data_mesh(), accumulate=2)
    with pytest.raises(UserError, match=r"norm-shards is 4, but must .* devices \(8\)"):
        parts(24, sharding.data_mesh(), norm_shards=4)
    with pytest.raises(UserError, match=r"norm-shards is 4 and train\.arch-shards is 2"):
        parts(24, mesh, norm_shards=4, arch_shards=2)
    parts(16, sharding.data_mesh(), accumulate=2, arch_shards=8, norm_shards=8)


def test_features_reach_the_loss_of_every_member() -> None:
    """By hand: what attention adds to the loss of the smallest."""
    metrics, without = plain()[1], stepped(RECIPE._replace(loss=IN_PLACE, features=()))[1]
    inputs = RECIPE.augment(jnp.asarray(batch().inputs), None, None)
    run = functools.partial(strategies.sliced, SPACE, started().params, features=RECIPE.features)
    largest, smallest = (
        jax.jit(functools.partial(run, arch, size=size))(inputs).features
        for arch, size in zip(RECIPE.sampler.fixed, SIZES, strict=False)
    )
    assert smallest["first"].shape[-1] == 3 < largest["first"].shape[-1] == 5
    added = np.mean([features.attention(smallest[n], largest[n]) for n in ("first", "second")])
    difference = metrics["loss/smallest"] - without["loss/smallest"]
    np.testing.assert_allclose(difference, 2 * added, rtol=1e-3)
    assert metrics["loss/largest"] == without["loss/largest"]
    assert metrics["loss/random_1"] > without["loss/random_1"]
    close(stepped(RECIPE._replace(strategy=strategies.switched)), plain(), 1e-5)


def test_blocks_without_a_teacher_are_named() -> None:
    with pytest.raises(UserError, match="has no features to compare"):
        stepped(RECIPE._replace(features=()))


def other_network(images: Any) -> Any:
    return jnp.mean(images, (1, 2)) @ other_weights()


def other_weights() -> Any:
    return np.random.default_rng(3).normal(size=(CHANNELS, CLASSES)).astype(np.float32)


def test_an_outside_teacher_teaches_all() -> None:
    seen = []

    def teach(memory: Any, images: Any) -> Taught:
        seen.append(images.shape)
        return Taught(jnp.mean(images, (1, 2)) @ memory, {})

    teacher = Teacher(lambda params: other_weights(), teach, lambda memory, params, step: memory)
    loss = outside_teacher.outside_distillation(divergences.kl_divergence, hard_weight=0.25)
    recipe = RECIPE._replace(loss=loss, features=(), teacher=teacher)
    params, metrics = stepped(recipe)
    assert seen == [(BATCH, 6, 6, CHANNELS)], "once per step"
    own = batch()
    inputs = recipe.augment(jnp.asarray(own.inputs), None, None)
    for arch, role, size in zip(recipe.sampler.fixed, ("largest", "smallest"), SIZES, strict=False):
        run = functools.partial(strategies.sliced, SPACE, started().params, arch, size=size)
        logits = jax.jit(run)(inputs).logits
        soft = divergences.kl_divergence(logits, other_network(inputs))
        hard = cross_entropy(logits, jnp.asarray(own.targets))
        wanted = 0.75 * soft + 0.25 * hard
        np.testing.assert_allclose(metrics[f"loss/{role}"], wanted, rtol=1e-5)
    close(stepped(recipe._replace(accumulate=4)), (params, metrics))
    with pytest.raises(UserError, match="needs a teacher for the largest subnet too"):
        stepped(RECIPE._replace(loss=loss))


@functools.cache
def small_space() -> tuple[Space, Any]:
    """A space of the library's own blocks, and parameters as they start."""
    space = mobilenet(
        "other",
        resolutions=(8,),
        stem=(4,),
        stem_stride=1,
        stages=(Stage((4,), (1, 2), (3,), (1,), 1, squeeze=True),),
        last=(4,),
        classes=10,
        input_channels=1,
        head_ratio=1,
    )
    return space, jax.jit(lambda: shared_params.init(space, jax.random.key(0)))()


def test_the_folder_of_an_extracted_network_teaches(tmp_path: pathlib.Path) -> None:
    """Of another space than the run's, and though its images were normalised otherwise."""
    space, params = small_space()
    arch = choices.smallest(space.menu)
    params = jax.tree.map(lambda x: x + 0.1, params)  # zero scales would hide a block
    stats = jax.tree.map(jnp.ones_like, shared_params.zero_stats(space))
    module, variables = extract.extract(space, params, arch, stats)
    own = {"mean": (0.25,), "std": (0.5,)}
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    pixels = augment.normalise(jnp.asarray(images), **own)
    description = extract.describe(
        space,
        arch,
        module,
        variables,
        **own,
        proof=extract.prove(space, params, arch, stats, module, variables, pixels),
        proof_images=4,
        accuracy={"test": 0.5},
        calibration=(2, 64),
        source={"run": "runs/digits"},
    )
    network_folder.save(tmp_path / "net", module, variables, description=description)
    settings = Config(space=TinySpace(), train=Train(teacher=str(tmp_path / "net")))
    built = build.build(settings)
    assert built.recipe.teacher.init(None) == (), "evaluation does not need it"
    teacher = teaching.taught(built).recipe.teacher
    wanted = jax.jit(module.apply)(variables, pixels)
    weights = teacher.init(None)
    found = jax.jit(lambda w, x: teacher.teach(w, built.prepare(x)))(weights, images).logits
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    other = built._replace(dataset=dataclasses.replace(built.dataset, class_names=("a", "b")))
    with pytest.raises(UserError, match=r"tells 10 classes apart .* the data has 2 classes"):
        teaching.taught(other)
    misspelt = dataclasses.replace(settings, train=Train(features=("frist",)))
    with pytest.raises(UserError, match=r"names a block .frist.*did you mean first"):
        build.build(misspelt)


def test_mixed_labels_train_the_largest() -> None:
    mix = functools.partial(augment.mixup, alpha=1.0, classes=CLASSES)
    params, metrics = stepped(RECIPE._replace(mix=mix))
    assert metrics["applied"] == 1 and 0 <= metrics["accuracy/largest"] <= 1
    assert metrics["loss/largest"] != plain()[1]["loss/largest"]
    close(stepped(RECIPE._replace(mix=mix, accumulate=4)), (params, metrics))


# --- what the published spaces bring ----------------------------------------------------------


def test_published_rates_of_drop_connect_and_dropout() -> None:
    space = AttentiveNAS().build(classes=1000, input_channels=3)
    names = [name for name in space.blocks if name.startswith("stage")]
    assert len(names) == 37
    for i, name in enumerate(names):
        for spec in space.blocks[name].specs:
            late = i >= 27 and spec.stride == 1 and spec.c_in == spec.c_out
            assert spec.drop_path == pytest.approx(0.2 * i / 37 if late else 0.0)
    assert {spec.dropout for spec in space.blocks["head"].specs} == {0.2}


def test_residual_branches_start_at_zero() -> None:
    """The last scale of each block, and no other."""
    params = small_space()[1]
    for block, tree in params.items():
        for name, leaves in tree.items():
            if "scale" in leaves:
                wanted = 0.0 if name == "project_norm" else 1.0
                assert np.all(np.asarray(leaves["scale"]) == wanted), (block, name)
    assert any("project_norm" in tree for tree in params.values())


# --- relations ------------------------------------------------------------------------------

RNG = np.random.default_rng(1)
NARROW, WIDE = (RNG.normal(size=(4, 3, 3, c)).astype(np.float32) for c in (3, 6))
TOKENS = functools.partial(features.tokens, temperature=0.5)
RELATIONS = (features.similarity, features.attention, TOKENS)


@functools.cache
def graded(relation: Any) -> Any:
    """`(student, teacher) -> (value, gradients of both)`."""
    return jax.jit(jax.value_and_grad(relation, argnums=(0, 1)))


def related(relation: Any, student: Any, teacher: Any) -> Any:
    return graded(relation)(student, teacher)[0]


@pytest.mark.parametrize("relation", RELATIONS)
def test_what_every_relation_keeps(relation: Any) -> None:
    value, (gradient, of_teacher) = graded(relation)(NARROW, WIDE)
    assert value > 0 and value.dtype == jnp.float32 and np.any(gradient)
    assert not np.any(of_teacher), "the teacher is a constant"
    same, (nothing, _) = graded(relation)(WIDE, WIDE)
    np.testing.assert_allclose(same, 0, atol=1e-6)
    np.testing.assert_allclose(nothing, 0, atol=1e-5)
    # dead channels of a masked subnet, another order of channels, another scale
    padded = np.concatenate([NARROW, np.zeros_like(NARROW)], axis=-1)
    np.testing.assert_allclose(related(relation, padded, WIDE), value, rtol=1e-5)
    far = np.float32(1e10) * NARROW  # the fourth powers of which are not finite
    found = related(relation, far[..., ::-1], WIDE[..., ::-1])
    np.testing.assert_allclose(found, value, rtol=1e-5)
    order = np.asarray([2, 0, 3, 1])
    np.testing.assert_allclose(related(relation, NARROW[order], WIDE[order]), value, rtol=1e-5)
    assert related(relation, jnp.bfloat16(NARROW), jnp.bfloat16(WIDE)).dtype == jnp.float32


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e4])
def test_relations_are_finite(relation: Any, scale: float) -> None:
    for pair in ((scale * NARROW, WIDE), (NARROW, scale * WIDE), (scale * NARROW, scale * WIDE)):
        value, (gradient, _) = graded(relation)(*(np.float32(x) for x in pair))
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_similarity_follows_its_definition() -> None:
    def rows(x: Any) -> Any:
        flat = np.float64(x).reshape(4, -1)
        gram = flat @ flat.T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    wanted = np.sum((rows(WIDE) - rows(NARROW)) ** 2) / 16
    np.testing.assert_allclose(related(features.similarity, NARROW, WIDE), wanted, rtol=1e-5)


def test_attention_follows_its_definition() -> None:
    def maps(x: Any) -> Any:
        flat = np.sum(np.float64(x) ** 2, -1).reshape(4, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    wanted = np.mean(np.sum((maps(WIDE) - maps(NARROW)) ** 2, -1))
    np.testing.assert_allclose(related(features.attention, NARROW, WIDE), wanted, rtol=1e-5)
    larger = np.repeat(np.repeat(WIDE, 2, 1), 2, 2)  # of more pixels: the same places count
    near, far = (related(features.attention, WIDE, x) for x in (larger, larger[:, ::-1]))
    assert near < 0.1 * far


def test_tokens_follow_their_definition() -> None:
    def rows(x: Any) -> Any:
        flat = np.float64(x).reshape(4, 9, -1)
        unit = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
        e = np.exp(unit @ unit.swapaxes(1, 2) / 0.5)
        return e / e.sum(-1, keepdims=True)

    p, q = rows(WIDE), rows(NARROW)
    wanted = np.mean(np.sum(p * np.log(p / q), -1))
    found = related(TOKENS, NARROW, WIDE)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    flat = (x.reshape(4, 9, -1) for x in (NARROW, WIDE))
    np.testing.assert_allclose(related(TOKENS, *flat), found, rtol=1e-6)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="need equal sizes"):
        features.tokens(NARROW, WIDE[:, :2])
    with pytest.raises(UserError, match="temperature of relations"):
        features.tokens(NARROW, WIDE, temperature=0.0)
    with pytest.raises(UserError, match="weight of features"):
        features.with_features(RECIPE.loss, features.similarity, weight=-1.0)
