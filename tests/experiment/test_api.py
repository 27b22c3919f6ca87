"""The library from Python: what a command does, a call does."""

import ast
import importlib
import inspect
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
import tiny_config
import tiny_run
from conftest import ROOT
from tiny_run import CONFIG, NETWORKS

import supernet_jax as sj
from supernet_jax.elastic import choices, notation
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment import search as search_module
from supernet_jax.experiment.read_archs import archs_of
from supernet_jax.runtime import stopping
from supernet_jax.storage import checkpoint
from supernet_jax.training import loop

NAMES = sorted(name for name in sj._places() if not name.startswith("_"))
STUB = pathlib.Path(sj.__file__).with_suffix(".pyi")


def own(folder: pathlib.Path) -> sj.Run:
    return sj.open_run(folder, CONFIG)


@pytest.fixture
def trained(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the trained run."""
    return shutil.copytree(tiny_run.trained(tmp_path_factory), tmp_path / "run")


@pytest.fixture
def searched(tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the searched run."""
    return shutil.copytree(tiny_run.searched(tmp_path_factory), tmp_path / "run")


# --- names -----------------------------------------------------------------------------------


def test_the_import_loads_nothing_else() -> None:
    code = "import sys, supernet_jax as sj; dir(sj); print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert not {"jax", "flax", "numpy", "matplotlib", "rich"} & set(loaded.stdout.split())
    assert "supernet_jax" in loaded.stdout.split()


def test_commands_that_draw_nothing_load_nothing_that_draws() -> None:
    commands = "train", "evaluate", "search", "extract", "latency", "info", "launch"
    names = ", ".join(f"supernet_jax.cli.{command}" for command in commands)
    code = f"import sys, {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    slow = {"matplotlib", "matplotlib.figure", "scipy.fft", "scipy.stats", "scipy.optimize"}
    assert not slow & set(loaded.stdout.split())
    assert "supernet_jax.experiment.front" in loaded.stdout.split()


def test_names_are_few_and_listed() -> None:
    assert {"train", "search", "Config", "samplers"} <= set(NAMES) <= set(dir(sj))
    assert 40 <= len(NAMES) <= 63
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = sj.serach  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_explained(name: str) -> None:
    found = vars(sj).get(name) or sj.__getattr__(name)
    if name != "Loss":  # a type of functions
        assert inspect.getdoc(found)
    module, there = sj._places()[name]
    if module != "supernet_jax":
        assert found is vars(importlib.import_module(module))[there]


def test_no_name_is_hidden_by_a_room() -> None:
    """`import supernet_jax.elastic` would put the room in place of a function of its name."""
    rooms = {path.parent.name for path in STUB.parent.glob("*/__init__.py")}
    functions = {n for n, (module, _) in sj._places().items() if module != "supernet_jax"}
    doors = {n for n in functions if sj._places()[n][0] == "supernet_jax.training"}
    assert not rooms & (functions - doors)


def test_settings_of_a_search_have_one_default() -> None:
    signature = inspect.signature(sj.search).parameters
    for name, value in vars(search_module.Search()).items():
        if name not in ("budget", "objective"):  # several, in Python a mapping and a list
            assert signature[name].default == value


# --- the whole of it -------------------------------------------------------------------------


def test_from_a_configuration_to_a_network(
    trained: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained
    run = sj.train(tiny_config.config, folder)  # which `supernet train` has trained
    assert capsys.readouterr().out == ""
    assert (run.step, run.config) == (30, tiny_config.config) and run.space.name == "tiny"
    assert repr(run) == f"Run('{folder}', step 30 of 30, space tiny of 24 archs, data digits)"
    again = own(folder)
    jax.tree.map(np.testing.assert_array_equal, run.params, again.params)

    archs = sj.sample(run.space, 5, seed=3)
    records = sj.evaluate(run, archs)
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    assert [r for r in map(json.loads, lines) if r not in records] == []
    front = sj.search(run, searcher="random", high=9000)
    result = json.loads((folder / "search.json").read_text())
    assert front.result == result and [e.record for e in front] == result["front"]
    assert front.result["evaluations"] < NETWORKS
    costs = [entry.cost for entry in front]
    assert costs == sorted(costs) == [entry.macs for entry in front] and costs[-1] <= 9000

    net = sj.extract(run, front[0].arch, tmp_path / "net")
    assert (net.macs, net.parameters) == (front[0].macs, front[0].parameters)
    assert net.proof <= 1e-5 and net.accuracy["held-out"] == pytest.approx(front[0].accuracy)
    images = run.experiment.prepare(jnp.asarray(run.experiment.dataset.test.images[:4]))
    module, variables = sj.load(tmp_path / "net", space_file=CONFIG)
    assert module.apply(variables, images).shape == (4, 10)
    run_masked = jax.jit(lambda arch: sj.masked(run.space, run.params, arch, images, size=8))
    assert run_masked(front[0].arch).logits.shape == (4, 10)

    nets = sj.extract_all(run, front[:1], tmp_path / "nets")
    assert [one.arch for one in nets] == [front[0].record["arch"]]
    assert sj.extract_all(run, front[:1], tmp_path / "nets") == nets
    assert sj.report(run).read_text().startswith("<!doctype html>")


def test_a_search_by_a_command_is_known_to_a_call(
    trained: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tiny_run.supernet(capsys, "search", trained, "--config", CONFIG, "--evaluations", 4)
    assert said.status == 0
    before = (trained / "evaluations.jsonl").read_bytes()
    front = sj.search(own(trained), evaluations=4)
    assert (trained / "evaluations.jsonl").read_bytes() == before
    assert json.loads((trained / "search.json").read_text()) == front.result


def test_a_race_gives_a_front(trained: pathlib.Path) -> None:
    run = own(trained)
    front = sj.race(run, sj.sample(run.space, 12, seed=0))
    assert [entry.record for entry in front] == front.result["front"]
    assert isinstance(front.plot(axes()), matplotlib.axes.Axes)
    for wrong in (sj.searching.Nsga2, 5):
        with pytest.raises(sj.UserError, match=r"as sj\.searching\.Nsga2\(\), or one of bayesian"):
            sj.search(run, searcher=wrong)
    with pytest.raises(sj.UserError, match="--race-error is 0"):
        sj.race(run, "largest", error=0)


# --- archs and runs, however they are given --------------------------------------------------


def test_archs_in_all_their_forms(searched: pathlib.Path) -> None:
    run, space = own(searched), tiny_config.TinySpace().build(classes=10, input_channels=1)
    archs = sj.sample(space, 6, seed=1)
    noted = [notation.to_notation(space.menu, arch) for arch in archs]

    def read(given: Any) -> list[Any]:
        return [notation.to_notation(space.menu, arch) for arch in archs_of(space, given)]

    for given in (archs, noted, choices.stack(archs), [{"arch": one} for one in noted]):
        assert read(given) == noted
    assert read(archs[0]) == read(noted[0]) == noted[:1]
    assert read(jax.tree.map(jnp.asarray, archs[0])) == noted[:1]
    assert read([archs[0], [noted[1], choices.stack(archs[2:])]]) == noted
    assert read("largest") == read([choices.largest(space.menu)])
    path = searched / "search.json"
    front = sj.evaluate(run, path)
    last = json.loads(path.read_text())["front"]
    assert front == last
    outside = choices.replace(archs[0], ("width",), np.int32(3))
    for wrong in (outside, {"width": np.int32(1)}, [], 7, {**noted[0], "width": 1}):
        with pytest.raises(sj.UserError):
            read(wrong)


def test_samples_depend_on_their_seed() -> None:
    space = tiny_config.TinySpace().build(classes=10, input_channels=1)
    one, same, other = (sj.sample(space, 9, seed=seed) for seed in (5, 5, 6))
    assert archs_of(space, one) == archs_of(space, same) != archs_of(space, other)


def test_a_run_by_its_folder_and_its_parts(
    trained: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_file, by_config = own(trained), sj.open_run(str(trained), tiny_config.config)
    assert by_file.step == by_config.step and by_file.folder == by_config.folder
    with pytest.raises(sj.UserError, match="trained with a TinySpace of your own"):
        sj.evaluate(trained, "largest")
    without = experiment_run.open_run(trained, CONFIG, read=False)
    record = sj.evaluate(without, "largest")
    assert record == sj.evaluate(by_file, "largest") and caplog.text == ""
    settings = json.loads((trained / "config.json").read_text())
    settings["train"]["steps"] = 60
    (trained / "config.json").write_text(json.dumps(settings))
    own(trained)
    assert "has been trained for 30 of 60 steps" in caplog.text


# --- in a notebook ---------------------------------------------------------------------------


def axes() -> Any:
    return matplotlib.figure.Figure().subplots()


def test_a_front_is_shown_and_drawn(searched: pathlib.Path) -> None:
    run = own(searched)
    front = sj.search(run, searcher="random")
    head, names, *rows = repr(front).splitlines()
    assert head == f"Front of tiny: {len(front)} of {NETWORKS} subnets"
    assert names.split() == ["MACs", "parameters", "accuracy"]
    for row, entry in zip(rows, front, strict=True):
        assert row.split()[1:] == [
            f"{entry.macs:,}",
            f"{entry.parameters:,}",
            f"{entry.accuracy:.2%}",
        ]
    assert front._repr_html_().count("<tr>") == len(front) + 1
    assert front[:2] == (front[0], front[1]) and front[-1] == list(front)[-1]
    drawn = front.plot(axes())
    (line,) = drawn.lines
    np.testing.assert_allclose(
        line.get_xydata(), [(entry.cost, 100 * entry.accuracy) for entry in front]
    )
    assert len(drawn.collections[0].get_offsets()) == NETWORKS
    tested = front.tested({0: 0.5})
    (_, marks) = tested.plot(axes()).lines
    assert marks.get_xydata().tolist() == [[front[0].cost, 50.0]]
    assert "test_accuracy" not in front[0].record
    assert "<script>" not in run._replace(folder=pathlib.Path("<script>"))._repr_html_()


def test_a_front_of_several_objectives_is_drawn(
    searched: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = own(searched)
    plain = dict(sj.search(run, searcher="random").result)
    beside = {"hypervolume": 0.5, "evaluations": 18, "front": plain["front"][:2]}
    front = sj.Front(run.space, {**plain, "random": beside})
    random, line = front.plot(axes()).lines
    points = [(one["macs"], 100 * one["accuracy"]) for one in beside["front"]]
    np.testing.assert_allclose(random.get_xydata(), points)
    assert random.get_linewidth() < line.get_linewidth() and random.get_color() == "0.5"
    with pytest.raises(sj.UserError, match="axes need two or more"):
        sj.Front(run.space, {**plain, "objectives": []}).plot_objectives(axes())

    name = "energy $\\frac{$"  # no formula
    three = {"accuracy": "max", "macs": "min", name: "min"}
    front = sj.Front(
        run.space,
        {
            **plain,
            "random": beside,
            "objectives": [{"name": key, "direction": way} for key, way in three.items()],
            "budgets": [*plain["budgets"], {"cost": name, "unit": "<mJ>"}],
            "front": [{**one, name: 0.5 + i} for i, one in enumerate(plain["front"])],
            "all": [[9_000, None, 1.0], *([*row, 3.0] for row in plain["all"])],
        },
    )
    assert "&lt;mJ&gt;" in front._repr_html_() and "<mJ>" not in front._repr_html_()
    assert {one.get_linestyle() for one in front.plot(axes()).lines} == {"None"}  # no staircase
    below = axes()
    front.plot_objectives(below)
    lines = [one for one in below.lines if len(one.get_xdata()) == 3]
    assert len(lines) == len(plain["all"]) + len(front)
    best = max(entry.value for entry in front)
    for entry, drawn in zip(front, lines[-len(front) :], strict=True):
        heights = np.asarray(drawn.get_ydata())
        assert (heights[0] == 1) == (entry.value == best)
        assert (heights[2] == 1) == (entry is front[0])
    front.save(tmp_path / "search.json", tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


INTERRUPTED = """
import sys, time
sys.path.insert(0, {tests!r})
import conftest, tiny_config
import supernet_jax as sj
from supernet_jax.training import train_step
step = train_step.Step.__call__
def slow(*given, **how):
    time.sleep(0.1)
    return step(*given, **how)
train_step.Step.__call__ = slow
try:
    sj.train(tiny_config.config, {folder!r})
except KeyboardInterrupt as stopped:
    print("step", stopped.step, *stopped.__notes__)
"""


def test_an_interrupted_training_goes_on(
    trained: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: Ctrl-C in the middle of a step is heard when it is done."""
    real = loop.train_step.Step.__call__

    def interrupting(self: Any, state: Any, batch: Any, **how: Any) -> Any:
        if int(state.step) == 6:
            signal.raise_signal(signal.SIGINT)
        return real(self, state, batch, **how)

    monkeypatch.setattr(loop.train_step.Step, "__call__", interrupting)
    folder, before = tmp_path / "interrupted", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        sj.train(tiny_config.config, folder)
    monkeypatch.undo()
    assert isinstance(caught.value, stopping.Stopped) and caught.value.step == 7
    assert "training goes on from there" in str(caught.value.__notes__)
    assert checkpoint.steps(folder / "checkpoints") == (7,)
    assert signal.getsignal(signal.SIGINT) == before and not stopping.asked()
    run = sj.train(tiny_config.config, folder)
    jax.tree.map(np.testing.assert_array_equal, run.params, own(trained).params)


def test_a_signal_to_a_script_leaves_a_run_that_goes_on(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "interrupted"
    code = INTERRUPTED.format(tests=str(ROOT / "tests"), folder=str(folder))
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size) and script.poll() is None:
            time.sleep(0.01)
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=120)
    finally:
        script.kill()
    assert script.returncode == 0, err
    last = checkpoint.steps(folder / "checkpoints")[-1]
    assert 10 < last < 30 and out.startswith(f"step {last} step {last} is saved")
    run = sj.train(tiny_config.config, folder)
    jax.tree.map(np.testing.assert_array_equal, run.params, own(trained).params)


# --- arrays of one's own ---------------------------------------------------------------------


def pictures() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    return images, np.arange(120) % 3


def test_arrays_become_data(tmp_path: pathlib.Path) -> None:
    images, labels = pictures()
    given = sj.data.arrays(images, labels, folder=tmp_path / "data", held_out=0.25, flip=True)
    assert (given.held_out, given.flip) == (0.25, True)
    (file,) = (tmp_path / "data").iterdir()
    assert given.name == f"npz:{file}"
    assert sj.data.arrays(images[..., 0], labels, folder=tmp_path / "data").name == given.name
    made = sj.data.load(given.name, held_out=given.held_out, seed=0)
    parts = (made.train, made.held_out, made.test)
    assert [len(part.labels) for part in parts] == [72, 24, 24]
    seen = np.concatenate([np.asarray(part.images[:]) for part in parts])
    assert {one.tobytes() for one in seen} == {one.tobytes() for one in images}
    whole = sj.data.arrays(
        images,
        labels,
        test=(images[:9], labels[:9]),
        class_names=list("abc"),
        folder=tmp_path / "data",
    )
    made = sj.data.load(whole.name, held_out=0.25, seed=0)
    assert made.class_names == ("a", "b", "c") and whole.name != given.name
    np.testing.assert_array_equal(made.test.images, images[:9])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": lambda x: x / 255}, "images are float64"),
        ({"images": lambda x: x[:, 0, :, 0]}, r"\[120, 8\]"),
        ({"labels": lambda y: y[:5]}, "for 120 images"),
        ({"labels": lambda y: y - 1}, "label at index 0 is -1"),
        ({"labels": lambda y: y * 2}, "class '1' .* has no training image"),
        ({"labels": lambda y: 0 * y}, "1 class"),
    ],
)
def test_arrays_of_another_kind(tmp_path: pathlib.Path, change: Any, words: str) -> None:
    images, labels = pictures()
    given = {"images": images, "labels": labels}
    for name, made in change.items():
        given[name] = made(given[name])
    with pytest.raises(sj.UserError, match=words):
        sj.data.arrays(**given, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_stub_is_a_list_of_imports() -> None:
    body = ast.parse(STUB.read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.ImportFrom | ast.AnnAssign) for node in body)
    names = [
        alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert len(names) == len(set(names)) and None not in names


GREY = np.zeros((4, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sj.train("configs/digits.py", "runs/x"),
            "a configuration is wanted, as sj.Config",
        ),
        (lambda: sj.sample(sj.spaces.Digits(), 3), "as run.space, but a Digits was given"),
        (
            lambda: sj.sample(sj.spaces.Digits().build(), 1.5),
            "n is 1.5, but must be a whole number",
        ),
        (lambda: sj.open_run(5), "a path was wanted, as text or a Path, but 5 was given"),
        (lambda: sj.evaluate(None, "largest"), "a run is wanted, or its folder, but a NoneType"),
        (lambda: sj.search(sj.Config()), "a run is wanted, or its folder, but a Config"),
        (lambda: sj.load(None), "a path was wanted"),
        (lambda: sj.macs(sj.spaces.Digits()), "costs are of a space, as run.space, but a Digits"),
        (lambda: sj.data.arrays([[1], [2, 3]], [0, 1]), "bring them to one size"),
        (lambda: sj.data.arrays(GREY, range(4), class_names="abcd"), "must be a list of texts"),
        (lambda: sj.data.arrays(GREY, range(4), class_names=["a", "a", "b", "c"]), "name twice"),
        (lambda: sj.data.arrays(GREY, range(4), test=GREY), "test must be .images, labels."),
        (lambda: sj.data.arrays(GREY, range(4), heldout=1), "did you mean held_out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_things_that_are_none_of_the_kind(call: Any, words: str) -> None:
    with pytest.raises(sj.UserError, match=words):
        call()


def test_only_what_is_offered_is_offered() -> None:
    names: dict[str, Any] = {}
    exec("from supernet_jax import *", names)
    assert set(dir(sj)) == names.keys() - {"__builtins__"}
    assert not {"ast", "functools", "runtime", "storage"} & set(dir(sj))
