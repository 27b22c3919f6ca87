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
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import processes
import pytest

from supernet_jax.errors import UserError
from supernet_jax.launching import run_processes
from supernet_jax.runtime import distributed

STEPS = 6
OPTIONS = ("--train.steps", STEPS, "--train.checkpoint-every", STEPS)
TWO_AXES = (*OPTIONS, "--train.model-devices", 2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    text = processes.CONFIG.replace(
        "    optimizer=", "    loss=SoftCrossEntropy(),\n    optimizer="
    )
    losses = "from supernet_jax.training.losses import SoftCrossEntropy"
    text = text.replace("import dataclasses\n", f"import dataclasses\n\n{losses}\n", 1)
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


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_job_goes_on(
    config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """By `launch local`, which starts all of them again."""
    folder = tmp_path / "run"
    job = start([config, "--out", folder, *OPTIONS], devices=1, restarts=1)
    workers: list[int] = []

    def joined() -> bool:
        children = pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text("utf-8")
        workers[:] = map(int, children.split())
        return (folder / "writer.lock").exists()  # all are there, and compile now

    assert processes.until(job, joined)
    os.kill(workers[1], signal.SIGKILL)
    status, out, err = processes.finish(job)
    assert status == 0 and f"trained {STEPS} steps" in out, err
    assert "supernet: process 1 (on " in err and "has died; this one ends too" in err
    assert "all are started again, 0 more times at most" in err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_a_full_disk_of_one_host_ends_all(config: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Orbax would let them wait for each other for twenty minutes."""
    address = f"localhost:{run_processes.free_port()}"
    command = [sys.executable, "-m", "supernet_jax", "train", config, "--out", tmp_path / "run"]
    command += [*OPTIONS, *TWO_AXES[-2:], "--coordinator", address, "--processes", "2"]
    jobs = [
        subprocess.Popen(
            [
                *(["prlimit", "--fsize=2000"] if i == 1 else []),
                *map(str, [*command, "--process", i]),
            ],
            env=processes.environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    (first, _, one), (second, _, other) = map(processes.finish, jobs)
    assert (first, second) == (2, 2), one + other
    assert f"supernet: cannot write {tmp_path}" in other and "File too large" in other
    assert "supernet: process 1 (on " in one and "ended with status 2, its own line" in one


@pytest.mark.slow
def test_two_processes_and_a_resume_on_one(
    alone: pathlib.Path, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    launch([config, "--out", folder, *TWO_AXES], devices=2)
    same(alone, folder)
    # What two processes wrote is evaluated by one.
    done = processes.start("evaluate", folder, "--archs", "smallest", "--config", config)
    status, out, err = processes.finish(done)
    assert status == 0 and "1 subnet" in out, err

    # Two processes search it as one does.
    other = tmp_path / "searched"
    shutil.copytree(folder, other)
    (other / "evaluations.jsonl").unlink()
    asked = ("--evaluations", 12, "--searcher.population", 6, "--config", config)
    status, _, err = processes.finish(start([folder, *asked], devices=2, task="search"))
    assert status == 0, err
    status, _, err = processes.finish(processes.start("search", other, *asked))
    assert status == 0, err
    together, by_one = (json.loads((run / "search.json").read_text()) for run in (folder, other))
    assert together["all"] == by_one["all"] and len(by_one["all"]) == 12
    lines = (folder / "evaluations.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == len({json.dumps(json.loads(line)["arch"]) for line in lines})

    # The same stopped in the middle, all processes after one step, goes on to the same bits.
    stopped = tmp_path / "stopped"
    job, metrics = (
        start([config, "--out", stopped, *TWO_AXES], devices=2),
        stopped / "metrics.jsonl",
    )
    assert processes.until(job, lambda: metrics.exists() and bool(metrics.read_text("utf-8")))
    job.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    status, out, err = processes.finish(job)
    assert status == 75 and time.monotonic() - begun < 10, err
    # Saved, unless it was compiling a step's program for so long that it gave that step up.
    assert "the same command goes on" in out + err and "Traceback" not in err
    launch([config, "--out", stopped, *TWO_AXES], devices=2)
    processes.same_state(stopped, folder, STEPS)
    assert metrics.read_text("utf-8") == (folder / "metrics.jsonl").read_text("utf-8")


@pytest.mark.slow
def test_one_two_and_four_processes_find_the_same(
    alone: pathlib.Path, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Each of one device, and at least as many candidates, so that each has a device by itself."""
    asked = ("--evaluations", 16, "--searcher.population", 8, "--config", config)
    found: dict[int, tuple[dict, list[str]]] = {}
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        shutil.copytree(alone, folder)
        job = start([folder, *asked], devices=1, task="search", count=count)
        status, _, err = processes.finish(job)
        assert status == 0, err
        result = json.loads((folder / "search.json").read_text("utf-8"))
        del result["run"]
        lines = (folder / "evaluations.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == len(set(lines)) >= len(result["all"]) == 16
        found[count] = result, sorted(lines)
    assert found[1] == found[2] == found[4]


def start(
    arguments: list, *, devices: int, task: str = "train", restarts: int = 0, count: int = 2
) -> subprocess.Popen:
    """Processes of so many devices each."""
    command = [
        str(count),
        str(restarts),
        "supernet",
        task,
        *map(str, arguments),
        "--coordinator",
        "{coordinator}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "supernet_jax.launching.run_processes", *command],
        env={**processes.environment(devices), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(arguments: list, *, devices: int) -> None:
    status, out, err = processes.finish(start(arguments, devices=devices))
    assert status == 0 and f"trained {STEPS} steps" in out, err


def join(config: pathlib.Path, *options: object) -> tuple[int, str]:
    """Exit status and the standard error of a process that joins others."""
    process = processes.start("train", config, "--out", "none", *options)
    status, _, err = processes.finish(process)
    return status, err


def test_others_that_never_come(config: pathlib.Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        address = ("--coordinator", f"localhost:{port}", "--processes", 2)
        status, err = join(config, *address, "--process", 0)
        assert status == 2 and f"port {port} of --coordinator cannot be used" in err
    status, err = join(config, *address, "--process", 1, "--join-seconds", 2)
    assert status == 75 and f"not all of 2 processes at localhost:{port} came within 2 s" in err
    assert len(err.splitlines()) == 1


def test_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ({}, {"SLURM_JOB_ID": "1"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}):
        with monkeypatch.context() as patched:
            for name, value in kind.items():
                patched.setenv(name, value)
            with pytest.raises(UserError, match="found no cluster that says") as met:
                with distributed.joined(distributed.Place("auto", join_seconds=5)):
                    pass
            assert all(f"set {name} but not" in str(met.value) for name in kind)
            assert "\n" not in str(met.value)


@pytest.mark.parametrize(
    ("coordinator", "options", "said"),
    [
        ("nonsense", {"processes": 2}, "not HOST:PORT or auto"),
        ("host:99999", {"processes": 2}, "not HOST:PORT or auto"),
        ("host:1", {"processes": 0}, "must be at least 1"),
        ("host:1", {"processes": 2, "process": 2}, "must be 0 to 1"),
        (None, {"processes": 2}, "need --coordinator"),
    ],
)
def test_wrong_places(coordinator: str | None, options: dict, said: str) -> None:
    with (
        pytest.raises(UserError, match=said),
        distributed.joined(distributed.Place(coordinator, **options)),
    ):
        pass


def test_processes_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would train as one what is not the same."""

    def gathered(own: np.ndarray) -> np.ndarray:
        other = json.dumps(["host1", "0a1b"]).encode().ljust(distributed.LONGEST)
        return np.stack([own, np.frombuffer(other, np.uint8)])

    distributed.check_alike("fingerprints of the data", "0a1c")  # one process is like itself
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", gathered)
    distributed.check_alike("fingerprints of the data", "0a1b")
    with pytest.raises(UserError, match="fingerprints of the data must be the same") as met:
        distributed.check_alike("fingerprints of the data", "0a1c")
    assert "0a1c in process 0" in str(met.value) and "0a1b in process 1 (on host1)" in str(
        met.value
    )
