"""Weights from elsewhere: what is mapped, that the network stays the same, and what is refused."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import conftest
import flax
import jax
import numpy as np
import processes
import pytest
import tiny_run
from image_files import folder
from test_channel_order import sort as sorted_channels
from test_extract import variables_of
from test_train_step import QUICK, bitwise
from theorem import largest_difference
from tiny_run import supernet
from tiny_space import tiny

from supernet_jax.data import class_rows
from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, config, imports, run, teaching, train
from supernet_jax.networks import extract, manifest, network, network_folder
from supernet_jax.networks.importers import (
    attentivenas,
    plain_network,
    tensor_mapping,
    weight_files,
)
from supernet_jax.spaces import mobilenet
from supernet_jax.storage import checkpoint, safetensors_file
from supernet_jax.training import loop

TINY = tiny()  # blocks of every kind: both shortcuts, with and without expansion, squeeze-excite
LARGEST = choices.largest(TINY.menu)
SPACES = {"tiny": TINY, "digits": mobilenet.digits()}
SPLITS = ("train", "test")
Tensors = dict[str, np.ndarray]
F = np.float32


def published(space: Space, params: Any) -> Tensors:
    """What the published code would have saved of a model with these parameters."""
    flat = flax.traverse_util.flatten_dict(params)
    found = {}
    for name, place in attentivenas.places(space).items():
        found[name] = np.ascontiguousarray(flat[place.leaf].transpose(np.argsort(place.axes)))
    left = attentivenas.spares(space).items()
    return {**found, **{name: np.full(spare.shape, 0.5, np.float32) for name, spare in left}}


@functools.cache
def example() -> Tensors:
    return published(TINY, variables_of(TINY)[0])


# --- the mapping -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_any_space_of_the_family_is_mapped_to_the_bit(name: str) -> None:
    space = SPACES[name]
    params = variables_of(space)[0]
    file = published(space, params)
    found, report = attentivenas.load(file, space)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert len(report.mapped) == len(jax.tree.leaves(params)) == len({*report.mapped})
    assert len(report.mapped) + len(report.left) == len(file)
    stages = len(space.menu["depth"])
    blocks = [n for n in space.blocks if n not in ("stem", "head")]
    assert sum(attentivenas.NEVER_READ in line for line in report.left) >= len(blocks) - stages
    assert f"blocks.{len(blocks) - 1}.mobile_inverted_conv.depth_conv.conv.conv.weight" in file


def test_layouts_are_those_of_pytorch() -> None:
    file, params = example(), attentivenas.load(example(), TINY)[0]
    kernel = file["first_conv.conv.conv.weight"]
    assert kernel.shape == (8, 2, 3, 3) and params["stem"]["conv"]["kernel"].shape == (3, 3, 2, 8)
    assert params["stem"]["conv"]["kernel"][0, 2, 1, 7] == kernel[7, 1, 0, 2]
    linear = file["classifier.linear.linear.weight"]
    assert params["head"]["classifier"]["kernel"][3, 4] == linear[4, 3]
    assert tensor_mapping.Place(("k",), (3, 3, 2, 8), (2, 3, 1, 0)).wanted == (8, 2, 3, 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floats_of_any_width(dtype: str, tmp_path: pathlib.Path) -> None:
    safetensors_file.write(
        tmp_path / "x.safetensors", {n: t.astype(dtype) for n, t in example().items()}
    )
    found, _ = attentivenas.load(weight_files.read(tmp_path / "x.safetensors"), TINY)
    wanted = variables_of(TINY)[0]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))
    assert largest_difference(found, wanted) <= {"float64": 0, "float16": 1e-3}.get(dtype, 4e-3)


def test_statistics_and_unread_shortcuts_may_be_missing() -> None:
    only = {name: example()[name] for name in attentivenas.places(TINY)}
    found, report = attentivenas.load(only, TINY)
    assert report.left == ()
    jax.tree.map(np.testing.assert_array_equal, found, attentivenas.load(example(), TINY)[0])


def test_images_normalised_otherwise_give_the_same_logits() -> None:
    params = variables_of(TINY)[0]
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype(np.float32)
    ratio = np.asarray([1.25, 0.5], np.float32)
    run = jax.jit(lambda p, x: strategies.sliced(TINY, p, LARGEST, x, size=8).logits, **QUICK)
    wanted = run(params, images * ratio)  # as the published network was trained
    adapted = tensor_mapping.rescaled(params, attentivenas.STEM, ratio)
    assert largest_difference(run(adapted, images), wanted) < 1e-5
    assert largest_difference(run(params, images), wanted) > 1e-3


# --- tensors that are not those of the space ----------------------------------------------------


def without(name: str) -> Callable[[Tensors], Any]:
    return lambda file: file.pop(name)


def changed(name: str, value: Any) -> Callable[[Tensors], Any]:
    return lambda file: file.__setitem__(name, value)


FIRST = "first_conv.conv.conv.weight"
WRONG_TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (without(FIRST), f"{FIRST} is missing"),
    "misspelt": (
        lambda file: file.__setitem__(f"{FIRST}s", file.pop(FIRST)),
        f"{FIRST} is missing; did you mean {FIRST}s?",
    ),
    "all of another": (
        lambda file: file.update({f"x.{name}": file.pop(name) for name in list(file)}),
        "more are missing; is it",
    ),
    "unknown": (changed("blocks.9.x", F([1])), "which has no blocks.9.x"),
    "misshapen": (changed(FIRST, np.ones((8, 3, 3, 3), F)), "[8, 3, 3, 3], but in a published"),
    "misshapen bias": (changed("classifier.linear.linear.bias", F([1])), "it has [5]"),
    "misshapen, unread": (
        changed("blocks.1.shortcut.conv.conv.weight", F([1])),
        "blocks.1.shortcut.conv.conv.weight has the shape [1]",
    ),
    "integers": (changed(FIRST, np.ones((8, 2, 3, 3), np.int8)), "is of int8"),
    "too large": (changed(FIRST, np.full((8, 2, 3, 3), 1e300)), "too large for float32"),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_tensors_that_are_refused(case: str) -> None:
    change, message = WRONG_TENSORS[case]
    file = dict(example())
    change(file)
    with pytest.raises(UserError) as told:
        attentivenas.load(file, TINY)
    assert message in str(told.value)


def test_spaces_of_another_family_are_refused() -> None:
    other = config.load_file(tiny_run.CONFIG)[0].space.build(classes=10, input_channels=1)
    with pytest.raises(
        UserError, match="tiny is not of the AttentiveNAS family: first/conv/kernel"
    ):
        attentivenas.load(example(), other)


# --- an ordinary network ------------------------------------------------------------------------


@functools.cache
def ordinary() -> tuple[network.Network, Any]:
    params, stats = variables_of(TINY)
    return extract.extract(TINY, params, LARGEST, stats)


@pytest.mark.parametrize("sort", [False, True])
def test_the_largest_subnet_is_the_network(sort: bool) -> None:
    made, variables = ordinary()
    key = jax.random.key(3)
    params, stats, report = plain_network.load(made, variables, TINY, key=key, sort=sort)
    assert len(report.mapped) == len(jax.tree.leaves(variables["params"]))
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 2)).astype(np.float32)
    assert extract.prove(TINY, params, LARGEST, stats, made, variables, images) < 1e-5
    start = jax.jit(lambda key: shared_params.init(TINY, key), **QUICK)(key)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, start)
    # The largest subnet keeps its width in stage 1, so this kernel is none of it.
    kernel = params["stage1_block1"]["shortcut"]["kernel"]
    np.testing.assert_array_equal(kernel, start["stage1_block1"]["shortcut"]["kernel"])
    assert bitwise(sorted_channels(TINY)(params), params) == sort


def test_statistics_move_with_their_channels() -> None:
    """With those of the network in the old order, its logits would be others."""
    made, variables = ordinary()
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 2)).astype(np.float32)
    key = jax.random.key(3)
    params, _, _ = plain_network.load(made, variables, TINY, key=key, sort=True)
    _, unsorted, _ = plain_network.load(made, variables, TINY, key=key)
    with pytest.raises(UserError, match="is not the subnet"):
        extract.prove(TINY, params, LARGEST, unsorted, made, variables, images)


def test_networks_that_are_refused() -> None:
    key = jax.random.key(0)
    params, stats = variables_of(TINY)
    small = extract.extract(TINY, params, choices.smallest(TINY.menu), stats)
    with pytest.raises(UserError, match=r"not the largest subnet .* its resolution is 6, that"):
        plain_network.load(*small, TINY, key=key)
    narrow = choices.replace(LARGEST, ("width", 1), np.int32(0))
    with pytest.raises(UserError, match=r"its block stage1_block1 is MBConv\(c_in=8, c_out=4"):
        plain_network.load(*extract.extract(TINY, params, narrow, stats), TINY, key=key)
    row = choices.Lookup((("resolution",),), np.asarray([0, 1]))
    banked = dataclasses.replace(TINY, bank=Bank(2, row))
    with pytest.raises(UserError, match="bank of 2 rows"):
        plain_network.load(*ordinary(), banked, key=key)


# --- the command --------------------------------------------------------------------------------


class Place(NamedTuple):
    """A folder with a config file, a published file for its space, and what that was made of."""

    tmp: pathlib.Path
    config: pathlib.Path
    file: pathlib.Path
    params: Any


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    tmp = tmp_path_factory.mktemp("import")
    path = processes.write_config(tmp)
    space = config.load_file(path)[0].space.build(classes=10, input_channels=1)
    params = variables_of(space, seed=5)[0]
    safetensors_file.write(tmp / "x.safetensors", published(space, params))
    return Place(tmp, path, tmp / "x.safetensors", params)


def opened(folder: pathlib.Path, path: pathlib.Path) -> run.Run:
    return run.open_run(folder, config.load_file(path)[1])


def test_a_published_supernet_becomes_a_run(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    how = ["--config", place.config, "--out", folder, "--std", "0.5"]
    said = supernet(capsys, "import", "attentivenas", place.file, *how)
    assert said.status == 0, said.err
    run = opened(folder, place.config)
    ratio = run.experiment.dataset.std[0] / 0.5
    assert not 0.9 < ratio < 1.1
    wanted = tensor_mapping.rescaled(place.params, attentivenas.STEM, [ratio])
    assert run.step == 0
    jax.tree.map(np.testing.assert_array_equal, run.params, wanted)  # these are the average
    job = train.job(run.experiment, folder)
    with job.checkpoints:
        state = loop.restore(job)  # where training begins
    jax.tree.map(np.testing.assert_array_equal, state.params, wanted)
    assert state.step == 0 and state.ema is not None
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    file = safetensors_file.read(place.file)
    about = json.loads((folder / "import.json").read_text())
    assert len(about["mapped"]) + len(about["left"]) == len(file)
    assert about["sha256"] == hashlib.sha256(place.file.read_bytes()).hexdigest()
    for text in (
        f"read {len(file)} tensors",
        "no subnet reads it",
        f"is multiplied by {ratio:.4g}",
    ):
        assert text in said.out
    settings = config.load_file(place.config)[0]
    again = imports.import_attentivenas(place.file, settings, tmp_path / "again", std=[0.5])
    jax.tree.map(np.testing.assert_array_equal, again.params, wanted)
    assert (again.step, again.folder) == (0, tmp_path / "again")


def test_a_run_that_cannot_be_written_leaves_nothing(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(job: Any, params: Any) -> None:
        assert (tmp_path / f".run.unfinished-{os.getpid()}" / "config.json").exists()
        raise UserError("no space left")

    monkeypatch.setattr(loop, "begin", full)
    how = ["--config", place.config, "--out", tmp_path / "run", "--std", "1"]
    said = supernet(capsys, "import", "attentivenas", place.file, *how)
    assert (said.status, list(tmp_path.iterdir())) == (2, [])
    assert "no space left" in said.err


def test_an_extracted_network_becomes_a_run(
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run, own = tiny_run.trained(tmp_path_factory), ["--config", tiny_run.CONFIG]
    made, out, results = tmp_path / "network", tmp_path / "run", tmp_path / "found.json"
    for command in (
        ["extract", run, "--arch", "largest", "--out", made, *own],
        ["import", "network", made, "--out", out, "--sort-channels", *own],
        ["evaluate", out, "--archs", "largest", "--split", "test", "--out", results, *own],
    ):
        said = supernet(capsys, *command)
        assert said.status == 0, said.err
    accuracy = json.loads((made / "network.json").read_text())["accuracy"]["test"]
    (found,) = json.loads(results.read_text())
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    before = opened(out, tiny_run.CONFIG)
    said = supernet(capsys, "train", tiny_run.CONFIG, "--out", out)
    assert said.status == 0 and "trained 30 steps" in said.out, said.err
    assert checkpoint.steps(out / "checkpoints") == (0, 15, 30) and before.step == 0
    rng = np.random.default_rng(0)
    other, five = tmp_path / "other.npz", tmp_path / "five.npz"
    for path, many in ((other, 10), (five, 5)):
        parts = {f"x_{part}": rng.integers(0, 256, (40, 8, 8), np.uint8) for part in SPLITS}
        labels = {f"y_{part}": np.arange(40) % many for part in SPLITS}
        np.savez(path, **parts, **labels)
    for arguments, message in (
        ([made, *own, "--data.name", f"npz:{other}"], "with the mean 0.304, those"),
        ([made, *own, "--data.name", f"npz:{five}"], "apart, the data of --config has 5 classes"),
        ([made, *own, "--std", "1"], "--std is for published supernets"),
        ([tmp_path, *own], "is not an extracted network"),
        ([made, *own, "--space.widths", "2", "4"], "its block first is Filter(c_in=1, c_out=6"),
    ):
        said = supernet(capsys, "import", "network", *arguments, "--out", tmp_path / "other")
        assert said.status == 2 and message in said.err and not (tmp_path / "other").exists()


WRONG_COMMANDS = {
    "no kind": ("attentivnas FILE --config MINE --out OUT", "did you mean attentivenas?"),
    "no config": ("attentivenas FILE --out OUT", "--config and --out are required"),
    "no out": ("attentivenas FILE --config MINE", "--config and --out are required"),
    "config missing": ("attentivenas FILE --config my.py --out OUT", "no config file my.py"),
    "out taken": ("attentivenas FILE --config MINE --out TMP", "exists already"),
    "file missing": ("attentivenas no.safetensors --config MINE --out OUT", "there is no file no."),
    "config as file": ("attentivenas MINE --config MINE --out OUT", "ends with '.py'"),
    "wrong std": ("attentivenas FILE --config=MINE --out OUT", "must be 1 numbers above 0"),
    "zero std": ("attentivenas FILE --config MINE --out OUT --std 0", "must be 1 numbers above 0"),
    "class order": ("network TMP --config MINE --out OUT --class-order text", "for published sup"),
    "sorted": ("attentivenas FILE --config MINE --out OUT --sort-channels", "is for networks"),
    "other space": (f"attentivenas FILE --config {tiny_run.CONFIG} --out OUT", "not of the Attent"),
    "other sizes": (
        f"attentivenas FILE --config {conftest.ROOT / 'configs/digits.py'} --out OUT",
        "63 more are missing; is it another model, or is the space",
    ),
    "other family": ("ofa FILE --config MINE --out OUT", "Once-for-All"),
    "no network": ("network no_folder --config MINE --out OUT", "is not an extracted network"),
    "misspelt field": ("attentivenas FILE --config MINE --out OUT --data.nam x", "data.nam"),
}


@pytest.mark.parametrize("case", WRONG_COMMANDS)
def test_commands_that_are_refused(
    case: str, place: Place, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    line, message = WRONG_COMMANDS[case]
    places = {"FILE": place.file, "MINE": place.config, "OUT": tmp_path / "run", "TMP": place.tmp}
    for word, path in places.items():
        line = line.replace(word, str(path))
    before = sorted(place.tmp.iterdir())
    said = supernet(capsys, "import", *line.split())
    assert said.status == 2 and message in said.err and "Traceback" not in said.err
    assert sorted(place.tmp.iterdir()) == before and list(tmp_path.iterdir()) == []


# --- the order of classes -----------------------------------------------------------------------

ELEVEN = tuple(sorted(map(str, range(11))))  # 0, 1, 10, 2, ...: as folders are sorted


def numbered(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Folders 0 to 10 of grey images, and weights of which output 7 has the bias 7.0."""
    folder(path / "images", parts=("",), classes=ELEVEN, n=4, shape=(8, 8))
    space = processes_space(path, classes=11)
    flat = dict(flax.traverse_util.flatten_dict(variables_of(space, seed=5)[0]))
    flat["head", "classifier", "bias"] = np.arange(11, dtype=np.float32)
    safetensors_file.write(
        path / "x.safetensors", published(space, flax.traverse_util.unflatten_dict(flat))
    )
    return path / "tiny.py", path / "x.safetensors"


