"""What `supernet launch` writes and refuses, for every system alike."""

import dataclasses
import os
import pathlib
import shlex
import signal
import threading

import pytest
from conftest import ROOT

from supernet_jax import errors
from supernet_jax.cli import main
from supernet_jax.launching import LAUNCHERS, Script, accelerators
from supernet_jax.runtime import stopping

GOLDEN = pathlib.Path(__file__).parent / "golden"
# A command line of each system, whose script is in a file of the same name in `golden/`.
COMMANDS = {
    "slurm_gpus.sbatch": "slurm configs/digits.py --out runs/a --nodes 2 --gpus 8 "
    "-- --train.steps 2000",
    "slurm_cpu.sbatch": "slurm configs/digits.py --out /shared/run_7 --gpus 0 --partition debug "
    "--account me --time 1:00:00 --setup 'source .venv/bin/activate' --restarts 3",
    "tpu_slices.sh": "tpu configs/digits.py --out gs://bucket/runs/a --zone us-east5-b "
    "--accelerator v6e-16 --slices 2 --capacity spot --project p-1 -- --train.steps 2000",
    "sky_tpu.yaml": "sky configs/digits.py --out gs://bucket/runs/a --accelerator v5e-16 "
    "--capacity spot --cloud gcp",
    "sky_gpus.yaml": "sky configs/digits.py --out s3://bucket/runs/b --accelerator H100:8 "
    "--nodes 2 --restarts 3 --setup 'pip install my_data' -- --train.steps 2000",
}


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Config files are named by their paths in the current folder."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", COMMANDS)
def test_scripts_are_as_in_golden_files(name, capsys):
    words = shlex.split(COMMANDS[name])
    at = words.index("--") if "--" in words else len(words)
    main.main(["launch", *words[:at], "--dry-run", *words[at:]])
    assert capsys.readouterr().out == (GOLDEN / name).read_text("utf-8")


def test_every_system_has_a_golden_file():
    assert {name.split()[0] for name in COMMANDS.values()} == set(LAUNCHERS)


def test_a_file_is_written_once(tmp_path, capsys):
    path = tmp_path / "job"
    command = ["launch", *shlex.split(COMMANDS["slurm_cpu.sbatch"]), "--out-file", str(path)]
    main.main(command)
    assert path.read_text("utf-8") == (GOLDEN / "slurm_cpu.sbatch").read_text("utf-8")
    with pytest.raises(SystemExit) as ended:
        main.main(command)
    assert ended.value.code == 2
    assert "exists already" in capsys.readouterr().err


TPU = "tpu configs/digits.py --out gs://b/a --zone us-east5-b --accelerator"
SKY = "sky configs/digits.py --out gs://b/a --accelerator"
# Wrong command lines, and a part of the one line that each gives.
WRONG = [
    ("", "say where"),
    ("slrm configs/digits.py --out a", "did you mean slurm?"),
    ("slurm configs/none.py --out a", "none.py"),
    ("slurm configs/digits.py --out gs:/bucket/a", "--out is 'gs:/bucket/a'"),
    ("slurm configs/digits.py --out ftp://a/b", "allowed: gs://BUCKET"),
    ("slurm configs/digits.py --out a --nodes 0", "--nodes is 0"),
    ("slurm configs/digits.py --out a --name Run_1", "--name is 'Run_1'"),
    ("slurm configs/digits.py --out a --name " + 41 * "a", "at most 40 characters"),
    ("slurm configs/digits.py --out a --restarts -1", "--restarts is -1"),
    ("slurm configs/digits.py --out a --partition 'a b'", "no name in SLURM"),
    ("slurm configs/digits.py --out a -- --train.stps 3", "train.stps"),
    ("tpu configs/digits.py --out gs://b/a --accelerator v6e-8", "--zone"),
    ("tpu configs/digits.py --out gs://b/a --zone 'a b' --accelerator v6e-8", "--zone is 'a b'"),
    ("tpu configs/digits.py --out runs/a --zone us-east5-b --accelerator v6e-8", "gs://BUCKET"),
    (f"{TPU} tpu7x-8", "supernet launch gke"),
    (f"{TPU} v6e-7", "nearest are v6e-"),
    (f"{TPU} v6e-8 --capacity sometimes", "on-demand, spot"),
    (f"{TPU} v5p-8 --capacity flex", "for v5e and v6e alone"),
    (f"{TPU} v6e-8 --slices 0", "--slices is 0"),
    (f"{SKY} H100:0", "--accelerator is 'H100:0'"),
    (f"{SKY} v6e-7", "nearest are v6e-"),
    (f"{SKY} tpu7x-8", "GKE only"),
    (f"{SKY} v6e-8 --nodes 2", "--nodes is 2"),
    (f"{SKY} H100 --capacity spott", "did you mean spot?"),
    (f"{SKY} H100 --cloud 'a: b'", "--cloud is 'a: b'"),
    ("sky configs/digits.py --out a --accelerator H100", "gs://BUCKET/a"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_wrong_command_lines_are_refused(line, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["launch", *shlex.split(line)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


SLICES = {
    "v6e-16": ("4x4", 16, 4, "ct6e-standard-4t"),
    "v6e-1": ("1x1", 1, 1, "ct6e-standard-1t"),
    "v5litepod-256": ("16x16", 256, 64, "ct5lp-hightpu-4t"),
    "v5p-8": ("2x2x1", 4, 1, "ct5p-hightpu-4t"),
    "v5p-128": ("4x4x4", 64, 16, "ct5p-hightpu-4t"),
    "tpu7x-16": ("2x2x2", 8, 2, "tpu7x-standard-4t"),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_are_those_of_the_documentation(name):
    found = accelerators.tpu_slice(name)
    assert (found.topology, found.chips, found.hosts, found.machine) == SLICES[name]


@pytest.mark.parametrize(
    ("accelerator", "topology", "said"),
    [
        ("v6-16", "", "did you mean v6e"),
        ("v6e-15", "", "v6e-8, v6e-16"),
        ("v6e-16", "2x8", "has 4x4"),
        ("v5p-7", "", "v5p-8"),
        ("v6e", "", "none of v5e-N"),
    ],
)
def test_slices_that_do_not_exist_are_refused(accelerator, topology, said):
    with pytest.raises(errors.UserError, match=said):
        accelerators.tpu_slice(accelerator, topology)


def test_options_of_every_system_have_words():
    for launcher in LAUNCHERS.values():
        assert launcher.__doc__
        assert launcher.EXAMPLES.strip().startswith("supernet launch ")
        assert dataclasses.is_dataclass(launcher)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 3), (signal.SIGTERM, 7)])
def test_a_signal_is_left_to_the_command_that_was_started(number, status):
    """Ctrl-C reaches it by itself, which `os.kill` does not play; others are passed on."""
    text = "trap 'exit 7' TERM\nfor i in 1 2 3 4 5; do sleep 0.2; done\nexit 3\n"
    script = Script("a.sh", text, ("bash",))
    with stopping.listening():
        threading.Timer(0.4, os.kill, (os.getpid(), number)).start()
        assert script.start() == status
