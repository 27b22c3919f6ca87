"""`supernet extract` with formats, for one and for many; the examples of the documentation."""

import importlib.util
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_export
import tiny_run
from conftest import ROOT
from tiny_run import ARCH, CONFIG, supernet

from supernet_jax.elastic.notation import from_notation
from supernet_jax.experiment import config, take_out
from supernet_jax.experiment import run as experiment_run
from supernet_jax.networks import manifest, network_folder
from supernet_jax.networks.formats import table

TOLERANCE = 1e-5  # float32 sums in another order
OWN = ("--config", CONFIG)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A searched run; not to be changed."""
    return tiny_run.searched(tmp_path_factory)


def front(run: pathlib.Path) -> list[Any]:
    return [entry["arch"] for entry in json.loads((run / "search.json").read_text())["front"]]


def test_one_network_in_several_formats(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    folder, given = tmp_path / "net", ("safetensors", "stablehlo")
    options = ("--arch", json.dumps(ARCH), "--out", folder, "--input-size", 12)
    said = supernet(capsys, "extract", run, *OWN, *options, "--format", *given)
    assert said.status == 0 and "logits differ by: safetensors 0.0e+00, stablehlo " in said.out
    description = manifest.read_description(folder)
    assert list(description["formats"]) == list(given)
    assert all(one["size"] == [12, 12] for one in description["formats"].values())
    assert not (folder / "weights").exists()
    module, variables = network_folder.load(folder, space_file=CONFIG)
    images = np.random.default_rng(0).normal(size=(3, 12, 12, 1)).astype(np.float32)
    ours = table.load(folder, "stablehlo")(images)
    theirs = np.asarray(jax.jit(module.apply)(variables, images))
    assert test_export.difference(ours, theirs) <= TOLERANCE


def test_a_front_and_going_on_with_it(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "front"
    command = ("extract", run, *OWN, "--front", "--out", out, "--format", "safetensors")
    count, real, folders = len(front(run)), network_folder.save, []
    assert count >= 2

    def killed(folder: Any, *given: Any, **more: Any) -> Any:
        if folders:
            raise KeyboardInterrupt
        folders.append(folder)
        return real(folder, *given, **more)

    monkeypatch.setattr(network_folder, "save", killed)
    assert supernet(capsys, *command).status == 130
    assert [path.name for path in out.iterdir()] == [folders[0].name]
    before = (folders[0] / "network.json").stat().st_mtime_ns
    monkeypatch.setattr(network_folder, "save", real)
    said = supernet(capsys, *command)
    assert said.status == 0, said
    assert f"1 of {count} networks are in {out} already and are kept" in said.out
    assert f"{out} holds {count} networks, {count - 1} of them new" in said.out
    assert f"{count} of {count} networks" in said.err  # the progress
    assert (folders[0] / "network.json").stat().st_mtime_ns == before

    opened = experiment_run.open_run(run, config.load_file(CONFIG)[1])
    space = opened.experiment.space
    archs = [from_notation(space.menu, notation) for notation in front(run)]
    names = take_out.folder_names(opened, archs)
    assert {path.name for path in out.iterdir()} == set(names) and len(set(names)) == count
    assert names == take_out.folder_names(opened, archs)
    raw = opened.experiment.dataset.test.images[:16]
    for name, notation, arch in zip(names, front(run), archs, strict=True):
        description = manifest.read_description(out / name)
        assert description["arch"] == notation and f"-{description['macs']}-" in name
        assert f"{out / name}: {description['macs']:,} MACs, test" in said.out or (
            out / name == folders[0]
        )
        module, variables = network_folder.load(out / name, space_file=CONFIG)
        prepared = opened.experiment.prepare(jnp.asarray(raw))
        ours = np.asarray(jax.jit(module.apply)(variables, prepared))
        assert test_export.difference(ours, tiny_run.logits(opened, arch, raw)) <= TOLERANCE

    # One by one, everything is measured by programs of its own; the figures are the same.
    alone = take_out.take_out(opened, archs[-1], tmp_path / "alone")
    many = manifest.read_description(out / names[-1])
    assert alone["accuracy"] == pytest.approx(many["accuracy"], abs=1e-9)
    assert {k: alone[k] for k in ("macs", "calibration", "source")} == {
        k: many[k] for k in ("macs", "calibration", "source")
    }
    said = supernet(capsys, *command, "stablehlo")
    assert said.status == 2 and "holds another network (formats is" in said.err
    shutil.rmtree(folders[0])
    shutil.copytree(out / names[-1], folders[0])
    said = supernet(capsys, *command)
    assert said.status == 2 and "holds another network (arch is" in said.err


def test_a_file_of_archs_counts_each_once(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    (tmp_path / "archs.json").write_text(json.dumps([ARCH, ARCH]))
    options = ("--arch", tmp_path / "archs.json", "--out", tmp_path / "net")
    assert supernet(capsys, "extract", run, *OWN, *options).status == 0
    assert manifest.read_description(tmp_path / "net")["arch"] == ARCH  # one is no folder of many
    (tmp_path / "archs.json").write_text(json.dumps([ARCH, front(run)[0]]))
    said = supernet(capsys, "extract", run, *OWN, *options)
    assert said.status == 2 and "is not a folder for several networks" in said.err


REFUSED: dict[str, tuple[str, str]] = {
    "nothing": ("", "say which subnets: --arch for one"),
    "both": ("--front --arch largest", "say which subnets"),
    "unknown format": ("--arch largest --format onxn", "'onxn', allowed: orbax, safetensors"),
    "no format": ("--arch largest --format", "--format"),
    "pixels": ("--arch largest --pixels", "orbax holds weights alone"),
    "size": ("--arch largest --input-size 8", "--input-size is of the network's program"),
    "zero": ("--arch largest --format stablehlo --input-size 0", "--input-size is 0"),
    "word": ("--arch largest --format stablehlo --input-size big", "'big'"),
    "no arch": ("--arch largset", "there is no file largset"),
    "front": ("--arch front:99", "the front has front:0 to front:"),
    "letters": ("--arch front:a", "the front has front:0 to front:"),
    "taken": ("--arch largest --out TAKEN", "exists already; pass a new or an empty folder"),
    "bytes": ("--arch largest --out b\udcfcro", "is not UTF-8 in this locale, which weights in"),
    "a file": ("--front --out TAKEN/file", "is not a folder for several networks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture, case: str
) -> None:
    line, message = REFUSED[case]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    words = line.replace("TAKEN", str(tmp_path / "taken")).split()
    out = () if "--out" in words else ("--out", tmp_path / "out")
    said = supernet(capsys, "extract", run, *OWN, *out, *words)
    assert said.status == 2 and "Traceback" not in said.err
    assert message in " ".join(said.err.replace("│", " ").split())
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "file"]


def example(name: str) -> Any:
    path = ROOT / "docs" / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_of_fine_tuning(tmp_path: pathlib.Path) -> None:
    folder = test_export.written(tmp_path / "net", test_export.chosen("safetensors"))
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=96)
    images = rng.normal(size=(96, 6, 6, 2)).astype(np.float32) + labels[:, None, None, None]
    network, variables, losses = example("finetune").finetune(
        folder, images.astype(np.float32), labels, classes=3, steps=60, rate=1e-2
    )
    logits = np.asarray(jax.jit(network.apply)(variables, images.astype(np.float32)))
    assert logits.shape == (96, 3) and np.mean(logits.argmax(-1) == labels) > 0.8
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    _, before = network_folder.load(folder)
    assert np.any(
        variables["params"]["stem"]["conv"]["kernel"] != before["params"]["stem"]["conv"]["kernel"]
    )


def test_the_example_of_latency(tmp_path: pathlib.Path) -> None:
    folder = test_export.written(tmp_path / "net", test_export.chosen("onnx"))
    assert 0 < example("onnx_latency").latency(folder, seconds=0.1) < 1e4


def test_the_text_names_what_there_is() -> None:
    text = (ROOT / "docs" / "export.md").read_text()
    for name in ("finetune.py", "onnx_latency.py"):
        assert f"(examples/{name})" in text
        assert len((ROOT / "docs" / "examples" / name).read_text().splitlines()) <= 60
    for format in table.FORMATS:
        assert f"| `{format.name}` |" in text
