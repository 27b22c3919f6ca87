"""Every kind of teacher: resumed to the bit, equal over strategies and devices, no constant."""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from conftest import ROOT
from light_space import CHANNELS, CLASSES, light

from supernet_jax import data
from supernet_jax.elastic import blockwise, choices, shared_params, strategies
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, extract, teaching
from supernet_jax.experiment.config import Config, Train
from supernet_jax.experiment.run import open_run
from supernet_jax.networks import extract as networks
from supernet_jax.runtime import hardware, sharding
from supernet_jax.storage import checkpoint, user_code
from supernet_jax.training import loop, samplers, teachers, train_step
from supernet_jax.training.job import Job
from supernet_jax.training.losses import divergences, hard_labels, outside_teacher
from supernet_jax.training.losses.loss import cross_entropy, in_place_distillation
from supernet_jax.training.recipe import Batch, Recipe, State
from supernet_jax.training.teachers import average, largest, no_teacher, outside_network
from supernet_jax.training.teachers.teacher import Taught, Teacher

BATCH, SEED, COUNT = 8, 3, 80
SPACE = light(widths=(8, 64), resolutions=(8,))
NAMES = ("a", "b", "c", "d", "e")
KL = divergences.kl_divergence


@functools.cache
def images() -> data.Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 8, 8, CHANNELS), np.uint8)
    return data.Images(pixels, rng.integers(0, CLASSES, COUNT).astype(np.int32))


def dataset(**changes: Any) -> data.Dataset:
    numbers = (0.5, 0.5), (0.25, 0.25)
    made = data.Dataset("some", images(), images(), images(), NAMES, *numbers, "0" * 16)
    return dataclasses.replace(made, **changes)


@functools.cache
def network() -> outside_network.OutsideNetwork:
    """Of wide layers, and for images that were normalised otherwise."""
    space = light(widths=(64, 128), resolutions=(8,))
    params = jax.jit(lambda: shared_params.init(space, jax.random.key(7)))()
    stats = jax.tree.map(jnp.ones_like, shared_params.zero_stats(space))
    made = networks.extract(space, params, choices.largest(space.menu), stats)
    return outside_network.OutsideNetwork("net", *made, NAMES, (0.4, 0.4), (0.5, 0.5))


def outside() -> Teacher:
    return outside_network.teaching(network(), dataset())


def snapshot() -> Teacher:
    made = user_code.run(ROOT / "docs" / "examples" / "teacher.py").Snapshot(every=2)
    return made.build(space=SPACE, dtype=jnp.float32)


EVERY = outside_teacher.outside_distillation(KL, hard_weight=0.5)
# How each is made, and a loss that it serves.
KINDS: dict[str, tuple[Any, Any]] = {
    "largest": (largest.largest, in_place_distillation(KL)),
    "none": (no_teacher.NoTeacher().build, hard_labels.hard_labels()),
    "average": (lambda: average.average(SPACE, decay=0.75), EVERY),
    "outside": (outside, EVERY),
    "one's own": (snapshot, EVERY),
}
REMEMBERING = ("average", "outside", "one's own")


@functools.cache
def recipe_of(kind: str) -> Recipe:
    make, loss = KINDS[kind]
    return Recipe(
        space=SPACE,
        sampler=samplers.sandwich(SPACE.menu, n_random=0),
        loss=loss,
        optimizer=optax.sgd(0.1),
        augment=lambda images, key, ids: images.astype(jnp.float32) / 64 - 2,
        seed=SEED,
        teacher=make(),
    )


@functools.cache
def step_of(kind: str) -> train_step.Step:
    return train_step.Step(recipe_of(kind), mesh=one_device())


@functools.cache
def one_device() -> Any:
    return sharding.data_mesh(jax.devices()[:1])


def run(folder: pathlib.Path, kind: str, **changes: Any) -> State:
    folder.mkdir(exist_ok=True)
    work = Job(
        recipe=recipe_of(kind),
        examples=images(),
        steps=4,
        batch=BATCH,
        mesh=one_device(),
        checkpoints=checkpoint.Checkpoints(folder / "checkpoints"),
        meta={},
        metrics=folder / "metrics.jsonl",
        checkpoint_every=3,
        log_every=1,
        step=step_of(kind),
    )
    with work.checkpoints:
        state, finished = loop.fit(work._replace(**changes))
    assert finished
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[State, pathlib.Path]]:
    """By kind the end of a run that nobody interrupted, and its folder; copy it."""
    made = tmp_path_factory.mktemp("whole")
    return functools.cache(lambda kind: (jax.device_get(run(made / kind, kind)), made / kind))


Whole = Callable[[str], tuple[State, pathlib.Path]]


def batch(step: int) -> Batch:
    places = np.arange(step * BATCH, (step + 1) * BATCH) % COUNT
    pixels, labels = (part[places] for part in images())
    return Batch(pixels, labels, places.astype(np.int32))


