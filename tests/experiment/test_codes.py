"""What is done with a code that a run's sampler has learned: read, named, evaluated, taken out."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from tiny_run import Said, supernet

import supernet_jax as sj
from supernet_jax.elastic import choices, code_names, notation
from supernet_jax.experiment import codes
from supernet_jax.experiment.config import load_file
from supernet_jax.experiment.read_archs import archs_of
from supernet_jax.experiment.run import Run
from supernet_jax.storage import checkpoint
from supernet_jax.training import train_step

Capture = pytest.CaptureFixture[str]
CONFIG = """
import dataclasses
import supernet_jax as sj
from tiny_config import TinySpace, config as plain

config = dataclasses.replace(
    plain,
    space=TinySpace(),
    sampler=sj.samplers.Darts(learning_rate=0.1),
    train=sj.Train(steps=8, batch=32, checkpoint_every=4, log_every=4, ema=0.9, strategy="masked"),
)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("codes") / "mine.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(config: pathlib.Path) -> Run:
    """Trained, its weights masked by the code. Evaluate and extract as you like."""
    sj.train(load_file(config)[0], config.parent / "run")
    return sj.open_run(config.parent / "run", config, read=False)


def state_of(run: Run) -> Any:
    """All that the checkpoint holds."""
    return checkpoint.restore(run.folder / "checkpoints", train_step.shapes(run.experiment.recipe))


def with_code(run: Run, code: Any) -> Run:
    """The run with a sampler that says something else of its state."""
    recipe = run.experiment.recipe
    sampler = recipe.sampler._replace(learn=recipe.sampler.learn._replace(code=code))
    return run._replace(experiment=run.experiment._replace(recipe=recipe._replace(sampler=sampler)))


def written(run: Run, arch: Any) -> Any:
    return notation.to_notation(run.space.menu, arch)


def test_the_code_is_that_of_the_checkpoint(run: Run) -> None:
    alpha = state_of(run).sampler.alpha
    found = codes.code_of(run)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(jax.nn.softmax(a), b), alpha, found)
    spread = [np.ptp(leaf) for leaf in jax.tree.leaves(found)]
    assert max(spread) > 0.05, "it has learned nothing"
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_a_code_may_depend_on_parameters(run: Run) -> None:
    """They are those that trained, not their average."""

    def code(state: Any, params: Any) -> Any:
        scale = jnp.sum(jnp.abs(params["head"]["classifier"]["bias"]))
        return jax.tree.map(lambda a: jax.nn.softmax(scale * jnp.arange(len(a))), state.alpha)

    state = state_of(run)
    wanted, average = (code(state.sampler, params) for params in (state.params, state.ema))
    found = codes.code_of(with_code(run, code))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert np.max(np.abs(found["width"] - average["width"])) > 1e-3


def test_archs_of_a_code(run: Run) -> None:
    """A static decision has not learned; of several sizes it is the largest."""
    menu = {**run.space.menu, "resolution": choices.Choice((8, 16))}
    space = dataclasses.replace(run.space, menu=menu)
    code = {
        "resolution": np.array([0.9, 0.1]),
        "width": np.array([0.2, 0.5, 0.3]),
        "depth": np.array([1.0, 0.0]),
        "kernel": [np.array([0.25, 0.75]), np.array([0.6, 0.4])],
    }
    known = with_code(run, lambda state, params: code)
    known = known._replace(experiment=known.experiment._replace(space=space))
    (likeliest,) = archs_of(known, "argmax")
    assert written(known, likeliest) == {
        **{"resolution": 16, "width": 4, "depth": 0, "kernel": [3, 1]}
    }
    drawn = choices.stack([codes.drawn(space, code, seed=seed) for seed in range(300)])
    assert set(drawn["resolution"]) == {1} and set(drawn["depth"]) == {0}
    shares = np.bincount(drawn["width"], minlength=3) / 300
    np.testing.assert_allclose(shares, code["width"], atol=0.1)  # 3.4 deviations
    both = np.mean((drawn["kernel"][0] == 1) & (drawn["kernel"][1] == 1))
    np.testing.assert_allclose(both, 0.3, atol=0.1)  # decisions are independent
    again = codes.arch_of(known, "sampled:7")
    assert written(known, again) == written(known, choices.unstack(drawn)[7])


