"""A new method of the library is one file and one line: nine are added as one adds them."""

import pathlib
import shutil
import subprocess
import sys

import processes
from conftest import ROOT

# door -> folder of the library, class of its example
PARTS = {
    "space": ("spaces", "PlainSpace"),
    "sampler": ("training/samplers", "Tilted"),
    "loss": ("training/losses", "LogitMatching"),
    "teacher": ("training/teachers", "Snapshot"),
    "combination": ("training/gradients", "EqualLengths"),
    "optimizer": ("training/optimizers", "Lion"),
    "searcher": ("searching", "Aging"),
    "cost": ("evaluation/costs", "LargestMap"),
    "penalty": ("training/penalties", "Decided"),
}
CONFIG = """
import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.PlainSpace(widths=(4, 6)),
    data=sj.Data(held_out=0.2),
    sampler=sj.samplers.Tilted(n_random=1, tilt=0.5),
    loss=sj.losses.LogitMatching(smoothing=0.0),
    teacher=sj.teachers.Snapshot(every=2),
    combine=sj.gradients.EqualLengths(),
    optimizer=sj.optimizers.Lion(learning_rate=0.01),
    searcher=sj.searching.Aging(population=4, tournament=2),
    costs=(sj.costs.LargestMap(bytes_per_value=2),),
    penalty=sj.penalties.Decided(weight=0.5),
    train=sj.Train(steps=2, batch=16, checkpoint_every=1, log_every=1),
)
"""
# A user's two processes in one: training, and opening the run from nothing but its folder.
SCRIPT = """
import pathlib, sys
import numpy as np
import supernet_jax as sj
from supernet_jax.cli import main
from supernet_jax.experiment.run import open_run

folder = pathlib.Path(sys.argv[1])
file, run = folder / "mine.py", folder / "run"
main.main(["train", str(file), "--out", str(run), "--loss.smoothing", "0.1"])
opened = open_run(run)
config = opened.experiment.config
assert config.space == sj.spaces.PlainSpace(widths=(4, 6))
assert opened.experiment.space.name == "plain"
assert config.sampler == sj.samplers.Tilted(n_random=1, tilt=0.5)
assert config.loss == sj.losses.LogitMatching(smoothing=0.1)
assert config.teacher == sj.teachers.Snapshot(every=2)
assert config.combine == sj.gradients.EqualLengths()
assert config.optimizer == sj.optimizers.Lion(learning_rate=0.01)
assert config.searcher == sj.searching.Aging(population=4, tournament=2)
assert opened.step == 2 and opened.params["block2"]["conv"]["kernel"].shape == (5, 5, 6, 6)
main.main(["search", str(run), "--evaluations", "6", "--searcher.population", "3"])
main.main(["search", str(run), "--evaluations", "6", "--budget", "largest_map:..1e9"])
assert config.costs == (sj.costs.LargestMap(bytes_per_value=2),)
assert config.penalty == sj.penalties.Decided(weight=0.5)
assert sj.costs.LargestMap().build(opened.space)(sj.sample(opened.space, 1)[0]) > 0
print("library:", pathlib.Path(sj.__file__).parent)
"""


def added(library: pathlib.Path, door: str) -> None:
    """A door's example as a file of the library, without its configuration, and its line."""
    folder, kind = PARTS[door]
    source = (ROOT / "docs" / "examples" / f"{door}.py").read_text("utf-8")
    part, ending, _ = source.partition("\nconfig = ")
    assert ending
    (library / folder / "mine.py").write_text(part, "utf-8")
    with (library / folder / "__init__.py").open("a", encoding="utf-8") as init:
        module = ".".join((library.name, *folder.split("/"), "mine"))
        init.write(f"from {module} import {kind}\n")


def test_new_parts_are_a_file_and_a_line_each(tmp_path: pathlib.Path) -> None:
    library = tmp_path / "supernet_jax"
    shutil.copytree(ROOT / "supernet_jax", library, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mine.py").write_text(CONFIG, "utf-8")
    for door in PARTS:
        added(library, door)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=processes.environment() | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"library: {library}" in done.stdout and "trained 2 steps" in done.stdout
