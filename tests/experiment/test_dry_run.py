"""`supernet train --dry-run`: what it tells is what a run would do, and nothing is left behind."""

import collections
import itertools
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import CONFIG, supernet

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.experiment import build, config, dry_run
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.dry_run import Member, Program, Range
from supernet_jax.spaces import mobilenet
from supernet_jax.training import train_step
from supernet_jax.training.losses.hard_labels import hard_labels
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Recipe
from supernet_jax.training.samplers import sandwich

Capture = pytest.CaptureFixture[str]
TRAIN = ("train", CONFIG, "--dry-run")


@pytest.fixture(scope="module")
def built() -> Experiment:
    return build.build(config.load_file(CONFIG)[0])


def recipe(resolutions: tuple[int, ...], **fields: Any) -> Recipe:
    """A sandwich of a space with several resolutions."""
    space = mobilenet.mobilenet(
        "small",
        resolutions=resolutions,
        stem=(4, 8),
        stem_stride=1,
        stages=(mobilenet.Stage((4, 8), (1, 2), (3,), (1, 2), 2),),
        last=(8,),
        classes=3,
        input_channels=1,
    )
    return Recipe(
        space=space,
        sampler=sandwich(space.menu, n_random=2),
        loss=hard_labels(smoothing=0.0),
        optimizer=sgd.alphanet_sgd(0.1),
        augment=lambda images, key, ids: images,
        **fields,
    )


def told(capsys: Capture, *options: object) -> dict[str, Any]:
    said = supernet(capsys, *TRAIN, "--json", *options)
    assert said.status == 0, said
    value: dict[str, Any] = json.loads(said.out)
    return value


def all_archs(space: Space) -> Any:
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    rows = np.asarray(list(itertools.product(*map(range, sizes))), np.int32)
    return choices.unpack(space.menu, rows)


@pytest.mark.parametrize("devices", [1, 8])
def test_what_a_run_takes(
    devices: int,
    built: Experiment,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = told(capsys, "--devices", devices, "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    state = train_step.create(built.recipe)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    (program,) = found["programs"]
    (member,) = program["members"]
    macs = costs.macs(built.space)(all_archs(built.space))
    assert len(macs) == tiny_run.ARCHS
    # The standard error of a mean of 1000 is 3 % of the deviation of one.
    assert abs(member["macs"] - macs.mean()) < 0.1 * macs.std()
    assert member["computed"] == max(macs) and found["strategy"] == "masked"
    assert (member["role"], member["size"], program["steps"]) == ("random", 8, 30)
    wanted = {"steps": 30, "batch": 64, "devices": devices, "timed": [8], "timed_steps": 5}
    assert {key: found[key] for key in wanted} == wanted
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert found["checkpoint_bytes"] == state_bytes
    batch = 64 // devices * (8 * 8 + 4 + 4)  # images, labels and ids
    memory = found["memory"]
    assert memory["arguments"] == state_bytes + batch
    assert memory["peak"] >= memory["arguments"] + memory["temporaries"]
    for key in ("step", "total"):
        assert 0 < found[key]["low"] <= found[key]["seconds"] <= found[key]["high"]


def test_memory_of_a_run_block_by_block(capsys: Capture) -> None:
    found = told(capsys, "--devices", 1, "--train.strategy", "blockwise")
    memory = found["memory"]
    assert found["strategy"] == "blockwise" and memory["outputs"] == 4 * found["parameters"]
    assert memory["peak"] == sum(memory[key] for key in ("arguments", "outputs", "temporaries"))


def test_what_is_shown(tmp_path: pathlib.Path, capsys: Capture) -> None:
    said = supernet(capsys, *TRAIN, "--devices", 8)
    assert said.status == 0
    out = " ".join(said.out.split())
    for words in (
        "tiny: 30 steps of 64 images, 8 on each of 8 devices",
        "472 shared parameters, random members masked",
        "1 30 random 8",
        "memory per device arguments",
        "checkpoint",
        "compilation 1 program; program 1:",
        "5 steps of program 1)",
        "whole run",
    ):
        assert words in out
    assert "rehearsing: 7 of 7 stages" in said.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", CONFIG, "--json", "--out", "x"), "--json needs --dry-run"),
        ((*TRAIN, "--train.batch", 60), "train.batch is 60, which does not split over 8 devices"),
    ],
)
def test_mistakes(command: tuple[object, ...], words: str, capsys: Capture) -> None:
    said = supernet(capsys, *command)
    assert said.status == 2 and said.out == ""
    assert said.err.startswith("supernet: ") and words in said.err


# --- programs and estimates ------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [strategies.masked, strategies.switched])
def test_programs_of_a_run(strategy: Any) -> None:
    several = recipe((8, 12, 16), strategy=strategy)
    counted = dry_run.programs(several, 50)
    uses = collections.Counter(train_step.step_sizes(several, step=i) for i in range(50))
    assert {p.sizes: p.steps for p in counted} == uses and len(uses) == 3
    assert [p.steps for p in counted] == sorted(uses.values(), reverse=True)
    space, macs = several.space, costs.macs(several.space)
    largest, smallest = (pick(space.menu) for pick in (choices.largest, choices.smallest))
    for program in counted:
        first, second, *random = program.members
        assert first == Member("largest", 16, int(macs(largest)), int(macs(largest)))
        assert second == Member("smallest", 8, int(macs(smallest)), int(macs(smallest)))
        r = random[0].size
        low, high = (
            int(macs({**a, "resolution": np.int32(r // 4 - 2)})) for a in (smallest, largest)
        )
        assert len(random) == 2 and random[0] == random[1] and random[0].role == "random"
        assert low < random[0].macs < high
        assert random[0].computed == (high if strategy is strategies.masked else random[0].macs)
        assert program.computed == sum(member.computed for member in program.members)


def test_long_runs_are_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    several = recipe((8, 12))
    monkeypatch.setattr(dry_run, "COUNTED", 40)
    exact = {p.sizes: p.steps for p in dry_run.programs(several, 40)}
    scaled = {p.sizes: p.steps for p in dry_run.programs(several, 4000)}
    assert scaled == {resolutions: 100 * n for resolutions, n in exact.items()}


def test_total_scales_other_programs_by_macs() -> None:
    dear = Program((Member("random", 16, 80, 400),), 30)
    cheap = Program((Member("random", 8, 20, 100),), 70)
    found = dry_run.total([cheap, dear], dear, Range(2.0, 1.0, 4.0), 10.0)
    assert found == Range(10 + 30 * 2.0 + 70 * 0.5, 10 + 30 * 1.0 + 70 * 0.25, 10 + 100 * 4.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.01234, "0.0123 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min")),
        *((11_520, "3 h 12 min"), (200_000, "2 d 7 h")),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert dry_run.spelt(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 * 2**29, "1.5 GiB")],
)
def test_bytes_in_words(size: int, words: str) -> None:
    assert dry_run.spelt_bytes(size) == words
