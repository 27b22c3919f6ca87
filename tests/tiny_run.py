"""A run of `tiny_config.py`, trained once for all tests, and how to call the command line."""

import functools
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.cli import main
from supernet_jax.elastic import strategies
from supernet_jax.elastic.choices import Arch
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import build
from supernet_jax.experiment.run import Run

CONFIG = pathlib.Path(__file__).parent / "tiny_config.py"
ARCHS = 24  # in its space
NETWORKS = 18  # that these are: six of them differ in what is decided for a skipped block alone
COSTS = (148, 24_252)  # MACs of the smallest and the largest of them
ARCH = {"resolution": 8, "width": 4, "depth": 1, "kernel": [1, 3]}


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


def supernet(capsys: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """Runs the command line in this process."""
    capsys.readouterr()
    status = 0
    try:
        main.main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    return Said(status, *capsys.readouterr())


def trained(factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the run, trained on first use. Leave it as it is: copy it."""
    folder = factory.getbasetemp() / "tiny_run"
    if not folder.exists():
        _made(folder, ["train", str(CONFIG), "--out", str(folder)])
    return folder


def searched(factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy in which all archs of the space were searched. Leave it as it is: copy it."""
    folder = factory.getbasetemp() / "tiny_run_searched"
    if not folder.exists():
        shutil.copytree(trained(factory), folder)
        options = ["--searcher", "random", "--config", str(CONFIG)]
        _made(folder, ["search", str(folder), *options])
    return folder


def _made(folder: pathlib.Path, arguments: list[str]) -> None:
    """Runs a command that makes a folder; if it fails, none is left for the next test."""
    try:
        main.main(arguments)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def logits(run: Run, arch: Arch, images: np.ndarray) -> np.ndarray:
    """Logits of a subnet inside the supernet, calibrated and run in the plainest way."""
    space, prepare = run.experiment.space, run.experiment.prepare
    calibration = build.evaluation_data(run.experiment, "held-out").calibration
    resolution = space.size_of(arch)
    stats = evaluate.calibrate(
        space,
        run.params,
        arch,
        calibration,
        size=resolution,
        strategy=strategies.sliced,
        prepare=prepare,
    )
    inputs = prepare(jnp.asarray(images))
    sliced = jax.jit(functools.partial(strategies.sliced, space, arch=arch, size=resolution))
    return np.asarray(sliced(run.params, inputs=inputs, stats=stats).logits)
