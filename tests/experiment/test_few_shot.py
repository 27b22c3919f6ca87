"""Few-shot NAS: a supernet is trained, looked at, split, trained on, and split again."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tiny_run
from tiny_config import TinySpace
from tiny_config import config as TINY
from tiny_run import supernet

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, splits
from supernet_jax.runtime import path_rules
from supernet_jax.spaces import few_shot
from supernet_jax.storage import checkpoint

FILE = """
from tiny_config import TinySpace
import dataclasses, tiny_config
import supernet_jax as sj

config = dataclasses.replace(
    tiny_config.config,
    space=sj.spaces.FewShot(space=TinySpace(), rows={rows!r}),
    train=sj.Train(steps=1, batch=64),
)
"""


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_run.trained(tmp_path_factory)


def leaves(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    found = checkpoint.restore_params(folder / "checkpoints", step=step)
    return {name: np.asarray(leaf) for name, leaf in path_rules.named_leaves(found).items()}


def test_a_supernet_is_split_twice(
    one_shot: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("info", one_shot, "--config", tiny_run.CONFIG, "--splits", "--batches", 1)
    said = supernet(capsys, *asked)
    assert said.status == 0, said.err
    assert "supernet train CONFIG --start-from" in said.out
    first = json.loads(supernet(capsys, *asked, "--json").out)["splits"]
    # The width and the depth leave no weights alone, or those of the head.
    assert {split["decision"] for split in first} == {"kernel/0", "kernel/1", "depth"}
    rows = ("kernel/0=1", "kernel/0=3")
    (split,) = [split for split in first if split["decision"] == "kernel/0"]
    assert tuple(split["rows"]) == rows and split["parts"] == [["1"], ["3"]]
    assert 0 < split["distance"] < 2 and first == sorted(first, key=lambda s: -s["distance"])

    folders, parents = [one_shot], [np.zeros(2, int), np.array([0, 0, 1])]
    second = ("kernel/0=1; kernel/1=1", "kernel/0=1; kernel/1=3", "kernel/0=3")
    for i, wanted in enumerate((rows, second)):
        file, folder = tmp_path / f"split{i}.py", tmp_path / f"split{i}"
        file.write_text(FILE.format(rows=wanted), "utf-8")
        said = supernet(capsys, "train", file, "--out", folder, "--start-from", folders[-1])
        assert said.status == 0, said.err
        before = leaves(folders[-1], (30, 1)[i])
        for name, leaf in leaves(folder, 0).items():
            old = before[name] if i else before[name][None]
            np.testing.assert_array_equal(leaf, old[parents[i]])
        run = sj.open_run(folder, file)
        found = splits.splits(run, batches=1)
        assert all(len(split.rows) == len(wanted) + 1 for split in found)
        folders.append(folder)
    # Of the row of kernels 1 and 1 nothing is left to split but the depth.
    alone = [s.decision for s in found if s.row == second[0]]
    assert alone == ["depth"]
    said = supernet(capsys, "info", folder, "--config", file, "--splits", "--batches", 1)
    assert said.status == 0 and "kernel/0=1; kernel/1=3" in said.out, said.err
    arch = choices.replace(choices.largest(run.space.menu), ("kernel", 0), np.int32(0))
    taken = sj.extract(run, arch, tmp_path / "network")
    assert taken.proof < 1e-4

    file.write_text(FILE.format(rows=("kernel/0=1", "kernel/0=3")), "utf-8")
    said = supernet(capsys, "train", file, "--out", tmp_path / "back", "--start-from", folder)
    assert said.status == 2 and "split rows, do not merge them" in said.err
    assert not (tmp_path / "back").exists()
    said = supernet(
        capsys, "train", tiny_run.CONFIG, "--out", tmp_path / "b", "--start-from", folder
    )
    assert said.status == 2 and "it has a bank of 3 rows" in said.err


def test_where_a_run_begins_is_remembered(
    one_shot: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if it is stopped before its first checkpoint; from then on it goes on from that."""
    file, folder = tmp_path / "split.py", tmp_path / "run"
    file.write_text(FILE.format(rows=("kernel/0=1", "kernel/0=3")), "utf-8")
    command = ("train", file, "--out", folder)
    assert supernet(capsys, *command, "--start-from", one_shot).status == 0
    wanted = leaves(folder, 1)
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").unlink()
    said = supernet(capsys, *command)
    assert said.status == 0 and "as told before" in said.err
    for name, leaf in leaves(folder, 1).items():
        np.testing.assert_array_equal(leaf, wanted[name])
    said = supernet(capsys, *command, "--start-from", one_shot)
    assert said.status == 0 and "goes on from its checkpoint, not from" in said.err
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").unlink()
    (folder / "start_from.json").write_text("3", "utf-8")
    said = supernet(capsys, *command)
    assert said.status == 2 and "start_from.json does not name a run" in said.err


WRONG = {
    "no equals": (("width",), "space.rows has 'width'; write DECISION=OPTION"),
    "a decision": (("kernal/0=1",), r"'kernal/0', which is no decision .* did you mean kernel/0"),
    "an option": (("width=3",), r"names '3' for width, whose options are 2 \| 4 \| 6"),
    "a shape": (("resolution=8",), "splits resolution, a shape"),
    "twice": (("width=2; width=4",), "names width twice"),
    "left out": (("width=2", "width=4"), r"subnets with width=6 are in none of space.rows"),
    "in two": (("width=2|4", "width=4|6"), r"with width=4 are in 'width=2\|4' and 'width=4\|6'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_are_no_partition(name: str) -> None:
    rows, words = WRONG[name]
    part = sj.spaces.FewShot(space=TinySpace(), rows=rows)
    with pytest.raises(UserError, match=words) as met:
        build.build(dataclasses.replace(TINY, space=part))
    assert "\n" not in str(met.value)


def test_rows_are_written_as_they_are_read() -> None:
    space = build.build(TINY).space
    options = few_shot.parse(space, " kernel/1 = 3 ;width=6|2")
    assert options == {("kernel", 1): (1,), ("width",): (0, 2)}
    assert few_shot.written(space, options) == "kernel/1=3; width=2|6"
    assert few_shot.split(space, ()) is space


def test_splits_need_something_to_split(one_shot: pathlib.Path) -> None:
    run = sj.open_run(one_shot, tiny_run.CONFIG)
    few: Any = few_shot.split(run.space, ("width=2", "width=4|6"))
    banked = run._replace(experiment=run.experiment._replace(space=few))
    with pytest.raises(UserError, match="the rows of the bank of tiny are not those of FewShot"):
        splits.splits(banked)
    with pytest.raises(UserError, match="--batch is 1"):
        splits.splits(run, batch=1)
