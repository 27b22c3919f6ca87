"""Jobs of `supernet launch slurm`, on a whole SLURM of two nodes that runs on this machine."""

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator

import one_slurm
import processes
import pytest
from one_slurm import Job, slurm, until

from supernet_jax.cli import main
from supernet_jax.launching.slurm import Slurm

STEPS = 40
JOB = {"config": "tiny.py", "out": "run", "nodes": 2, "gpus": 0}


def program(path: pathlib.Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n", "utf-8")
    path.chmod(0o700)


@pytest.mark.parametrize("status", [0, 1, 2, 75, 124, 134, 137, 143])
def test_the_script_asks_to_start_again(status, tmp_path, monkeypatch) -> None:
    program(tmp_path / "srun", f"exit {status}")
    program(tmp_path / "scontrol", "echo called: $@")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for restarts in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        text = Slurm(**JOB, restarts=2).script.text
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
        again = status >= 75 and restarts < 2
        assert done.returncode == status and ("called: requeue 7" in done.stdout) == again


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not one_slurm.is_there():
        pytest.skip("needs root, and Debian's slurmctld, slurmd, slurm-client and munge")
    with one_slurm.cluster(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture
def project(
    cluster: dict[str, str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A folder with a config of one program; saves are those at the end and at a signal."""
    text = processes.CONFIG.replace("resolutions=(6, 8)", "resolutions=(8,)")
    text = text.replace("checkpoint_every=4", f"checkpoint_every={STEPS}")
    processes.write_config(tmp_path, text.replace("steps=60", f"steps={STEPS}"))
    monkeypatch.chdir(tmp_path)
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.mark.slow
def test_a_job_that_is_queued_again_ends_with_the_same_bits(project, capfd) -> None:
    def launch(name: str) -> Job:
        main.main(["launch", "slurm", "tiny.py", "--out", name, "--nodes", "2", "--gpus", "0"])
        return Job(project, capfd.readouterr().out)

    whole = launch("whole")
    assert whole.end() == "COMPLETED 0:0 after 0", whole.log()

    job, metrics = launch("parts"), pathlib.Path("parts/metrics.jsonl")
    until(lambda: metrics.exists() and metrics.read_text("utf-8").count("\n") > 2, 300, job.log)
    slurm(project, "scontrol", "requeue", job.id)
    job.start_again()
    assert job.end() == "COMPLETED 0:0 after 1", job.log()
    assert f"of {STEPS} and saved; the same command goes on" in job.log()
    times = map(json.loads, pathlib.Path("parts/times.jsonl").read_text("utf-8").splitlines())
    first, second = [line["step"] for line in times if line.get("event") == "start"]
    assert first == 0 < second < STEPS  # it went on, and did not begin anew
    processes.same_state(pathlib.Path("whole"), pathlib.Path("parts"), STEPS)


@pytest.mark.slow
def test_jobs_that_are_not_started_again(project, tmp_path, capfd) -> None:
    Slurm(**JOB, name="mistaken", overrides=("--train.stps", "3")).script.start()
    mistaken = Job(project, capfd.readouterr().out)
    command = "exec supernet train tiny.py --out alone --coordinator auto"
    alone = Job(project, slurm(project, "sbatch", f"--wrap={command}"))

    program(tmp_path / "supernet", "exit 75")
    Slurm(**JOB, name="often", restarts=1, setup=f"PATH={tmp_path}:$PATH").script.start()
    often = Job(project, capfd.readouterr().out)
    often.start_again()
    assert often.end() == "FAILED 75:0 after 1", often.log()
    assert often.log().count("queued again") == 1 and "(--restarts)" in often.log()

    assert mistaken.end() == "FAILED 2:0 after 0", mistaken.log()
    assert "train.stps" in mistaken.log()
    assert alone.end() == "FAILED 2:0 after 0", alone.log()
    assert "Slurm set SLURM_JOB_ID, SLURM_PROCID but not" in alone.log()
    assert len(alone.log().splitlines()) == 1
