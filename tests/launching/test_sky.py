"""The task file of `supernet launch sky` is what SkyPilot takes, and its script starts again."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from supernet_jax.launching.sky import Sky

GOLDEN = sorted((pathlib.Path(__file__).parent / "golden").glob("sky_*.yaml"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a job's script on a node, where training ends with these statuses; what was started."""
    monkeypatch.chdir(ROOT)
    activate = tmp_path / "venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text('PATH="$HOME/venv/bin:$PATH"')
    program = activate.with_name("supernet")
    program.write_text(
        '#!/bin/bash\necho "$*" >>"$HOME/starts"\n'
        'exit "$(sed -n "$(wc -l <"$HOME/starts")p" "$HOME/statuses")"\n'
    )
    program.chmod(0o755)

    def run(statuses, **options):
        (tmp_path / "statuses").write_text("\n".join(map(str, statuses)) + "\n")
        job = Sky(config="configs/digits.py", out="gs://bucket/a", **options)
        task = yaml.safe_load(job.script.text)
        node = {
            "HOME": str(tmp_path),
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
        }
        ended = subprocess.run(["bash", "-e", "-c", task["run"]], env={**os.environ, **node})
        return ended.returncode, (tmp_path / "starts").read_text().splitlines()

    return run


@pytest.mark.parametrize(
    ("statuses", "ends"),
    [([0], 0), ([75, 124, 139, 0], 0), ([75, 2], 2), ([1], 1), ([75, 75, 75, 137], 137)],
)
def test_training_is_started_again_after_what_may_pass(run, statuses, ends):
    status, starts = run(statuses, accelerator="H100:8", restarts=3)
    assert status == ends
    assert len(starts) == len(statuses)
    assert "--coordinator" not in starts[0]


def test_nodes_find_each_other(run):
    _, (started,) = run([0], accelerator="H100:8", nodes=2)
    assert started.endswith("--coordinator 10.0.0.1:8476 --processes 2 --process 1")


def test_hosts_of_a_slice_find_each_other(run):
    _, (started,) = run([0], accelerator="v6e-16")
    assert "--coordinator auto" in started and "--process" not in started


@pytest.mark.skipif(not importlib.util.find_spec("sky"), reason="needs skypilot, which is large")
def test_skypilot_takes_the_task_files(tmp_path):
    check = "import sky, sys; [sky.Task.from_yaml(path) for path in sys.argv[1:]]"
    command = [sys.executable, "-c", check, *map(str, GOLDEN)]
    subprocess.run(command, env={**os.environ, "HOME": str(tmp_path)}, check=True)
