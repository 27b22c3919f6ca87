"""Every published system as a run: each file of `tests/systems` holds a small configuration.

What is here holds for all of them: exact counts, training that goes on to the bit after a kill, a
search with its report, and extraction with a proof in every format.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.evaluation.costs.parameters import left_out
from supernet_jax.experiment import codes, config, train
from supernet_jax.experiment.build import Experiment
from supernet_jax.networks.formats import table
from supernet_jax.storage import checkpoint
from supernet_jax.training import train_step
from supernet_jax.training.job import Job

FILES = sorted((pathlib.Path(__file__).parent / "systems").glob("*.py"))
FORMATS = tuple(
    format.name for format in table.FORMATS if format.blocks is None and format.name != "orbax"
)
EVALUATIONS = 6
# On all devices: a sampler that learns codes, and one that does not. Others on one, which compiles
# in two thirds of the time; that the number of devices changes nothing is tests/runtime's affair.
ON_ALL_DEVICES = ("darts", "hat")


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sj.Run]:
    """Trained. Leave its folder as it is: copy it.

    Until the next system, whoever trains takes the programs of this one's step: they carry nothing
    from one step to the next, and compiling them is most of the time.
    """
    settings, _ = config.load_file(request.param)
    # All strategies do the same (test_theorem), and this one compiles soonest.
    scoring = dataclasses.replace(settings.evaluation, strategy="masked")
    settings = dataclasses.replace(settings, evaluation=scoring)
    job, steps = train.job, []

    def job_of_one_step(built: Experiment, folder: pathlib.Path) -> Job:
        made = job(built, folder)
        if not steps:
            how: Any = {"mesh": made.mesh, "rules": made.rules, "steps": made.steps}
            steps.append(train_step.Step(made.recipe, **how))
        return made._replace(step=steps[0])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "job", job_of_one_step)
        name = request.param.stem
        folder = tmp_path_factory.mktemp("systems") / name
        yield sj.train(settings, folder, devices=0 if name in ON_ALL_DEVICES else 1)


def test_killed_runs_go_on_to_the_bit(run: sj.Run, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    shutil.rmtree(copy / "checkpoints" / str(run.step))
    assert checkpoint.steps(copy / "checkpoints")[-1] < run.step
    again = sj.train(run.experiment.config, copy, devices=run.experiment.mesh.size)
    assert again.step == run.step
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)


def test_a_search_has_a_front_and_a_report(run: sj.Run, tmp_path: pathlib.Path) -> None:
    metric = run.space.task.metric
    copy = run._replace(folder=shutil.copytree(run.folder, tmp_path / "run"))
    front = sj.search(copy, searcher="random", evaluations=EVALUATIONS, baseline=False)
    values, costs = [entry.value for entry in front], [entry.cost for entry in front]
    assert sorted(map(metric.score, values)) == [metric.score(value) for value in values]
    assert sorted(costs) == costs
    page = sj.report(copy).read_text(encoding="utf-8")
    assert f"{metric.name.capitalize()} over MACs" in page and run.space.name in page


def test_what_a_sampler_has_learned_is_read_off_the_folder(run: sj.Run) -> None:
    """Whether it is the sampler's state or, as of superkernels, shared parameters."""
    sampler = run.experiment.recipe.sampler
    if sampler.learn is None:
        with pytest.raises(sj.UserError, match="learns no code"):
            codes.code_of(run)
        return
    code = codes.code_of(run)
    shares = np.concatenate(jax.tree.leaves(code))
    assert np.all(shares >= 0) and np.any(shares > 0.5)
    argmax = codes.arch_of(run, codes.ARGMAX)  # each system has one size of inputs
    for weights, option in zip(*map(jax.tree.leaves, (code, argmax)), strict=True):
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        assert weights[option] == weights.max()


def test_what_is_taken_out_is_the_same(run: sj.Run, tmp_path: pathlib.Path) -> None:
    drawn = choices.sample(run.space.menu, jax.random.key(4))
    arch = jax.tree.map(np.asarray, drawn)
    made: Any = sj.extract(run, arch, tmp_path / "network", formats=FORMATS)
    assert made.proof <= 1e-5 and set(made.formats) == set(FORMATS)
    if all(block.group is None for block in run.space.blocks.values()):  # else some count twice
        counted = sj.parameters(run.space)(arch) + left_out(run.space)(arch)
        assert made.parameters == counted and made.macs == sj.macs(run.space)(arch)
    module, _ = sj.load(tmp_path / "network")
    assert module.task == run.space.task and module.size == run.space.size_of(arch)
