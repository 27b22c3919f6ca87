"""What `supernet launch` writes and refuses, for every system alike."""

import dataclasses
import os
import pathlib
import re
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
    "slurm_cpu.sbatch": "slurm configs/digits.py --out /shared/run_7 --gpus 0 --cpus 16 "
    "--partition debug --account me --time 1:00:00 --restarts 3 "
    "--setup 'source .venv/bin/activate'",
    "gke_slices.yaml": "gke configs/digits.py --out gs://bucket/a --image ghcr.io/me/train:3 "
    "--accelerator v6e-16 --slices 2 --capacity spot -- --train.steps 2000",
    "gke_queue.yaml": "gke configs/digits.py --out /data/a --volume shared:/data "
    "--accelerator v6e-4 --image ghcr.io/me/train:3 --capacity flex --queue tpus "
    "--namespace team --restarts 3",
    "k8s_nodes.yaml": "k8s configs/digits.py --out s3://bucket/a --image me/train@sha256:0a1b "
    "--nodes 2 --gpus 8 --secret keys --node-selector accelerator=h100 -- --train.steps 2000",
    "k8s_cpu.yaml": "k8s configs/digits.py --out /data/runs/a --volume shared:/data --gpus 0 "
    "--image localhost:5000/train:3 --service-account trainer --restarts 0",
    "local.sh": "local configs/digits.py --out runs/a --processes 4 --task search -- --high 3e5",
    "pipeline.sh": "pipeline configs/digits.py --out runs/a/ --budget macs:..300e3 "
    "--budget parameters:1e3.. --seed 2 "
    "--format onnx stablehlo -- --train.steps 50",
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


