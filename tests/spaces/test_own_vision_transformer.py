"""The vision transformer of docs/examples, which a user copies: its page, and the way it goes."""

import json
import pathlib
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from conftest import ROOT
from tiny_run import supernet

from supernet_jax.elastic import notation
from supernet_jax.experiment import config
from supernet_jax.experiment import run as experiment_run
from supernet_jax.networks import network_folder
from supernet_jax.training import train_step

FILE = ROOT / "docs" / "examples" / "vision_transformer.py"
# Small enough to compile in seconds; steps are few, so nothing is learnt.
SMALL = (
    *("--space.widths", 4, 6, "--space.heads", 2, "--space.ratios", 1, "--space.depths", 1, 2),
    *("--sampler.n-random", 1, "--train.steps", 3, "--train.batch", 16, "--devices", 1),
    *("--evaluation.batch", 64, "--evaluation.limit", 64),
)
ARCH = '{"resolution": 8, "width": 6, "depth": 1, "heads": [2], "ratio": [1]}'


def test_the_page_shows_the_whole_example() -> None:
    page = (ROOT / "docs" / "vision_transformer.md").read_text("utf-8")
    assert f"```python\n{FILE.read_text('utf-8')}```\n" in page, "copy the example into its page"
    assert "](examples/vision_transformer.py)" in page
    assert "vision_transformer.md" in (ROOT / "mkdocs.yml").read_text("utf-8")


def done(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints that must succeed."""
    said = supernet(capsys, *arguments)
    assert said.status == 0, said
    return said.out


def test_the_way_of_ones_own_vision_transformer(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder, own = tmp_path / "run", tmp_path / "network", ("--config", FILE)
    assert "trained 3 steps" in done(capsys, "train", FILE, "--out", run, *SMALL)

    real = train_step.Step.__call__

    def interrupting(self: Any, state: Any, batch: Any, **how: Any) -> Any:
        if int(state.step) == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, state, batch, **how)

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(train_step.Step, "__call__", interrupting)
        assert supernet(capsys, "train", FILE, "--out", again, *SMALL).status == 130
    assert "trained 3 steps" in done(capsys, "train", FILE, "--out", again, *SMALL)
    opened, other = (
        experiment_run.open_run(one, config.load_file(FILE)[1]) for one in (run, again)
    )
    jax.tree.map(np.testing.assert_array_equal, opened.params, other.params)

    done(capsys, "extract", run, *own, "--arch", ARCH, "--out", folder, "--format", "orbax")
    module, variables = network_folder.load(folder, space_file=FILE)
    assert [block.name for block in module.blocks] == ["embed", "block0", "head"]
    arch = notation.from_notation(opened.experiment.space.menu, json.loads(ARCH))
    images = opened.experiment.dataset.test.images[:16]
    prepared = opened.experiment.prepare(jnp.asarray(images))
    ours = np.asarray(jax.jit(module.apply)(variables, prepared))
    theirs = tiny_run.logits(opened, arch, images)
    assert np.max(np.abs(ours - theirs)) <= 1e-5 * np.max(np.abs(theirs))  # another order of sums
    done(capsys, "report", run, *own)
    assert "vit" in (run / "report.html").read_text("utf-8")
