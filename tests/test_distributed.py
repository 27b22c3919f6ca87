"""One device, eight devices and two processes train the same supernet.

The batch is split, so sums over it (losses, BatchNorm's statistics, gradients) are added in another
order: float32 rounding, 6e-8 per operation. Training carries it on from step to step, hence the
tolerances are 1e-5 for the first step and 1e-3 for all of a short run. Distillation is by soft
cross-entropy: the adaptive alpha-divergence picks one of two divergences for each image, and where
they nearly tie, rounding decides which.
"""

import json
import os
import pathlib
import subprocess
import sys

import conftest
import numpy as np
import processes
import pytest

STEPS = 6
OPTIONS = ("--train.steps", STEPS, "--train.checkpoint-every", STEPS)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    text = processes.CONFIG.replace(
        "    optimizer=", "    loss=SoftCrossEntropy(),\n    optimizer="
    )
    text = text.replace("import Config,", "import SoftCrossEntropy, Config,")
    return processes.write_config(tmp_path_factory.mktemp("config"), text)


def train(config: pathlib.Path, folder: pathlib.Path, *, devices: int) -> pathlib.Path:
    status, out, err = processes.finish(
        processes.start("train", config, "--out", folder, *OPTIONS, devices=devices)
    )
    assert status == 0 and f"trained {STEPS} steps" in out, err
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, config: pathlib.Path) -> pathlib.Path:
    return train(config, tmp_path_factory.mktemp("alone") / "run", devices=1)


def losses(folder: pathlib.Path) -> np.ndarray:
    """`[steps, members]`."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if name.startswith("loss/")]
    assert len(names) >= 3 and [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return np.asarray([[line[name] for name in names] for line in lines])


def same(one: pathlib.Path, other: pathlib.Path) -> None:
    a, b = losses(one), losses(other)
    np.testing.assert_allclose(b[0], a[0], rtol=1e-5)
    np.testing.assert_allclose(b, a, rtol=1e-3)
    first, second = processes.state(one, STEPS), processes.state(other, STEPS)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.dtype == np.float32:
            size = max(np.abs(value).max(), 1e-3)
            assert np.abs(second[name] - value).max() < 1e-3 * size, name
        else:
            assert np.array_equal(second[name], value), name


def test_eight_devices(alone: pathlib.Path, config: pathlib.Path, tmp_path: pathlib.Path) -> None:
    same(alone, train(config, tmp_path / "run", devices=8))


def test_two_processes_and_a_resume_on_one(
    alone: pathlib.Path, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    launch([config, "--out", folder, *OPTIONS], devices=2)
    same(alone, folder)
    # What two processes wrote is evaluated by one.
    done = processes.start("evaluate", folder, "--archs", "smallest", "--config", config)
    status, out, err = processes.finish(done)
    assert status == 0 and "1 subnet" in out, err


def launch(arguments: list, *, devices: int) -> None:
    """`launch/local.py` with two processes of so many devices each."""
    script = conftest.ROOT / "launch" / "local.py"
    done = subprocess.run(
        [sys.executable, script, "--processes", "2", "--", *map(str, arguments)],
        env={**processes.environment(devices), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"trained {STEPS} steps" in done.stdout
