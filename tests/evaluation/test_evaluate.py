"""Calibrated evaluation against NumPy, on any devices, in any chunks; and results kept on disk."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import CHANNELS, CLASSES, light
from tiny_space import deep

from supernet_jax import data as datasets
from supernet_jax.elastic import blockwise, choices, notation, shared_params, space, strategies
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.evaluation.evaluate import EvaluationData
from supernet_jax.experiment import build, config, results, run
from supernet_jax.nn import resize
from supernet_jax.runtime import sharding

SPACE = light(dropout=0.5)  # which must not act in evaluation
MENU = SPACE.menu
# Float32 sums in another order, as of more devices, of numbers around one.
SUMS = 1e-5


def prepare(images: Any) -> Any:
    return images.astype(jnp.float32) / 128 - 1


def noisy(tree: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(np.asarray(x) + 0.5 * rng.normal(size=x.shape)), tree)


PARAMS = noisy(shared_params.init(SPACE, jax.random.key(3)))  # weights whose subnets disagree
ARCHS = choices.stack(
    [
        {"resolution": np.int32(r), "width": np.int32(w), "depth": np.int32(d)}
        for d in (0, 1)
        for w in (0, 1, 2)
        for r in (1, 0)
    ]
)


def some_data(seed: int = 0, batch: int = 16) -> EvaluationData:
    """Two calibration batches, and three batches of which the last is not full."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (3, batch), np.int32)
    labels[2, 5:] = -1
    shapes = ((2, batch, 8, 8, CHANNELS), (3, batch, 8, 8, CHANNELS))
    calibration, images = (rng.integers(0, 256, shape, np.uint8) for shape in shapes)
    return EvaluationData(calibration, images, labels, labels >= 0)


def forward(arch: Arch, images: Any, stats: Any = None) -> tuple[np.ndarray, list]:
    """Logits and statistics of a subnet, written out in float64."""
    values = notation.to_notation(MENU, arch)
    resized = resize.resize_bicubic(prepare(jnp.asarray(images)), values["resolution"])
    x, c, seen = np.asarray(resized, np.float64), values["width"], []
    for i, name in enumerate(("first", "second")[: values["depth"]]):
        mix, norm = PARAMS[name]["mix"], PARAMS[name]["norm"]
        y = x @ np.float64(mix["kernel"][0, 0, : x.shape[-1], :c]) + mix["bias"][:c]
        seen.append((y.mean((0, 1, 2)), y.reshape(-1, c).var(0, ddof=1)))
        mean, variance = (seen[i][0], y.var((0, 1, 2))) if stats is None else stats[i]
        y = (y - mean) / np.sqrt(variance + 1e-5) * norm["scale"][:c] + norm["bias"][:c]
        x = y / (1 + np.exp(-y))
    classifier = PARAMS["pool"]["classifier"]
    return x.mean((1, 2)) @ np.float64(classifier["kernel"][:c]) + classifier["bias"], seen


def by_hand(arch: Arch, data: EvaluationData) -> tuple[int, float]:
    """Number of correct images and mean loss of one subnet."""
    batches = [forward(arch, images)[1] for images in data.calibration]
    stats = [
        [np.mean(both, axis=0) for both in zip(*block, strict=True)]
        for block in zip(*batches, strict=True)
    ]
    logits = np.concatenate([forward(arch, images, stats)[0] for images in data.inputs])
    labels = np.asarray(data.targets).reshape(-1)
    real = labels >= 0
    logits, labels = logits[real], labels[real]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return int(np.sum(logits.argmax(-1) == labels)), float(
        -np.mean(logp[np.arange(len(labels)), labels])
    )