GKE = "gke configs/digits.py --accelerator v6e-16"
TPU = "tpu configs/digits.py --out gs://b/a --zone us-east5-b --accelerator"
SKY = "sky configs/digits.py --out gs://b/a --accelerator"
# Wrong command lines, and a part of the one line that each gives.
WRONG = [
    ("", "say where"),
    ("slrm configs/digits.py --out a", "did you mean slurm?"),
    ("slurm configs/none.py --out a", "none.py"),
    ("slurm configs/digits.py --out gs:/bucket/a", "gs:/bucket/a has one slash"),
    ("slurm configs/digits.py --out ftp://a/b", "nor in a bucket (gs:// and s3://)"),
    ("slurm configs/digits.py --out a --nodes 0", "--nodes is 0"),
    ("slurm configs/digits.py --out a --name Run_1", "--name is 'Run_1'"),
    ("slurm configs/digits.py --out a --name " + 41 * "a", "at most 40 characters"),
    ("slurm configs/digits.py --out a --restarts -1", "--restarts is -1"),
    ("slurm configs/digits.py --out a --partition 'a b'", "no name in SLURM"),
    ("slurm configs/digits.py --out a -- --train.stps 3", "train.stps"),
    ("gke configs/digits.py --out gs://b/a --accelerator v6e-16", "image"),
    (f"{GKE} --out gs://b/a --image localhost:5000/train", "without a tag or a digest"),
    (f"{GKE} --out gs://b/a --image 'a b:1'", "images are named as"),
    (f"{GKE} --out runs/a --image i:1", "lost with it unless on a --volume"),
    (f"{GKE} --out /data/../a --image i:1 --volume c:/data", "unless on a --volume"),
    (f"{GKE} --out /dat/a --image i:1 --volume c:/data", "unless on a --volume"),
    (f"{GKE} --out /data/a --image i:1 --volume c:data", "must be CLAIM:/PATH"),
    (f"{GKE} --out /data/a --image i:1 --volume c:/", "must be CLAIM:/PATH"),
    (f"{GKE} --out gs://b/a --image i:1 --capacity reserved", "--capacity is 'reserved'"),
    (f"{GKE} --out gs://b/a --image i:1 --queue 'a b'", "--queue is 'a b'"),
    (f"{GKE} --out gs://b/a --image i:1 --node-selector a", "must be KEY=VALUE"),
    (f"{GKE} --out gs://b/a --image i:1 --grace-seconds 0", "--grace-seconds is 0"),
    ("k8s /tmp/digits.py --out gs://b/a --image i:1", "not in the current folder"),
    ("k8s configs/digits.py --out gs://b/a --image i:1 --gpus -1", "--gpus is -1"),
    ("slurm configs/digits.py --out a --time soon", "SLURM takes MINUTES"),
    ("slurm configs/digits.py --out a --time 3", "--time is 3, which leaves no time"),
    ("slurm configs/digits.py --out a --time 3-0 --signal-seconds 70000", "at most 65535"),
    ("slurm configs/digits.py --out a --cpus -1", "--cpus is -1"),
    ("local configs/digits.py --out a --processes 0", "--processes is 0"),
    ("local configs/digits.py --out a --task serve", "--task is 'serve'"),
    ("local configs/digits.py --out a --task search -- --train.steps 3", "train.steps"),
    ("pipeline configs/digits.py --out a --task search", "a pipeline is of all tasks"),
    ("pipeline configs/digits.py --out a --budget macs:9", "NAME:LOW..HIGH"),
    ("slurm configs/digits.py --out a --nodes 3", "train.batch is 64, which does not split over 3"),
    (f"{SKY} H100:5", "does not split over 5 devices; use 60 or 65"),
    (f"{TPU} v6e-64 -- --train.batch 96", "train.batch is 96, which does not split over 64"),
    (f"{TPU} v6e-64 --slices 4", "train.batch is 64, which does not split over 256"),
    ("slurm configs/digits.py --out a -- --out b", "--out cannot follow --"),
    ("slurm configs/digits.py --out a -- --coordinator=auto", "--coordinator=auto cannot follow"),
    ("slurm configs/digits.py --out a --train.steps 3", "is an option of train; put it behind --"),
    ("slurm configs/digits.py --out gs://", "names no bucket"),
    ("slurm configs/digits.py --out a --task evaluate", "say which subnets"),
    (
        "slurm configs/digits.py --out a --task evaluate -- --front --split nope",
        "--split is 'nope'",
    ),
    ("slurm configs/digits.py --out a -- --data.data-dir '\x1b'", "has a control character"),
    (f"{GKE} --out gs://b/a --image i:1 --capacity 'reserved:a b'", "--capacity is 'reserved:a b'"),
    (
        f"{GKE} --out gs://b/a --image i:1 --node-selector cloud.google.com/gke-tpu-topology=2x2",
        "gke-tpu-topology, which is given twice",
    ),
    (f"{TPU} v6e-8 --capacity 'spot:a b'", "--capacity is 'spot:a b'"),
    (f"{TPU} v6e-016", "--accelerator is 'v6e-016'"),
    ("pipeline configs/digits.py --out a --format nope", "nope"),
    ("pipeline configs/digits.py --out a --low 9 --high 3", "the lower one first"),
    (
        "pipeline configs/digits.py --out a --cost latency:none.json",
        "no latency table none.json",
    ),
    ("local --out a", "CONFIG"),
    ("local configs/digits.py", "--out"),
    ("local configs/digits.py --out ''", "--out is ''"),
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
    "tpu7x-2": ("1x1x1", 1, 1, "tpu7x-standard-1t"),
    "v5p-4096": ("8x16x16", 2048, 512, "ct5p-hightpu-4t"),
    "tpu7x-512": ("4x8x8", 256, 64, "tpu7x-standard-4t"),
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


@pytest.mark.parametrize("system", LAUNCHERS)
def test_help_names_every_option(system, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["launch", system, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: supernet launch {system} [-h] [OPTIONS] CONFIG" in shown
    for field in dataclasses.fields(LAUNCHERS[system]):
        hidden = field.name in ("config", "overrides", "search")
        assert hidden or re.search(f"--{field.name.replace('_', '-')}[ ,]", shown), field.name
    for option in ("--dry-run", "--out-file"):
        assert option in shown


def test_options_of_every_system_have_words():
    for launcher in LAUNCHERS.values():
        assert dataclasses.is_dataclass(launcher) and launcher.__doc__
        # Where a class says nothing, `dataclass` makes its signature of it.
        assert not launcher.__doc__.startswith(f"{launcher.__name__}(")
        assert launcher.EXAMPLES.strip().startswith("supernet launch ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 3), (signal.SIGTERM, 7)])
def test_a_signal_is_left_to_the_command_that_was_started(number, status):
    """Ctrl-C reaches it by itself, which `os.kill` does not play; others are passed on."""
    text = "trap 'exit 7' TERM\nfor i in 1 2 3 4 5; do sleep 0.2; done\nexit 3\n"
    script = Script("a.sh", text, ("bash",))
    with stopping.listening():
        threading.Timer(0.4, os.kill, (os.getpid(), number)).start()
        assert script.start() == status
