"""What the command line says of samplers: `supernet table`, and `supernet info --sampler`."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from light_space import CHANNELS, CLASSES, light
from tiny_run import CONFIG, supernet

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.errors import UserError
from supernet_jax.evaluation import proxies
from supernet_jax.experiment import build, config, sampler_visits
from supernet_jax.experiment.config import Train
from supernet_jax.training import recipe, samplers
from supernet_jax.training.losses.loss import cross_entropy
from supernet_jax.training.samplers import (
    Attentive,
    Delayed,
    Phase,
    Preferred,
    Progressive,
    Shift,
    macs_table,
)

Capture = pytest.CaptureFixture[str]


def configured(folder: pathlib.Path, sampler: str, *, steps: int = 30) -> pathlib.Path:
    """The tiny configuration with another sampler."""
    path = folder / "mine.py"
    path.write_text(
        f"{CONFIG.read_text()}\nfrom supernet_jax.training.samplers import *\n"
        f"config = dataclasses.replace(config, sampler={sampler}, train=Train(steps={steps}))\n"
    )
    return path


def built(sampler: Any, *, steps: int = 30) -> build.Experiment:
    settings = config.load_file(CONFIG)[0]
    return build.build(dataclasses.replace(settings, sampler=sampler, train=Train(steps=steps)))


def visited(recipe: recipe.Recipe) -> sampler_visits.Visits:
    """What its sampler visits in 30 steps."""
    steps = np.arange(30)
    return sampler_visits.visits(recipe.space, recipe.sampler, steps, np.zeros_like(steps), seed=0)


def test_a_table_is_made_and_used(tmp_path: pathlib.Path, capsys: Capture) -> None:
    path = tmp_path / "macs.json"
    said = supernet(capsys, "table", CONFIG, "--bins", "5", "--samples", "300", "--out", path)
    assert said.status == 0 and "300 archs in 5 ranges" in said.out
    space = built(Attentive()).space
    assert macs_table.read(path) == macs_table.build(space, bins=5, samples=300)
    recipe = built(Attentive(table=str(path), trials=2)).recipe
    assert recipe.sampler.n_random == 2 and len(recipe.sampler.fixed) == 2
    again = supernet(capsys, "table", CONFIG, "--out", path)
    assert again.status == 2 and "exists already" in again.err
    with pytest.raises(
        UserError, match="table of MACs was made of another space or is damaged: tiny"
    ):
        other = dataclasses.replace(config.Config(), sampler=Shift(table=str(path)))
        build.build(other)


def test_preferred_archs_are_chosen_and_used(tmp_path: pathlib.Path, capsys: Capture) -> None:
    path = tmp_path / "preferred.json"
    command = ("table", CONFIG, "--score", "snip", "--samples", "60", "--bins", "3", "--keep", "3")
    said = supernet(capsys, *command, "--batch", "8", "--out", path)
    assert said.status == 0, said.err
    records = json.loads(path.read_text())
    assert 3 < len(records) <= 9 and all(record["snip"] > 0 for record in records)
    archs = [json.dumps(record["arch"]) for record in records]
    assert len(set(archs)) == len(archs), "60 draws of 24 archs: many came more than once"
    macs = [record["macs"] for record in records]
    assert macs == sorted(macs)
    recipe = built(Preferred(archs=str(path))).recipe
    found = visited(recipe)
    assert set(found.macs["random"].tolist()) == set(macs)
    with pytest.raises(UserError, match="archs of another space"):
        build.build(config.Config(sampler=Preferred(archs=str(path))))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table", "digits", "--score", "snip", "--out", "x.json"), "needs a config file"),
        (("table", "digits", "--score", "snap", "--out", "x.json"), "did you mean snip"),
        (("table", "digits", "--bins", "0", "--out", "x.json"), "--bins is 0"),
        (("info", "digits", "--sampler"), "needs a config file"),
        (("info", "digits", "--out", "x.png"), "--out needs --sampler"),
        (("info", CONFIG, "--sampler", "--archs", "largest"), "give one of them"),
        (("info", CONFIG, "--sampler", "--out", "x.json"), "end it in .png"),
        (("info", CONFIG, "--sampler", "--latency", "x.json"), "--latency needs --archs"),
    ],
)
def test_mistakes(arguments: tuple[object, ...], words: str, capsys: Capture) -> None:
    said = supernet(capsys, *arguments)
    assert said.status == 2 and words in said.err and not pathlib.Path("x.json").exists()


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (Progressive(), "sampler.phases opens 'kernel_size', but space tiny has depth, kernel"),
        (Progressive(phases=(Phase("width", 0.5),)), r"must be a tuple, as \('width',\)"),  # type: ignore[arg-type]
        (Delayed(start_shrink=2.0), "sampler.start-shrink is 2.0, must be from 0 to 1"),
        (Preferred(), "sampler.archs is not set"),
        (Attentive(trials=0), "sampler.trials is 0"),
        (Shift(floor=0.0), "sampler.floor is 0.0, must be above 0"),
        (Attentive(table="nowhere.json"), "no file nowhere.json; `supernet table SPACE"),
    ],
)
def test_samplers_that_cannot_be_built(sampler: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        built(sampler)


def test_what_a_sampler_visits_is_what_training_draws() -> None:
    """The archs of a delayed sandwich, drawn here by hand."""
    recipe = built(Delayed(n_random=1, start_shrink=0.5)).recipe
    found = visited(recipe)
    assert not found.scored and not found.remembers
    assert {role: len(values) for role, values in found.macs.items()} == {
        "largest": 30,
        "smallest": 15,
        "random": 15,
    }
    assert set(found.macs["smallest"]) == {tiny_run.COSTS[0]}
    assert set(found.macs["largest"]) == {tiny_run.COSTS[1]}
    macs = macs_table.reference_macs(recipe.space)  # the space has one resolution
    for step, value in zip(range(15, 30), found.macs["random"], strict=True):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), 0)
        archs = choices.sample(recipe.space.menu, jax.random.split(key, 3)[1], (1,))
        assert int(macs(jax.tree.map(np.asarray, archs))[0]) == value


def test_visits_are_told_and_drawn(tmp_path: pathlib.Path, capsys: Capture) -> None:
    path, picture = configured(tmp_path, "Attentive(bins=4)"), tmp_path / "visits.png"
    said = supernet(capsys, "info", path, "--sampler", "--steps", "9", "--out", picture)
    assert said.status == 0, said.err
    assert "Attentive: 9 of 30 steps" in said.out and "scores candidates on images" in said.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = supernet(capsys, "info", path, "--sampler", "--steps", "9", "--json")
    value = json.loads(said.out)
    assert value["scored"] and not value["remembers"] and len(value["macs"]["random"]) == 18


def test_snip_is_the_sum_over_the_weights_of_the_subnet() -> None:
    """Computed by itself on the subnet's own weights; scales of norms count as 1."""
    space = light()
    params = shared_params.init(space, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, CHANNELS))
    labels = jnp.arange(6) % CLASSES
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if path[-1].key == "scale" else leaf, params
    )
    score = jax.jit(proxies.snip(space, zeroed, images, labels, size=8))
    found = []
    for pick in (choices.smallest, choices.largest):
        arch = pick(space.menu)

        def loss(params: Any, arch: Any = arch) -> Any:
            logits = strategies.sliced(space, params, arch, images, size=8).logits
            return cross_entropy(logits, labels)

        products = jax.tree.map(
            lambda w, g: jnp.sum(jnp.abs(w * g)), params, jax.jit(jax.grad(loss))(params)
        )
        found.append(float(score(arch)))
        assert found[-1] == pytest.approx(float(sum(jax.tree.leaves(products))), rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=0.01)


def test_a_samplers_build_is_given_what_it_names() -> None:
    """Parts that know only the menu, and parts that want more."""

    @dataclasses.dataclass(frozen=True)
    class Old:
        def build(self, *, menu: Any) -> samplers.Sampler:
            return samplers.uniform(menu)

    @dataclasses.dataclass(frozen=True)
    class New:
        def build(self, *, menu: Any, steps: int, space: Any) -> samplers.Sampler:
            assert (steps, space.name) == (30, "tiny") and menu is space.menu
            return samplers.uniform(menu)

    for kind in (Old, New):
        assert built(kind()).recipe.sampler.n_random == 1


def test_phases_can_be_set_on_the_command_line(tmp_path: pathlib.Path, capsys: Capture) -> None:
    said = supernet(capsys, "train", configured(tmp_path, "Progressive()"), "--help")
    assert said.status == 0 and "--sampler.largest-alone" in said.out
    assert "--sampler.phases.1.share" in said.out