def measured(data: Any, archs: Any = ARCHS, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """Correct images and losses in the order of the archs."""
    setting = evaluate.How(SPACE, **{"prepare": prepare, "chunk": 4, **how})
    n = len(archs["width"])
    correct, loss = np.full(n, -1), np.full(n, np.nan)
    devices = max(1, len(sharding.devices_of(data.inputs)))
    for where, result in evaluate.evaluate(setting, PARAMS, archs, data):
        assert len(where) <= setting.chunk * devices and np.all(correct[where] == -1)
        right = np.round(37 * result.value).astype(int)
        assert result.total == 37 and np.all(result.value == right / 37)
        correct[where], loss[where] = right, result.loss
    assert np.all(correct >= 0)
    return correct, loss


ALL = [strategies.switched, strategies.masked, blockwise.blockwise]
EACH = pytest.mark.parametrize("strategy", ALL, ids=["switched", "masked", "blockwise"])


@EACH
def test_equals_statistics_and_accuracy_by_hand(strategy: Any) -> None:
    data = some_data()
    wanted = [by_hand(arch, data) for arch in choices.unstack(ARCHS)]
    correct, loss = measured(data, strategy=strategy)
    assert len({w for w, _ in wanted}) > 2
    np.testing.assert_array_equal(correct, [w for w, _ in wanted])
    np.testing.assert_allclose(loss, [w for _, w in wanted], rtol=SUMS)


def test_what_is_no_longer_wanted_is_left_out() -> None:
    data, left, done = some_data(), [], []

    def wanted(rest: np.ndarray) -> np.ndarray:
        left.append(rest.tolist())
        return rest[::-1][: len(rest) - len(left) % 2]  # from the other end, sometimes one fewer

    how = evaluate.How(SPACE, prepare=prepare, chunk=2)
    whole = measured(data)
    for where, result in evaluate.evaluate(how, PARAMS, ARCHS, data, wanted=wanted):
        done += where.tolist()
        np.testing.assert_array_equal(37 * result.value, whole[0][where])
        np.testing.assert_array_equal(result.loss, whole[1][where])
    out = sum(n % 2 for n, rest in enumerate(left, 1) if rest)
    assert len(set(done)) == len(done) == len(ARCHS["width"]) - out and out > 1


def test_logits_that_are_no_numbers_are_never_right() -> None:
    labels = jnp.zeros((3,), jnp.int32)
    logits = jnp.asarray([[2.0, 1.0], [np.nan, np.nan], [np.inf, 1.0]])
    scores = SPACE.task.score(logits, labels)
    assert scores["right"].tolist() == [True, False, False]
    assert np.isfinite(scores["loss"]).tolist() == [True, False, False]


def test_calibrated_statistics_by_hand() -> None:
    data = some_data()
    arch = {"resolution": np.int32(1), "width": np.int32(1), "depth": np.int32(1)}
    how = {"size": 8, "prepare": prepare, "strategy": strategies.sliced}
    stats = evaluate.calibrate(SPACE, PARAMS, arch, jnp.asarray(data.calibration), **how)
    batches = [forward(arch, images)[1] for images in data.calibration]
    for i, name in enumerate(("first", "second")):
        for part, kind in enumerate(("mean", "var")):
            found, wanted = stats[name]["norm"][kind], np.mean([b[i][part] for b in batches], 0)
            np.testing.assert_allclose(found[:4], wanted, rtol=SUMS, atol=SUMS)
            assert found.shape == (6,) and np.all(found[4:] == 0)


def test_without_calibration_it_would_be_another_accuracy() -> None:
    data = some_data()
    other = data._replace(calibration=data.calibration // 4)
    assert np.any(measured(data)[0] != measured(other)[0])


def test_one_trace_for_each_resolution() -> None:
    traced: list[tuple] = []

    def counting(images: Any) -> Any:
        traced.append(images.shape)
        return prepare(images)

    both = measured(some_data(), prepare=counting)
    once = len(traced)
    # Per resolution one program, which prepares calibration and evaluation images, each in a loop
    # that JAX may trace a second time.
    assert 4 <= once <= 8
    again = measured(some_data(1), prepare=counting)
    alone = jax.tree.map(lambda leaf: leaf[:1], ARCHS)
    measured(some_data(), alone, prepare=counting)
    assert len(traced) == once and np.any(both[1] != again[1])


def in_parts(data: Any, parts: list[tuple[int, int]], **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """What is right and losses `[N, E, B]`: calibrated once, scored part by part."""
    setting = evaluate.How(SPACE, **{"prepare": prepare, "chunk": 4, **how})
    n, shape = len(ARCHS["width"]), data.targets.shape
    right, loss = np.zeros((n, *shape), bool), np.zeros((n, *shape), np.float32)
    stats: dict[int, np.ndarray] = {}
    for where, some in evaluate.calibrated(setting, PARAMS, ARCHS, data):
        assert isinstance(some, np.ndarray) and len(where) == len(some)
        stats |= dict(zip(where.tolist(), some, strict=True))
    for start, end in parts:
        chosen = np.random.default_rng(start).permutation(n)  # whoever is left, in any order
        archs = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], ARCHS)
        rows = np.stack([stats[i] for i in chosen])
        parts_scored = evaluate.scored(setting, PARAMS, archs, rows, data, batches=(start, end))
        for where, scores in parts_scored:
            outside = [e for e in range(shape[0]) if not start <= e < end]
            assert not scores["right"][:, outside].any() and not scores["loss"][:, outside].any()
            right[chosen[where]] |= scores["right"]
            loss[chosen[where]] += scores["loss"]
    return right, loss


@pytest.mark.parametrize("strategy", ALL[::2], ids=["switched", "blockwise"])
def test_in_parts_it_is_the_same_to_the_bit(strategy: Any) -> None:
    data = some_data()
    correct, loss = measured(data, strategy=strategy)
    right, losses = in_parts(data, [(0, 1), (1, 3)], strategy=strategy)
    np.testing.assert_array_equal(right.sum((1, 2)), correct)
    np.testing.assert_array_equal(losses.sum((1, 2)) / np.float32(37), loss.astype(np.float32))
    assert not right[:, np.asarray(data.targets) < 0].any()
    for i, arch in enumerate(choices.unstack(ARCHS)[:3]):
        stats = [forward(arch, images)[1] for images in data.calibration]
        means = [[np.mean(b, 0) for b in zip(*a, strict=True)] for a in zip(*stats, strict=True)]
        logits = forward(arch, data.inputs[1], means)[0]
        np.testing.assert_array_equal(right[i, 1], logits.argmax(-1) == data.targets[1])


def test_parts_are_traced_once_for_each_resolution() -> None:
    traced: list[tuple] = []

    def counting(images: Any) -> Any:
        traced.append(images.shape)
        return prepare(images)

    in_parts(some_data(), [(0, 3)], prepare=counting)
    once = len(traced)
    in_parts(some_data(1), [(0, 1), (1, 2), (2, 3)], prepare=counting)
    measured(some_data(), prepare=counting)
    assert 4 <= once <= 8 and len(traced) == once


def test_chunks_do_not_matter() -> None:
    data = some_data()
    correct, loss = measured(data, chunk=4)
    for chunk in (1, 5, 16):
        other = measured(data, chunk=chunk)
        np.testing.assert_array_equal(other[0], correct)
        np.testing.assert_allclose(other[1], loss, rtol=SUMS)


@pytest.mark.parametrize(
    "space, strategy",
    [
        (SPACE, strategies.switched),
        (SPACE, strategies.masked),
        (SPACE, blockwise.blockwise),
        (deep(), strategies.switched),
    ],
    ids=["light-switched", "light-masked", "light-blockwise", "deep-switched"],  # the last loops
)
def test_taking_over_changes_no_bit(space: Space, strategy: Any) -> None:
    params = noisy(shared_params.init(space, jax.random.key(0)))
    archs = choices.sample(space.menu, jax.random.key(1), (24,))
    data, found = some_data(), []
    data = data._replace(targets=np.minimum(data.targets, space.task.classes - 1))
    for reuse in (True, False):
        how = evaluate.How(space, prepare, strategy, chunk=8, reuse=reuse)
        stats = [s for _, s in evaluate.calibrated(how, params, archs, data)]
        results = [(w, *r) for w, r in evaluate.evaluate(how, params, archs, data)]
        found.append((stats, results))
    assert len(found[0][0]) >= 3
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize(
    "space, strategy",
    [(SPACE, strategies.switched), (SPACE, strategies.masked), (deep(), strategies.switched)],
    ids=["light-switched", "light-masked", "deep-switched"],  # a loop is in the last one only
)
def test_what_is_not_fresh_is_taken_over(space: Space, strategy: Any) -> None:
    params = noisy(shared_params.init(space, jax.random.key(0)))
    images, arch = prepare(jnp.asarray(some_data().inputs[0])), choices.largest(space.menu)
    memory = shared_params.empty_memory(space, 8, 16, dtype=jnp.float32, moments=True)

    @jax.jit
    def run(arch: Any, fresh: Any, memory: Any) -> Any:
        reuse = strategies.Reuse(fresh, memory)
        return strategy(space, params, arch, images, size=8, reuse=reuse)

    names = list(memory)  # in the order in which they run
    first = run(arch, dict.fromkeys(names, True), memory)
    assert set(first.memory) == set(names)
    marked = {name: jax.tree.map(lambda x: x + 1, made) for name, made in first.memory.items()}
    for i, name in enumerate(names):
        fresh = {other: j > i for j, other in enumerate(names)}
        second = run(arch, fresh, marked)
        for other in names[: i + 1]:
            jax.tree.map(np.testing.assert_array_equal, second.memory[other], marked[other])
            jax.tree.map(np.testing.assert_array_equal, second.moments[other], marked[other][1])
        assert np.any(second.logits != first.logits), name


@pytest.mark.parametrize("strategy", ALL[::2], ids=["switched", "blockwise"])
def test_equal_archs_with_other_statistics_take_nothing_over(strategy: Any) -> None:
    data = some_data()
    archs = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 3), ARCHS)
    how = evaluate.How(SPACE, prepare, strategy, chunk=4)
    ((_, stats),) = evaluate.calibrated(how, PARAMS, archs, data)
    last = np.float32([[1], [1], [2]]) * stats
    found = []
    for reuse in (True, False):
        setting = dataclasses.replace(how, reuse=reuse)
        ((where, scores),) = evaluate.scored(setting, PARAMS, archs, last, data, batches=(0, 3))
        found.append(scores["loss"][np.argsort(where)][:, np.asarray(data.targets) >= 0])
    np.testing.assert_array_equal(*found)
    assert np.all(found[0][0] == found[0][1]) and np.all(found[0][1] != found[0][2])