def test_names_among_archs(run: Run, tmp_path: pathlib.Path) -> None:
    code = codes.code_of(run)
    likeliest = jax.tree.map(np.argmax, code)
    smallest = choices.smallest(run.space.menu)
    path = tmp_path / "archs.json"
    path.write_text(json.dumps(["argmax", "smallest", written(run, smallest), "sampled:3"]))
    for given in (path, path.read_text(), ["argmax", "smallest", [smallest], "sampled:3"]):
        found = [written(run, arch) for arch in archs_of(run, given)]
        third = written(run, codes.arch_of(run, "sampled:3"))
        assert found == [written(run, likeliest), *[written(run, smallest)] * 2, third]
    record = sj.evaluate(run, "argmax")[0]
    assert record == sj.evaluate(run, [likeliest])[0]


def test_by_commands(
    run: Run, config: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    def done(*arguments: object) -> Said:
        said = supernet(capsys, *arguments, "--config", config)
        assert said.status == 0, said.err
        return said

    code = codes.code_of(run)
    shown = done("info", run.folder, "--codes").out
    value = json.loads(done("info", run.folder, "--codes", "--json").out)
    likeliest = codes.arch_of(run, "argmax")
    assert value["argmax"] == {
        "arch": written(run, likeliest),
        "macs": sj.macs(run.space)(likeliest),
        "parameters": sj.parameters(run.space)(likeliest),
    }
    assert value["checkpoint"] == 8 and value["codes"] == code_names.named(run.space, code)
    assert list(value["codes"]) == ["depth", "kernel/0", "kernel/1", "width"]
    best = int(np.argmax(code["width"]))
    cells = [f"{p:.3f}{'*' if i == best else ''}" for i, p in enumerate(code["width"])]
    (row,) = [line for line in shown.splitlines() if line.split()[:1] == ["width"]]
    assert row.split() == ["width", *cells]
    assert "step 8" in shown and json.dumps(value["argmax"]["arch"]) in shown

    done("evaluate", run.folder, "--archs", "argmax", "--out", tmp_path / "one.json")
    (record,) = json.loads((tmp_path / "one.json").read_text())
    assert record["macs"] == sj.macs(run.space)(likeliest)
    done("extract", run.folder, "--arch", "sampled:3", "--out", tmp_path / "network")
    network = json.loads((tmp_path / "network" / "network.json").read_text())
    assert network["macs"] == sj.macs(run.space)(codes.arch_of(run, "sampled:3"))


def test_the_last_line_of_training_is_the_code(run: Run) -> None:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    moved = [line for line in lines if line.get("event") == "codes"]
    assert [line["step"] for line in moved] == [4, 8]
    assert moved[-1]["codes"] == code_names.named(run.space, codes.code_of(run))
    assert moved[0]["codes"] != moved[1]["codes"]


def test_options_have_the_names_of_modules() -> None:
    space = sj.spaces.NasBench201(resolution=8, channels=4, cells=1, stages=1).build()
    operations = ("none", "skip", "conv1x1", "conv3x3", "pool3x3")
    assert code_names.option_names(space, ("edge", 3)) == operations
    assert code_names.option_names(space, ("resolution",)) == ("8",)
    assert set(
        code_names.named(space, choices.one_hot(space.menu, choices.smallest(space.menu)))
    ) == {f"edge/{i}" for i in range(6)}


def test_codes_of_another_space(run: Run) -> None:
    other = tiny_config.TinySpace(widths=(2, 4)).build(classes=10, input_channels=1)
    sampler = sj.samplers.Darts().build(menu=other.menu)
    recipe = run.experiment.recipe._replace(sampler=sampler)
    strange = run._replace(experiment=run.experiment._replace(recipe=recipe))
    with pytest.raises(sj.UserError, match=r"sampler/alpha/width as float32\[3\], but .*\[2\]"):
        codes.code_of(strange)
    partial = with_code(run, lambda state, params: {"width": np.ones(3) / 3})
    with pytest.raises(sj.UserError, match=r"code has the shapes \{'width': \(3,\)\}"):
        codes.code_of(partial)
