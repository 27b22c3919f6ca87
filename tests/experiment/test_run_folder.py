"""Run folders: what may change in them, what was left over, and starting from another's weights."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import optax
import pytest
import tiny_run
from conftest import ROOT
from tiny_run import CONFIG, supernet

from supernet_jax.errors import UserError
from supernet_jax.experiment import config, run_folder
from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.storage import checkpoint, lock, user_code
from supernet_jax.training.gradients import DelayedShrinking
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Delayed


@dataclasses.dataclass(frozen=True)
class Constant:
    """An optimiser whose steps do not depend on how many there are."""

    rate: float = 0.1

    def schedule(self, *, steps: int) -> optax.Schedule:
        return optax.constant_schedule(self.rate)

    def build(self, *, steps: int) -> optax.GradientTransformation:
        return optax.sgd(self.rate)


def begun(folder: pathlib.Path, settings: Config) -> pathlib.Path:
    run_folder.start_run(folder, settings)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n', "utf-8")
    return folder


def test_harmless_settings_may_change(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = begun(tmp_path / "run", Config(train=Train(steps=5)))
    other = Config(
        train=Train(steps=5, log_every=3, checkpoint_every=2),
        evaluation=Evaluation(batch=32, chunk=4),
        data=Data(threads=1),
    )
    run_folder.start_run(folder, other)
    assert config.read(folder / "config.json") == other
    assert "train.log_every is 10 there and 3 now" in caplog.text
    with pytest.raises(UserError, match=r"another configuration \(data\.flip is false there"):
        run_folder.start_run(folder, dataclasses.replace(other, data=Data(flip=True)))
    assert config.read(folder / "config.json") == other


def test_a_longer_run_where_steps_are_the_same(tmp_path: pathlib.Path) -> None:
    def settings(steps: int, **parts: object) -> Config:
        return Config(train=Train(steps=steps), **{"optimizer": Constant(), **parts})

    types = {"Constant": Constant}
    folder = begun(tmp_path / "run", settings(5))
    run_folder.start_run(folder, settings(9))
    assert config.read(folder / "config.json", types).train.steps == 9
    with pytest.raises(UserError, match="steps is 9 there and 5 now"):
        run_folder.start_run(folder, settings(5))

    own = user_code.run(ROOT / "docs" / "examples" / "combination.py").EqualLengths()
    combined = begun(tmp_path / "combined", settings(5, combine=own))
    run_folder.start_run(combined, settings(9, combine=own))  # its `build` takes no steps

    parts = {"optimizer": Sgd()}, {"sampler": Delayed()}, {"combine": DelayedShrinking()}
    for i, part in enumerate(parts):
        other = begun(tmp_path / str(i), settings(5, **part))
        with pytest.raises(UserError, match=r"cannot go on to 9; .*--start-from") as met:
            run_folder.start_run(other, settings(9, **part))
        assert str(other) in str(met.value)


def test_what_a_first_start_left_over(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".config.json.x1.unfinished").touch()
    (folder / lock.FILE).touch()
    with run_folder.writing(folder, Config()):
        assert config.read(folder / "config.json") == Config()
        with pytest.raises(UserError, match="is being written by process"):
            with run_folder.writing(folder, Config()):
                pass


def test_a_folder_of_something_else(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"not a run \(thesis\.tex\); choose another --out"):
        with run_folder.writing(tmp_path, Config()):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file, not the folder"):
        with run_folder.writing(tmp_path / "thesis.tex", Config()):
            pass


def test_starts_from_the_weights_of_another_run(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, folder = tiny_run.trained(tmp_path_factory), tmp_path / "further"
    more = ("--train.steps", 1, "--train.seed", 7)
    said = supernet(capsys, "train", CONFIG, "--out", folder, "--start-from", first, *more)
    assert said.status == 0, said.err
    subtree = (
        "ema"
        if json.loads((first / "config.json").read_text("utf-8"))["train"]["ema"]
        else "params"
    )
    there = checkpoint.restore_params(first / "checkpoints", subtree=subtree)
    here = checkpoint.restore_params(folder / "checkpoints", step=0)
    jax.tree.map(np.testing.assert_array_equal, here, there)

    said = supernet(
        capsys, "train", CONFIG, "--out", tmp_path / "no", "--start-from", tmp_path / "x"
    )
    assert said.status == 2 and "there is no" in said.err