def test_neighbours_begin_alike() -> None:
    archs = choices.sample(deep().menu, jax.random.key(0), (64,))
    identity = space.identity(deep(), 8, archs)
    assert identity.shape == (64, 1 + 7) and identity.dtype == np.int32
    depth, expand = np.asarray(archs["depth"][0]), np.asarray(archs["expand_ratio"][0])
    for i, alive in enumerate([2, 2, 3, 5, 5]):  # values of depth from which a block is there
        there = np.array((2, 3, 5))[depth] >= alive
        np.testing.assert_array_equal(identity[:, 2 + i] >= 0, there)
        assert len(set(expand[there])) == len(set(identity[there, 2 + i].tolist()))


@pytest.mark.parametrize("n, groups", [(1, 1), (3, 2), (7, 4), (24, 8)])
def test_devices_do_not_matter(n: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    picked = np.resize(np.arange(12)[1::2], n)  # of the smaller resolution
    archs = jax.tree.map(lambda leaf: leaf[picked], ARCHS)
    found = []
    for devices in (1, 8):
        mesh = sharding.data_mesh(jax.devices()[:devices])
        data = sharding.split(mesh, some_data(), axis=1)
        assert len(data.inputs.sharding.device_set) == devices
        with monkeypatch.context() as patched:
            if devices == 1:  # as in a process of one device: with the compiled kernels throughout
                patched.setattr(jax, "device_count", lambda: 1)
            found.append(measured(data, archs))
    (correct, loss), (other, other_loss) = found
    np.testing.assert_array_equal(correct, other)
    np.testing.assert_allclose(loss, other_loss, rtol=SUMS)
    shape = sharding.candidates_mesh(jax.devices(), n).shape  # type: ignore[union-attr]
    assert dict(shape) == {"candidates": groups, "data": 8 // groups, "model": 1}


def test_groups_of_a_number_that_divides_the_devices() -> None:
    six = sharding.candidates_mesh(jax.devices()[:6], 5)
    assert six is not None and dict(six.shape) == {"candidates": 3, "data": 2, "model": 1}
    assert sharding.candidates_mesh(jax.devices()[:1], 5) is None


BANKED = light(bank=space.Bank(2, choices.Lookup((("width",),), np.asarray([0, 1, 1]))))


@pytest.mark.parametrize(
    ("rule", "groups", "strategy", "of"),
    [
        ("model", 4, strategies.masked, SPACE),
        ("first", 4, strategies.masked, BANKED),  # its rows are split
        ("first", 1, strategies.switched, light(widths=(4, 8, 16))),
    ],
)
def test_split_parameters_are_taken_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
    rule: sharding.Rule,
    groups: int,
    strategy: strategies.Strategy,
    of: Space,
) -> None:
    params = noisy(shared_params.init(of, jax.random.key(3)))
    mesh = sharding.data_mesh(model=2)
    where = sharding.place(mesh, params, rules=((".*", rule),), least=8)
    placed, data = jax.device_put(params, where), sharding.split(mesh, some_data(), axis=1)
    shape = sharding.candidates_mesh(jax.devices(), 6, params=placed).shape  # type: ignore[union-attr]
    assert dict(shape) == {"candidates": groups, "data": 4 // groups, "model": 2}
    results = []
    gathers: list[Any] = []
    gathered = sharding.gathered
    monkeypatch.setattr(sharding, "gathered", lambda *a: gathers.append(a) or gathered(*a))
    for given, images in ((params, some_data()), (placed, data)):
        how = evaluate.How(of, prepare, strategy, chunk=2)
        archs = jax.tree.map(lambda leaf: leaf[1::2], ARCHS)
        found = list(evaluate.evaluate(how, given, archs, images))
        order = np.argsort(np.concatenate([where for where, _ in found]))
        results.append(
            [
                np.concatenate([getattr(r, name) for _, r in found])[order]
                for name in ("value", "loss")
            ]
        )
    assert gathers  # a block at a time, and only where they are split
    assert all(set(one) <= {"mix", "norm", "classifier"} for one, _ in gathers)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=SUMS)


def trained(folder: pathlib.Path, *, step: int = 7) -> run.Run:
    """A run whose parameters are PARAMS."""
    rng = np.random.default_rng(3)

    def images(n: int) -> datasets.Images:
        pixels = rng.integers(0, 256, (n, 8, 8, CHANNELS), np.uint8)
        return datasets.Images(pixels, rng.integers(0, CLASSES, n, np.int32))

    names = tuple(map(str, range(CLASSES)))
    parts = images(64), images(37), images(29)
    dataset = datasets.Dataset("made", *parts, names, (0.5,) * 2, (0.3,) * 2, "0123")
    settings = config.Config(evaluation=config.Evaluation(calibration_batches=2, batch=16, chunk=2))
    mesh = sharding.data_mesh(jax.devices()[:1])
    built = build.Experiment(settings, dataset, SPACE, prepare, None, mesh)  # type: ignore
    folder.mkdir(exist_ok=True)
    return run.Run(folder, built, PARAMS, step, "0123")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many archs each call computed; a negative last entry stops after so many results."""
    counts: list[int] = []
    real: Callable = evaluate.evaluate

    def counting(how: Any, params: Any, archs: Any, data: Any, **more: Any) -> Iterator:
        stop = -counts.pop() if counts and counts[-1] < 0 else None
        counts.append(0)
        for i, (where, result) in enumerate(real(how, params, archs, data, **more)):
            if i == stop:
                raise KeyboardInterrupt
            counts[-1] += len(where)
            yield where, result

    monkeypatch.setattr(evaluate, "evaluate", counting)
    return counts


def score(run: run.Run, archs: list[Arch], split: str = "held-out") -> list[dict]:
    return results.Scorer(run, split, what="")(archs)


SOME = choices.unstack(ARCHS)[:7]


def test_results_are_what_was_measured(tmp_path: pathlib.Path) -> None:
    run = trained(tmp_path)
    records = score(run, SOME)
    data = build.evaluation_data(run.experiment, "held-out")
    for arch, record in zip(SOME, records, strict=True):
        correct, loss = by_hand(arch, jax.device_get(data))
        assert record["accuracy"] == pytest.approx(correct / 37, abs=1e-6)  # as rounded
        assert record["loss"] == pytest.approx(loss, rel=SUMS, abs=1e-6)
        assert record["arch"] == notation.to_notation(MENU, arch)
        assert record["macs"] == costs.macs(SPACE)(arch)
        assert record["parameters"] == costs.parameters(SPACE)(arch)
        assert record["split"] == "held-out" and record["images"] == 37
        assert record["checkpoint"] == 7 and record["calibration"] == [2, 16]
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert sorted(lines) == sorted(map(json.dumps, records))


def test_nothing_is_computed_twice(tmp_path: pathlib.Path, computed: list[int]) -> None:
    run = trained(tmp_path)
    scorer = results.Scorer(run, "held-out", what="")
    first = scorer([*SOME[:5], SOME[0]])
    assert computed == [5] and first[0] == first[5]
    assert scorer(SOME[:5]) == first[:5] and computed == [5]
    more = score(run, SOME)  # as a new process would
    assert computed == [5, 2] and more[:5] == first[:5]
    assert len((tmp_path / "evaluations.jsonl").read_text().splitlines()) == 7


def test_an_interrupted_evaluation_goes_on(tmp_path: pathlib.Path, computed: list[int]) -> None:
    whole = score(trained(tmp_path / "whole"), SOME)
    computed[:] = [-2]  # two results, all three archs of the smaller resolution
    with pytest.raises(KeyboardInterrupt):
        score(trained(tmp_path / "cut"), SOME)
    assert computed == [3]
    assert score(trained(tmp_path / "cut"), SOME) == whole
    assert computed == [3, 4]


def test_a_line_cut_off_by_a_kill_is_computed_again(
    tmp_path: pathlib.Path, computed: list[int]
) -> None:
    run = trained(tmp_path)
    whole = score(run, SOME)
    path = tmp_path / "evaluations.jsonl"
    text = path.read_text()
    for kept in (len(text) - 1, len(text) - 30):
        path.write_text(text[:kept])
        assert score(run, SOME) == whole
        assert sorted(path.read_text().splitlines()) == sorted(text.splitlines())
    assert computed == [7, 1, 1]


def test_the_calibration_that_is_recorded_is_what_was_used(tmp_path: pathlib.Path) -> None:
    run = with_evaluation(trained(tmp_path), calibration_batches=9)  # 64 images are 4 batches
    assert build.evaluation_data(run.experiment, "held-out").calibration.shape[:2] == (4, 16)
    assert score(run, SOME[:1])[0]["calibration"] == [4, 16]


def other_calibration(run: run.Run) -> run.Run:
    return with_evaluation(run, calibration_batches=1)


def other_limit(run: run.Run) -> run.Run:
    return with_evaluation(run, limit=20)


def other_data(run: run.Run) -> run.Run:
    dataset = dataclasses.replace(run.experiment.dataset, fingerprint="4567")
    return run._replace(experiment=run.experiment._replace(dataset=dataset))


def with_evaluation(run: run.Run, **changes: Any) -> run.Run:
    old = run.experiment.config
    evaluation = dataclasses.replace(old.evaluation, **changes)
    settings = dataclasses.replace(old, evaluation=evaluation)
    return run._replace(experiment=run.experiment._replace(config=settings))


@pytest.mark.parametrize("change", [other_calibration, other_limit, other_data])
def test_results_under_other_conditions_are_not_taken(
    tmp_path: pathlib.Path, computed: list[int], change: Callable
) -> None:
    run = trained(tmp_path)
    before = score(run, SOME[:2])
    score(change(run), SOME[:2])
    assert computed == [2, 2]
    assert score(run, SOME[:2]) == before and computed == [2, 2]


def test_results_of_another_split_or_checkpoint_are_not_taken(
    tmp_path: pathlib.Path, computed: list[int]
) -> None:
    run = trained(tmp_path)
    before = score(run, SOME[:2])
    tested = score(run, SOME[:2], "test")
    assert [r["images"] for r in tested] == [29, 29]
    score(trained(tmp_path, step=8), SOME[:2])
    assert computed == [2, 2, 2]
    assert score(run, SOME[:2]) == before and score(run, SOME[:2], "test") == tested
    assert computed == [2, 2, 2]
