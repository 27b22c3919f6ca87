"""A run of adapters: it begins with weights of another run or network, which stay as they are."""

import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from tiny_config import TinySpace
from tiny_config import config as TINY
from tiny_run import supernet

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.experiment import base_weights, build
from supernet_jax.experiment.config import Config
from supernet_jax.runtime import path_rules
from supernet_jax.storage import checkpoint

FILE = """
from tiny_config import TinySpace
import dataclasses, tiny_config
import supernet_jax as sj

config = dataclasses.replace(
    tiny_config.config,
    space=sj.spaces.Adapted(
        space=TinySpace(), base={base!r}, ranks=(1, 2), leaves=("first/.*/kernel", "head/.*/kernel")
    ),
    train=sj.Train(steps=4, batch=64, checkpoint_every=2, ema=0.5),
)
"""
SPACE = sj.spaces.Adapted(space=TinySpace(), ranks=(1, 2), leaves=("head/.*/kernel",))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_run.trained(tmp_path_factory)


def test_from_a_run_to_a_network(
    base: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(FILE.format(base=str(base)), "utf-8")
    command = ("train", file, "--out", folder, "--space.alpha", 4.0)
    said = supernet(capsys, *command)
    assert said.status == 0, said.err
    theirs = path_rules.named_leaves(checkpoint.restore_params(base / "checkpoints"))
    for subtree in ("params", "ema"):
        trained = checkpoint.restore_params(folder / "checkpoints", subtree=subtree)
        ours = path_rules.named_leaves(trained)
        for path, leaf in theirs.items():
            assert np.asarray(ours[path]).tobytes() == np.asarray(leaf).tobytes(), path
        assert np.any(ours["head/transforms/classifier/kernel:low_rank/up"])

    # Killed after its first checkpoint and started again, it is the same; the base may be gone.
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints" / "4")
    said = supernet(capsys, "train", file, "--out", again, "--space.alpha", 4.0)
    assert said.status == 0, said.err
    wanted = checkpoint.restore_params(folder / "checkpoints")
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.restore_params(again / "checkpoints"), wanted
    )

    run = sj.open_run(folder, file)
    assert run.config.space.alpha == 4.0 and run.config.space.space == TinySpace()
    arch = choices.smallest(run.space.menu)
    taken = sj.extract(run, arch, tmp_path / "network")
    network, variables = sj.load(tmp_path / "network", space_file=tiny_run.CONFIG)
    assert [type(block.spec).__name__ for block in network.blocks] == ["FilterSpec", "LinearSpec"]
    assert taken.proof < 1e-4 and "transforms" not in str(jax.tree.structure(variables))


def loaded(part: Any, **data: Any) -> Any:
    """The parameters that a run would begin with."""
    settings = dataclasses.replace(TINY, space=part)
    if data:
        settings = dataclasses.replace(settings, data=sj.data.arrays(**data))
    return base_weights.load(part, build.build(settings))


def test_other_classes(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8)).astype(np.uint8)
    data = {"images": images, "labels": np.arange(20) % 2, "folder": tmp_path}
    part = dataclasses.replace(SPACE, base=str(base), leaves=("first/.*/kernel",), ranks=(1,))
    with pytest.raises(
        UserError, match=r"head/classifier/bias is \[10\] in space.base .* \[2\] for"
    ):
        loaded(part, **data)
    params = loaded(dataclasses.replace(part, trained=("head/classifier/.*",)), **data)
    assert set(params) == {"first", "second"}
    with pytest.raises(UserError, match=r"head/classifier/kernel is .* name it in space.trained"):
        loaded(dataclasses.replace(part, trained=("head/classifier/bias",)), **data)


def test_from_an_extracted_network(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = sj.open_run(base, tiny_run.CONFIG)
    notation = {"resolution": 8, "width": 4, "depth": 1, "kernel": [1, 3]}
    sj.extract(run, notation, tmp_path / "network")
    part = dataclasses.replace(SPACE, base=str(tmp_path / "network"))
    with pytest.raises(UserError, match=r"^space.base: the network needs a file of yours"):
        loaded(part)
    part = dataclasses.replace(part, base_file=str(tiny_run.CONFIG))
    with pytest.raises(
        UserError, match=r"^space.base: the network is not the largest .* space.arch"
    ):
        loaded(part)
    arch = '{"resolution": 8, "width": 4, "depth": 1, "kernel": [1, 3]}'
    params = loaded(dataclasses.replace(part, arch=arch))
    ours, theirs = (tree["first"]["conv"]["kernel"] for tree in (params, run.params))
    np.testing.assert_array_equal(ours[1, 1, :, :4], theirs[1, 1, :, :4])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no base": ({"base": ""}, "space.base is empty; give the folder"),
    "nothing there": ({"base": "nowhere"}, "space.base: "),
    "another space": (
        {"space": TinySpace(widths=(2, 4))},
        r"space.base: the checkpoint is of the space 'tiny', .* width is \[2, 4, 6\], here \[2",
    ),
    "a rank": ({"ranks": (7,)}, r"ranks has 7, but head/classifier/kernel \[6, 10\] .* is 6;"),
    "leaves": ({"leaves": ("neck/.*",)}, "'neck/.*', which matches no parameter"),
    "no JSON": ({"arch": "{"}, "space.arch is not valid JSON"),
    "no arch": ({"arch": "{}"}, "the arch lacks width, depth, kernel"),
    "no space": ({"space": 3}, "space.space is 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line(name: str, base: pathlib.Path) -> None:
    change, words = WRONG[name]
    with pytest.raises(UserError, match=words) as met:
        loaded(dataclasses.replace(SPACE, **({"base": str(base)} | change)))
    assert "\n" not in str(met.value)


def test_types_of_inner_parts_are_checked() -> None:
    inner = sj.spaces.Cifar(dropout="much")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"space\.space\.dropout is 'much', but must be a finite"):
        Config(space=sj.spaces.Adapted(space=inner))