def started(kind: str) -> State:
    return loop.creator(recipe_of(kind), one_device(), rules=sharding.REPLICATED)()


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def near(a: Any, b: Any) -> None:
    """Float32 sums in another order, over a few steps."""
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), a, b)


# The largest is in test_loop.py.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "largest"])
def test_killed_is_uninterrupted(kind: str, whole: Whole, tmp_path: pathlib.Path) -> None:
    state, folder = whole(kind)
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == (3,)
    assert same(run(tmp_path / "run", kind), state)
    assert bool(jax.tree.leaves(state.teacher)) == (kind in REMEMBERING)


def test_strategies_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other kinds are in test_blockwise_members.py."""
    kind = "average"
    monkeypatch.setattr(hardware, "many_small", hardware.runs_once)
    other = train_step.Step(recipe_of(kind)._replace(strategy=blockwise.blockwise), steps=2)
    assert other.is_blockwise
    found, wanted = started(kind), started(kind)
    for i in range(2):
        found, line = other(found, batch(i), sizes=(8,) * 2)
        wanted, expected = step_of(kind)(wanted, batch(i), sizes=(8,) * 2)
        near(jax.device_get(line), jax.device_get(expected))
    near(jax.device_get(found), jax.device_get(wanted))


@pytest.mark.parametrize("kind", ["average", "outside"])
def test_split_over_devices(kind: str, whole: Whole, tmp_path: pathlib.Path) -> None:
    """A memory is split as parameters are, and does not change what is computed."""
    mesh = sharding.data_mesh(jax.devices()[:2])
    changes = {"mesh": mesh, "rules": sharding.SHARDED, "step": None}
    split = run(tmp_path / "split", kind, **changes)
    parts = [leaf for leaf in jax.tree.leaves(split.teacher) if leaf.size >= sharding.LEAST]
    assert parts and not any(leaf.sharding.is_fully_replicated for leaf in parts)
    near(jax.device_get(split), whole(kind)[0])
    shutil.rmtree(tmp_path / "split" / "checkpoints" / "4")
    near(jax.device_get(run(tmp_path / "split", kind)), jax.device_get(split))  # on one device


@pytest.mark.parametrize("kind", REMEMBERING)
def test_no_program_holds_the_weights(kind: str) -> None:
    """As text, a constant takes two characters a byte."""
    state, step = started(kind), step_of(kind)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.teacher))
    state, line = step(state, batch(0), sizes=(8,) * 2)
    begun = step.begin.lower(state, batch(0)).as_text()
    metrics = {k: v for k, v in line.items() if "/" in k}
    ended = step.finish.lower(state, state.params, metrics, None, members=2).as_text()
    first = jax.make_jaxpr(step.begin)(state, batch(0)).consts
    assert sum(np.asarray(x).nbytes for x in first) < 1000
    assert size > 15_000
    for text in (begun, ended):
        assert max(map(len, text.splitlines())) < size, "a constant is one line"
        assert "dense_resource" not in text


def test_the_average_is_that_by_hand() -> None:
    state, step = started("average"), step_of("average")
    wanted = jax.device_get(state.params)
    assert same(state.teacher, wanted)
    for i in range(6):
        given = batch(i)
        if i == 3:  # a step that is refused changes nothing
            kept = jax.device_get(state.params)
            broken = jax.tree.map(lambda x: x * jnp.nan, state.params)
            state = dataclasses.replace(state, params=broken)
        state, line = step(state, given, sizes=(8,) * 2)
        assert line["applied"] == (i != 3)
        if i == 3:
            state = dataclasses.replace(state, params=jax.tree.map(jnp.array, kept))
            continue
        a = min(0.75, 1 - 1 / (i + 2))  # the plain mean of what there was, at first
        new = jax.device_get(state.params)
        wanted = jax.tree.map(lambda m, p, a=a: a * m + (1 - a) * p, wanted, new)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, jax.device_get(state.teacher), wanted)
    assert not same(state.teacher, state.params)


def test_the_average_teaches_every_member() -> None:
    """By its own largest subnet, on the statistics of the batch, without dropout."""
    state, step = started("average"), step_of("average")
    for i in range(2):
        state, _ = step(state, batch(i), sizes=(8,) * 2)
    before = jax.device_get(state)
    own = batch(2)
    _, line = step(state, own, sizes=(8,) * 2)
    inputs = recipe_of("average").augment(jnp.asarray(own.inputs), None, None)
    fixed = recipe_of("average").sampler.fixed

    def sliced(params: Any, arch: Any) -> Any:
        run = functools.partial(strategies.sliced, SPACE, arch=arch, size=8)
        return jax.jit(lambda params: run(params, inputs=inputs).logits)(params)

    teacher = sliced(before.teacher, fixed[0])
    for arch, role in zip(fixed, ("largest", "smallest"), strict=True):
        student = sliced(before.params, arch)
        wanted = 0.5 * KL(student, teacher) + 0.5 * cross_entropy(student, jnp.asarray(own.targets))
        np.testing.assert_allclose(line[f"loss/{role}"], wanted, rtol=1e-5)


def test_the_average_has_features() -> None:
    own = average.average(SPACE, decay=0.5, features=("second", "first"))
    params = shared_params.parameter_shapes(SPACE)
    said = jax.eval_shape(own.teach, params, jnp.zeros((BATCH, 8, 8, CHANNELS)))
    assert said is not None and set(said.features) == {"first", "second"}
    assert said.features["first"].shape == (BATCH, 8, 8, 64)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (in_place_distillation(KL), r"no teacher for a member in the role 'smallest'.*teachers"),
        (EVERY, r"needs a teacher for the largest subnet too.*sj\.teachers"),
    ],
)
def test_without_a_teacher_labels_teach(loss: Any, said: str) -> None:
    recipe = recipe_of("none")._replace(loss=loss)
    step = functools.partial(train_step.Step(recipe), sizes=(8,) * 2)
    with pytest.raises(UserError, match=said):
        jax.eval_shape(step, train_step.shapes(recipe), batch(0))


def test_a_checkpoint_from_before_there_was_a_memory(whole: Whole, tmp_path: pathlib.Path) -> None:
    """Teachers were constants then: an outside one goes on with the weights of its folder."""
    state, folder = whole("outside")
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    at_three = checkpoint.restore(folder / "checkpoints", target, step=3)
    (tmp_path / "old").mkdir()
    shutil.copy(folder / "metrics.jsonl", tmp_path / "old")
    with checkpoint.Checkpoints(tmp_path / "old" / "checkpoints") as kept:
        kept.save(3, dataclasses.replace(at_three, teacher=()), {}, wait=True)
        assert not kept.has("teacher") and kept.has("params")
    assert same(run(tmp_path / "old", "outside"), state)


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"teacher net tells 5 classes apart .* the data has 2 cl"):
        outside_network.teaching(network(), dataset(class_names=("a", "b")))
    says = Taught(jnp.zeros((BATCH, 3)), {})
    odd = largest.largest()._replace(teach=lambda memory, inputs: says)
    step = train_step.Step(recipe_of("none")._replace(teacher=odd))
    with pytest.raises(UserError, match=r"puts out logits \[8, 3\], but .* has \[8, 5\]"):
        step(started("none"), batch(0), sizes=(8,) * 2)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"teacher\.decay is .* must be in \[0, 1\)"):
        average.average(SPACE, decay=decay)


# --- of configurations -----------------------------------------------------------------------


def tiny(**changes: Any) -> Config:
    return dataclasses.replace(user_code.run(tiny_run.CONFIG).config, **changes)


def test_another_supernet_is_the_network_extracted_of_it(
    tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, file = tiny_run.trained(tmp_path_factory), str(tiny_run.CONFIG)
    opened = open_run(folder, file)
    arch = choices.smallest(opened.space.menu)
    extract.extract(opened, arch, tmp_path / "net")
    parts: tuple[Any, ...] = (
        teachers.ExtractedNetwork(str(tmp_path / "net"), file),
        teachers.OtherSupernet(str(folder), "smallest", file),
    )
    taught = [teaching.taught(build.build(tiny(teacher=part))).recipe.teacher for part in parts]
    memories = [teacher.init(None) for teacher in taught]
    assert same(*memories)
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    first, second = (
        jax.jit(teacher.teach)(memory, inputs)
        for teacher, memory in zip(taught, memories, strict=True)
    )
    assert same(first, second) and first.logits.shape == (4, 10)
    both = dataclasses.replace(opened.config.train, teacher=str(tmp_path / "net"))
    with pytest.raises(UserError, match=r"train\.teacher is .* teacher is OtherSupernet; leave"):
        teaching.taught(build.build(tiny(teacher=parts[1], train=both)))
    short = teaching.taught(build.build(tiny(train=dataclasses.replace(both, teacher_file=file))))
    assert same(short.recipe.teacher.init(None), memories[0])


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (teachers.ExtractedNetwork("nowhere"), "nowhere"),
        (teachers.ExtractedNetwork(str(ROOT / "docs")), "network.json"),
        (teachers.OtherSupernet("nowhere"), "there is no run folder .*nowhere"),
        (teachers.Average(decay=2.0), "teacher.decay is 2.0"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(part: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        teaching.taught(build.build(tiny(teacher=part)))
    assert "\n" not in str(error.value)


def test_every_kind_is_here() -> None:
    known = {kind for kind in vars(teachers).values() if dataclasses.is_dataclass(kind)}
    checked_as = {
        teachers.Largest: "largest",
        teachers.NoTeacher: "none",
        teachers.Average: "average",
        teachers.ExtractedNetwork: "outside",
        teachers.OtherSupernet: "outside",
    }
    assert known == checked_as.keys() and set(checked_as.values()) <= KINDS.keys()
    assert Config().teacher == teachers.Largest() and Train().teacher is None