def processes_space(path: pathlib.Path, classes: int) -> Space:
    settings = config.load_file(processes.write_config(path))[0]
    return settings.space.build(classes=classes, input_channels=1)


def test_numbered_classes_are_asked_for_and_put_in_their_places(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    file, weights = numbered(tmp_path)
    data = ["--data.name", f"folder:{tmp_path / 'images'}", "--std", "1"]

    def imported(out: str, *how: str) -> tiny_run.Said:
        more = ["--config", file, "--out", tmp_path / out, *data, *how]
        return supernet(capsys, "import", "attentivenas", weights, *more)

    said = imported("asked")
    assert said.status == 2 and not (tmp_path / "asked").exists()
    assert "--class-order text (0, 1, 10, 2, ...;" in said.err
    assert "--class-order number (0, 1, 2, 3, ...)" in said.err
    for order, wanted in (("number", [int(name) for name in ELEVEN]), ("text", range(11))):
        said = imported(order, "--class-order", order)
        assert said.status == 0, said.err
        params = opened(tmp_path / order, file).params
        assert params["head"]["classifier"]["bias"].tolist() == list(map(float, wanted))
        about = json.loads((tmp_path / order / "import.json").read_text())
        assert about["class_order"] == order
    kernels = [
        opened(tmp_path / order, file).params["head"]["classifier"]["kernel"]
        for order in ("text", "number")
    ]
    np.testing.assert_array_equal(kernels[0][:, [int(name) for name in ELEVEN]], kernels[1])


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (ELEVEN, True),
        (sorted(ELEVEN, key=int), True),  # of an npz file, say
        (("class1", "class10", "class2"), True),
        (("3", "10", "2"), False),  # in an order of their own
        (tuple("0123456789"), False),
        (("00", "01", "02", "10"), False),
        (("n01440764", "n01443537", "n02102040"), False),
        (("cat", "dog", "Übung"), False),
    ],
)
def test_when_the_order_is_asked_for(names: tuple[str, ...], asked: bool) -> None:
    if asked:
        with pytest.raises(UserError, match=r"--class-order text .* or --class-order number"):
            class_rows.rows(names, None, "it")
    else:
        assert class_rows.rows(names, None, "it") == list(range(len(names)))
    for order, key in (("text", str), ("number", lambda name: int(re.sub(r"\D", "", name) or 0))):
        rows = class_rows.rows(names, order, "it")
        assert [sorted(names, key=key)[row] for row in rows] == list(names) or "Übung" in names


