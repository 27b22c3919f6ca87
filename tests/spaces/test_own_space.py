"""The space of docs/examples, which a user wrote: everything works on it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from conftest import ROOT
from tiny_run import supernet

from supernet_jax.elastic import notation
from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.experiment import run as experiment_run
from supernet_jax.networks import network_folder

FILE = ROOT / "docs" / "examples" / "space.py"
# Small enough to compile in seconds; steps are few, so nothing is learnt.
SMALL = ("--space.widths", 4, 6, "--sampler.n-random", 1, "--train.steps", 2, "--train.batch", 16)
FEW = (
    *("--evaluation.batch", 64, "--evaluation.limit", 64),
    *("--evaluation.calibration-batches", 1, "--evaluation.chunk", 1),
)


def done(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints that must succeed."""
    said = supernet(capsys, *arguments)
    assert said.status == 0, said
    return said.out


def test_the_way_of_ones_own_space(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder, own = tmp_path / "run", tmp_path / "network", ("--config", FILE)
    assert "plain: 27 archs, 4 decisions, 5 elastic blocks" in done(capsys, "info", FILE)
    options = (*SMALL, *FEW, "--devices", 1)  # later commands use all 8
    assert "trained 2 steps" in done(capsys, "train", FILE, "--out", run, *options)

    options = ("--searcher", "random", "--evaluations", 6, "--searcher.batch", 6)
    done(capsys, "search", run, *own, *options)
    result = json.loads((run / "search.json").read_text())
    assert result["evaluations"] == 6 and result["space"] == "plain"
    assert "on 64 held-out images" in done(capsys, "evaluate", run, *own, "--front")

    done(capsys, "extract", run, *own, "--arch", "front:0", "--out", folder)
    with pytest.raises(UserError, match=r"a file of yours.*space_file="):
        network_folder.load(folder)
    module, variables = network_folder.load(folder, space_file=FILE)
    opened = experiment_run.open_run(run, config.load_file(FILE)[1])
    space = opened.experiment.space
    arch = notation.from_notation(space.menu, result["front"][0]["arch"])
    assert [b.name for b in module.blocks] == [
        name for name, block in space.blocks.items() if block.spec(arch) is not None
    ]
    images = opened.experiment.dataset.test.images[:16]
    prepared = opened.experiment.prepare(jnp.asarray(images))
    ours = np.asarray(jax.jit(module.apply)(variables, prepared))
    theirs = tiny_run.logits(opened, arch, images)
    assert np.max(np.abs(ours - theirs)) <= 1e-5 * np.max(np.abs(theirs))  # another order of sums
