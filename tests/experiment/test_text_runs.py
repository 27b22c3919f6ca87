"""Runs on text: from a config file to perplexities, and tasks of a user's own."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_text_config
from theorem import largest_difference
from tiny_run import supernet

import supernet_jax as sj
from supernet_jax.elastic import choices, strategies
from supernet_jax.errors import UserError
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import (
    augmentation,
    base_weights,
    build,
    config,
    race,
    results,
    teaching,
    train,
)
from supernet_jax.runtime import path_rules
from supernet_jax.tasks import HiddenTokens, HideTokens, Metric, NextToken
from supernet_jax.training.teachers import ExtractedNetwork, OtherSupernet

CONFIG = pathlib.Path(tiny_text_config.__file__)
SETTINGS = tiny_text_config.config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    return sj.train(SETTINGS, tmp_path_factory.mktemp("text") / "run")


def changed(**parts: Any) -> sj.Config:
    return dataclasses.replace(SETTINGS, **parts)


def data_of(**settings: Any) -> Any:
    return dataclasses.replace(SETTINGS.data, **settings)


def params_of(run: sj.Run) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(run.params)])


def test_a_run_goes_on_where_it_was_killed(run: sj.Run, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    shutil.rmtree(copy / "checkpoints" / "20")
    assert sj.open_run(copy).step == 10
    again = sj.train(SETTINGS, copy)
    assert again.step == 20
    np.testing.assert_array_equal(params_of(again), params_of(run))


def sliced(run: sj.Run, arch: Any) -> Any:
    """`(params, inputs=) -> output` of the plain network, as one program."""
    return jax.jit(functools.partial(strategies.sliced, run.space, arch=arch, size=()))


def test_perplexity_is_that_of_the_plain_network(run: sj.Run) -> None:
    arch = choices.smallest(run.space.menu)
    [record] = sj.evaluate(run, arch, split="test")
    assert "calibrated" not in record
    test = run.experiment.dataset.test
    logits = sliced(run, arch)(run.params, inputs=test.images[:].astype(int)).logits
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), test.labels[:][..., None], -1)
    assert record["perplexity"] == pytest.approx(math.exp(float(jnp.mean(loss))), rel=1e-4)
    assert record["perplexity"] < 200 < 256  # it has learnt something
    assert record["images"] == len(test.labels)


def test_the_lowest_perplexity_is_best(
    run: sj.Run, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    said = supernet(capsys, "search", copy, "--searcher", "random", "--evaluations", 24)
    assert said.status == 0, said
    assert "perplexity" in said.out
    front = json.loads((copy / "search.json").read_text())["front"]
    lines = (copy / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    best = min(records, key=lambda record: record["perplexity"])
    assert front[-1]["perplexity"] == best["perplexity"]
    values = [record["perplexity"] for record in front]
    assert values == sorted(values, reverse=True)
    assert [r["macs"] for r in front] == sorted(r["macs"] for r in front)
    said = supernet(capsys, "evaluate", copy, "--front")
    assert f"best {best['perplexity']:.4g} with {best['macs']:,} MACs" in said.out
    assert "calibrated" not in said.out
    page = sj.report(copy).read_text(encoding="utf-8")
    assert "Perplexity over MACs" in page and "Examples per second" in page
    assert f"to {best['perplexity']:.4g} at" in page  # the best of the front is the lowest
    assert "ccurac" not in page and "images" not in page
    assert "MACs of the random members" in page  # the sampler was replayed


def test_hidden_bytes_are_the_same_every_time_in_evaluation() -> None:
    settings = changed(
        task=HideTokens(0.3),
        space=sj.spaces.TextEncoder(
            widths=(8,), depths=(1,), heads=(1,), hidden=(8,), head_dim=4, longest=16
        ),
    )
    built = build.build(settings)
    assert built.space.task == HiddenTokens(257, 16, 0.3)
    one, other = (build.evaluation_data(built, "held-out") for _ in range(2))
    np.testing.assert_array_equal(one.inputs, other.inputs)
    inputs, targets, real = (np.asarray(x) for x in (one.inputs, one.targets, one.real))
    hidden = inputs == 256
    assert real.all() and 0.25 < hidden.mean() < 0.35
    np.testing.assert_array_equal(hidden, targets >= 0)
    tokens = built.dataset.held_out.images[:64].reshape(inputs.shape)
    np.testing.assert_array_equal(np.where(hidden, targets, inputs), tokens)
    assert not (hidden == hidden[:1, :1]).all()  # each example hides others
    mix = augmentation.mix(settings.data, built.space.task)
    assert mix is not None
    rows, ids = tokens[0], np.arange(32)
    (a, _), (b, _), (c, _) = (
        mix(rows, rows, jax.random.key(seed), i) for seed, i in ((0, ids), (1, ids), (0, ids[::-1]))
    )
    assert (a != b).any() and (a != c).any()
    trained = json.loads(json.dumps(sj_json(settings)))
    assert config.typed_json.parse(Any, trained, "config", named=config.LIBRARY) == settings


def sj_json(settings: sj.Config) -> Any:
    return config.typed_json.to_json(settings)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"data": data_of(flip=True)}, "data.flip is True, which is for images, but text:"),
        ({"data": data_of(mixup=0.2)}, "data.mixup is 0.2, which is for images"),
        ({"data": data_of(size=8)}, "data.size is 8, which is for images"),
        ({"data": data_of(length=33)}, "at most 32; lower --data.length, or raise"),
        ({"data": data_of(held_out=5)}, "held_out is 5, but text is split by file"),
        ({"train": sj.Train(batch=9999)}, r"too little text for one batch: \d+ examples of 16"),
        (
            {"data": sj.Data(length=8)},
            "data.length is 8, which is for text and speech, but digits is images",
        ),
        ({"data": sj.Data()}, "the space decoder is for text, but the task of the data is image"),
        ({"space": sj.spaces.Digits()}, "choose a space for such data"),
        ({"space": sj.spaces.TextEncoder()}, r"set task=sj.tasks.HideTokens\(\)"),
        ({"task": HideTokens(1.0)}, "task.share is 1.0, but must be above 0 and below 1"),
        ({"task": sj.Train()}, r"config.task is Train.*, which has no method"),
        ({"teacher": ExtractedNetwork("a")}, "a is not an extracted network"),
        ({"teacher": OtherSupernet("a")}, "the teacher a is for images, as other runs are"),
    ],
)
def test_configurations_that_cannot_be(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        train.experiment(changed(**parts))
    assert "\n" not in str(error.value)


def test_status_2_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = supernet(capsys, "train", CONFIG, "--out", "none", "--data.flip")
    assert said.status == 2 and said.err.count("\n") == 1 and "which is for images" in said.err
    assert not pathlib.Path("none").exists()


def test_info_on_spaces_for_text(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("decoder", "text_encoder"):
        said = supernet(capsys, "info", name, "--archs", "smallest", "--json")
        [row] = json.loads(said.out)
        assert row["arch"]["width"] == 96 and row["macs"] > 2e7 and said.status == 0


# ---- tasks of a user's own


@dataclasses.dataclass(frozen=True)
class Verified(NextToken):
    """Whether a sequence goes on with a letter, by the equal error rate of all of them at once."""

    broken: str = ""

    name = "verification"
    metric = Metric("eer", "%", higher_is_better=False)

    def score(self, outputs: Any, targets: Any) -> Any:
        if self.broken == "shape":
            return super().score(outputs, targets[:, 0])
        if self.broken == "rows":
            return {"loss": super().score(outputs, targets)["loss"].mean()}
        last = jnp.minimum(outputs.shape[1], targets.shape[1]) - 1
        letter = targets[:, last] >= ord("a")
        evidence = jax.nn.logsumexp(outputs[:, last, ord("a") :], -1)
        if self.broken == "number":
            evidence = jnp.where(letter, evidence, jnp.nan)
        return {**super().score(outputs, targets), "evidence": evidence, "letter": letter}

    def value(self, scores: Any) -> Any:
        letter, evidence = np.asarray(scores["letter"]), np.asarray(scores["evidence"])
        order = np.argsort(evidence)
        missed = np.cumsum(letter[order]) / letter.sum()
        wrong = 1 - np.cumsum(~letter[order]) / (~letter).sum()
        return (missed[(at := np.argmin(np.abs(missed - wrong)))] + wrong[at]) / 2


@dataclasses.dataclass(frozen=True)
class Verify:
    """The part of a configuration."""

    broken: str = ""

    def build(self, *, dataset: sj.data.Dataset) -> Verified:
        assert dataset.tokens is not None
        return Verified(*dataset.tokens, broken=self.broken)


def measured(run: sj.Run, broken: str = "") -> evaluate.Result:
    """A subnet by a task of one's own, with the weights of another's run."""
    built = build.build(changed(task=Verify(broken)))
    arch = choices.stack([choices.largest(run.space.menu)])
    how, held_out = build.evaluation_how(built), build.evaluation_data(built, "held-out")
    [(_, result)] = evaluate.evaluate(how, run.params, arch, held_out)
    return result


def test_a_metric_of_all_examples_at_once(run: sj.Run) -> None:
    [record] = sj.evaluate(run, choices.largest(run.space.menu))
    found = measured(run)
    built = build.build(changed(task=Verify()))
    held_out = build.evaluation_data(built, "held-out")
    largest = sliced(run, choices.largest(run.space.menu))
    each = [
        built.space.task.score(largest(run.params, inputs=inputs).logits, targets)
        for inputs, targets in zip(held_out.inputs, held_out.targets, strict=True)
    ]
    every = {name: np.concatenate([scores[name] for scores in each]) for name in each[0]}
    assert len(each) > 1 and np.all(held_out.real)
    assert found.value[0] == pytest.approx(built.space.task.value(every), abs=1e-6)
    assert found.value[0] != pytest.approx(np.mean([*map(built.space.task.value, each)]), abs=1e-3)
    assert found.loss[0] == pytest.approx(record["loss"], abs=1e-5)


def test_an_infinite_perplexity_is_on_no_front(run: sj.Run, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    (copy / "evaluations.jsonl").unlink(missing_ok=True)
    archs = [choices.smallest(run.space.menu), choices.largest(run.space.menu)]
    scorer = results.Scorer(sj.open_run(copy), "held-out", what="")
    scorer.add(archs, np.array([np.inf, 9.0]), np.array([100.0, 2.0]))
    again = results.Scorer(sj.open_run(copy), "held-out", what="")
    broken, fine = map(again.score, again(archs))
    assert math.isnan(broken) and fine == -9.0


def test_only_shares_that_grow_can_be_raced_for(run: sj.Run) -> None:
    @dataclasses.dataclass(frozen=True)
    class Wrong(NextToken):
        metric = Metric("error", "%", higher_is_better=False, mean_of="wrong")

    opened: Any = types.SimpleNamespace(space=types.SimpleNamespace(task=Wrong(256, 8)))
    with pytest.raises(UserError, match="the error of language modelling is no share"):
        race._race_score(opened)
    with pytest.raises(UserError, match=r"the perplexity of .* leave --race out"):
        sj.search(run, race=True)


def test_tasks_that_cannot_score(run: sj.Run) -> None:
    for broken, said in (
        ("shape", r"cannot score outputs \[2, 16, 256\] and targets \[2, 16\] of 2 examples: "),
        ("rows", r"'loss' must be \[2\]"),
        ("number", r"gives example \d+ a score 'evidence' that is not a number"),
    ):
        with pytest.raises(UserError, match=said) as error:
            measured(run, broken)
        assert "\n" not in str(error.value)


def test_an_extracted_network_starts_again(run: sj.Run, tmp_path: pathlib.Path) -> None:
    largest = choices.largest(run.space.menu)
    sj.extract(run, largest, tmp_path / "network")
    part = sj.spaces.Adapted(
        SETTINGS.space,
        base=str(tmp_path / "network"),
        leaves=("block1/up/kernel",),
        ranks=(1,),
    )
    built = build.build(changed(space=part))
    loaded = path_rules.named_leaves(base_weights.load(part, built))
    theirs = path_rules.named_leaves(run.params)
    assert loaded.keys() == theirs.keys()
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(loaded[name], leaf, name)
    again = sj.import_network(tmp_path / "network", SETTINGS, tmp_path / "run")
    np.testing.assert_array_equal(params_of(again), params_of(run))
    shorter = changed(data=data_of(length=8))
    for refused in (
        lambda: sj.import_network(tmp_path / "network", shorter, tmp_path / "other"),
        lambda: teaching.taught(
            build.build(
                dataclasses.replace(shorter, teacher=ExtractedNetwork(str(tmp_path / "network")))
            )
        ),
    ):
        with pytest.raises(UserError, match=r"is for NextToken.*, but .*length=8.* give") as error:
            refused()
        assert "\n" not in str(error.value)


def test_an_extracted_network_teaches(run: sj.Run, tmp_path: pathlib.Path) -> None:
    sj.extract(run, choices.largest(run.space.menu), tmp_path / "network")
    settings = changed(teacher=ExtractedNetwork(str(tmp_path / "network")))
    teacher = teaching.taught(build.build(settings)).recipe.teacher
    tokens = run.experiment.dataset.test.images[:4].astype(np.int32)
    found = jax.jit(teacher.teach)(teacher.init(None), tokens)
    arch = choices.largest(run.space.menu)
    wanted = sliced(run, arch)(run.params, inputs=tokens)
    assert largest_difference(found.logits, wanted.logits) < 1e-5
