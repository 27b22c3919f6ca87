"""Run folders and networks that earlier programs wrote open, go on and load as they did.

A folder of `fixtures` holds a run of `tiny_config.py` that was stopped after 3 of 6 steps, with a
search; the parameters that the same program had after step 6; its largest subnet, extracted by
`supernet extract --format orbax safetensors`; and logits of that. `version_0_1_0` has a
`network.json` of version 2, `before_the_rooms` one of version 3.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from conftest import ROOT
from tiny_run import CONFIG, supernet

from supernet_jax.networks import network_folder
from supernet_jax.storage import checkpoint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=["version_0_1_0", "before_the_rooms"])
def old(request: pytest.FixtureRequest) -> pathlib.Path:
    return ROOT / "tests" / "fixtures" / request.param


@pytest.fixture
def run(old: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(old / "run", tmp_path / "run"))


def records(folder: pathlib.Path) -> list[dict]:
    lines = (folder / "evaluations.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_training_goes_on(old: pathlib.Path, run: pathlib.Path, capsys: Capture) -> None:
    settings = ("--train.steps", 6, "--train.checkpoint-every", 3)
    said = supernet(capsys, "train", CONFIG, "--out", run, "--devices", 1, *settings)
    assert said.status == 0 and "trained 6 steps" in said.out, said.err
    found = checkpoint.restore_params(run / "checkpoints", step=6)
    with np.load(old / "params_of_step_6.npz") as expected:
        leaves = jax.tree_util.tree_leaves_with_path(found)
        named = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
        assert set(named) == set(expected.files)
        for name, value in named.items():  # of other processors and compilers, in float32
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_was_evaluated_is_known(run: pathlib.Path, capsys: Capture) -> None:
    before = records(run)
    archs = json.dumps([record["arch"] for record in before])
    said = supernet(capsys, "evaluate", run, "--archs", archs, "--config", CONFIG)
    assert said.status == 0, said.err
    assert "trained for 3 of 6 steps" in said.err
    assert records(run) == before

    # and is found again
    (run / "evaluations.jsonl").unlink()
    said = supernet(capsys, "evaluate", run, "--archs", archs, "--config", CONFIG)
    assert said.status == 0, said.err
    measured = {(r["macs"], r["parameters"]): r for r in records(run)}
    for record in before:
        again = measured[record["macs"], record["parameters"]]
        assert again["accuracy"] == pytest.approx(record["accuracy"], abs=1 / 64)
        assert again["loss"] == pytest.approx(record["loss"], rel=1e-4)


def test_its_front_is_extracted_and_reported(run: pathlib.Path, capsys: Capture) -> None:
    options = ("--arch", "front:0", "--config", CONFIG)
    said = supernet(capsys, "extract", run, *options, "--out", run / "networks" / "first")
    assert said.status == 0, said.err
    assert network_folder.load(run / "networks" / "first", space_file=CONFIG)
    assert supernet(capsys, "report", run, "--config", CONFIG).status == 0


@pytest.mark.filterwarnings("ignore:.* is not the file that the network was extracted with")
@pytest.mark.parametrize("file", [True, False])
def test_its_network_loads(file: bool, old: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path(shutil.copytree(old / "network", tmp_path / "network"))
    if file:  # without Orbax's weights
        shutil.rmtree(folder / "weights")
    module, variables = network_folder.load(folder, space_file=CONFIG)
    with np.load(old / "logits.npz") as expected:
        logits = jax.jit(module.apply)(variables, expected["images"])
        np.testing.assert_allclose(logits, expected["logits"], rtol=1e-4, atol=1e-5)