def test_far_differences_are_shown() -> None:
    names = tuple(sorted(f"{i}" for i in [*range(100, 200), 1000, 2000, 19]))
    with pytest.raises(UserError, match=r"text \(100, 1000, \.\.\.;.* number \(19, 100, \.\.\.\)"):
        class_rows.rows(names, None, "it")


def test_a_teacher_knows_classes_by_their_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Echo:
        """Its output i is i."""

        def apply(self, variables: Any, images: Any) -> Any:
            return jax.numpy.broadcast_to(jax.numpy.arange(10.0), (len(images), 10))

    built = build.build(config.Config(train=config.Train(teacher="network")))
    described = {"input_channels": 1, "mean": [0.5], "std": [0.5]}
    for theirs, wanted in (
        (list("0123456789"), list(range(10))),
        (list("9876543210"), list(range(10))[::-1]),
        (list("abcdefghij"), list(range(10))),
    ):
        about = {**described, "classes": theirs}
        monkeypatch.setattr(network_folder, "load", lambda *_, **__: (Echo(), {}))
        monkeypatch.setattr(manifest, "read_description", lambda _, about=about: about)
        teacher = teaching.taught(built).recipe.teacher
        said = teacher.teach(teacher.init(None), np.zeros((2, 8, 8, 1), np.float32))
        assert said is not None and said.logits.tolist() == [wanted] * 2
        warned = "by their places" in caplog.text
        assert warned == (theirs[0] == "a")
        caplog.clear()
