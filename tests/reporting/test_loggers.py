"""Loggers: what they are given, what their packages then hold, and what stops nothing."""

import contextlib
import importlib.util
import json
import math
import pathlib
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tiny_config
import tiny_run
from test_doors_pages import example
from test_loop import bitwise, lines, run
from tiny_run import CONFIG, supernet

import supernet_jax as sj
from supernet_jax.reporting import loggers
from supernet_jax.reporting.loggers.named import KINDS
from supernet_jax.storage import files

BAD = [7, 8, 9, 10, 11]  # steps from which the run of test_loop goes back to step 6
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)

# Warnings of the packages about themselves and each other are not ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore:::(wandb|trackio|mlflow|pydantic|sqlalchemy|google)"
)


class Scalar(NamedTuple):
    """What a package holds of a curve."""

    name: str
    step: int
    value: float


class Kept(NamedTuple):
    """What a package holds of a run."""

    scalars: list[Scalar]
    pictures: list[tuple[str, int]]  # name, step


# --- reading what packages wrote ---------------------------------------------------------------


def records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of an event file: lengths and contents, each with a checksum."""
    content = path.read_bytes()
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        assert len(content) >= size + 16
        yield content[12 : 12 + size]
        content = content[size + 16 :]


def of_tensorboard(folder: pathlib.Path) -> Kept:
    """As TensorBoard shows it: a start of a session takes back its step and all later ones."""
    from tensorboardX.proto import event_pb2

    scalars: list[Scalar] = []
    pictures: list[tuple[str, int]] = []
    for path in sorted((folder / "tensorboard").iterdir()):
        for record in records(path):
            event = event_pb2.Event.FromString(record)
            if event.session_log.status == event_pb2.SessionLog.START:
                scalars = [one for one in scalars if one.step < event.step]
                pictures = [one for one in pictures if one[1] < event.step]
            for value in event.summary.value:
                if value.HasField("image"):
                    assert value.image.encoded_image_string[:4] == b"\x89PNG"
                    pictures.append((value.tag, event.step))
                else:
                    scalars.append(Scalar(value.tag, event.step, value.simple_value))
    return Kept(scalars, pictures)


def of_wandb(folder: pathlib.Path) -> Kept:
    """The lines of history in what offline runs leave, in the order of their time."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its own process writes the file, and ends here
    kept = Kept([], [])
    ids = set()
    for path in sorted((folder / "loggers" / "wandb").glob("offline-run-*/run-*.wandb")):
        ids.add(path.stem)
        content, record = path.read_bytes(), b""
        place = 7  # behind the head of the file
        while place + 7 <= len(content):
            if 32768 - place % 32768 < 7:  # too little of a block for a head
                place += 32768 - place % 32768
                continue
            size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
            record += content[place + 7 : place + 7 + size]
            place += 7 + size
            if kind in (1, 4):  # whole, or the last part
                history = wandb_internal_pb2.Record.FromString(record).history
                record = b""
                values: dict[str, Any] = {}  # a picture is a dictionary, taken apart
                for item in history.item:
                    name, *inner = item.nested_key or [item.key]
                    values[name] = {} if inner else json.loads(item.value_json)
                _take(kept, history.step.num, values)
    assert len(ids) == 1
    return kept


def of_trackio(folder: pathlib.Path) -> Kept:
    """The logs of the only run of the project."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("supernet_jax")
    assert run.name.startswith(f"{folder.name}-")
    kept = Kept([], [])
    for line in SQLiteStorage.get_logs("supernet_jax", run.name):
        _take(kept, line["step"], line)
    return kept


def of_mlflow(folder: pathlib.Path) -> Kept:
    """The history of the metrics of the only run of the experiment."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("supernet_jax")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (folder.name, "FINISHED")
    names = run.data.metrics
    histories = [client.get_metric_history(run.info.run_id, name) for name in names]
    scalars = [Scalar(one.key, one.step, one.value) for history in histories for one in history]
    shown = {a.path.split("/")[1] for a in client.list_artifacts(run.info.run_id, "images")}
    parts = [re.split("[+%]", name) for name in shown if name.endswith(".png")]
    return Kept(scalars, [(re.sub("[~#]", "/", part[0]), int(part[2])) for part in parts])


def of_fake(folder: pathlib.Path) -> Kept:
    """What the package below noted."""
    kept, ids = Kept([], []), set()
    for line in (folder.parent / "calls.jsonl").read_text().splitlines():
        call = json.loads(line)
        if "init" in call:
            assert call["init"]["resume"] == "allow" and call["init"]["project"] == "supernet_jax"
            ids.add((call["init"].get("id"), call["init"]["name"]))
        else:
            _take(kept, call["step"], call["log"])
    assert len(ids) == 1
    return kept


def _take(kept: Kept, step: int, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            kept.pictures.append((name, step))
        elif "/" in name:
            kept.scalars.append(Scalar(name, step, float(value)))


FAKE = """
import json, pathlib, types

def note(value):
    with open({calls!r}, "a") as file:
        file.write(json.dumps(value, default=str) + "\\n")

class Settings:
    mode = "offline"
    def __init__(self, **given): pass

class Image(dict):
    def __init__(self, picture):
        assert picture.dtype == "uint8" and picture.ndim == 3
        super().__init__(shape=picture.shape)

class Run:
    step = 0
    def log(self, values, step): note({{"log": values, "step": step}})
    def finish(self): print("a banner")

def setup(): return types.SimpleNamespace(settings=Settings())

def finish(): print("a banner")

def init(**given):
    print("a banner")
    note({{"init": given}})
    return Run()
"""

READERS: dict[str, Callable[[pathlib.Path], Kept]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "trackio": of_trackio,
    "mlflow": of_mlflow,
    "fake wandb": of_fake,
    "fake trackio": of_fake,
}
LIGHT = ("tensorboard", "fake wandb")


@pytest.fixture
def backend(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A logger's name, whose package keeps all in this test's folder."""
    name = request.param
    for variable, value in (
        ("WANDB_MODE", "offline"),
        ("TRACKIO_DIR", str(tmp_path / "trackio")),
        ("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db"),
    ):
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)  # where MLflow puts files
    if name.startswith("fake"):
        package = name.split()[1]
        (tmp_path / "site" / package).mkdir(parents=True)
        source = FAKE.format(calls=str(tmp_path / "calls.jsonl"))
        (tmp_path / "site" / package / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / "site")
        for module in [m for m in sys.modules if m.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        request.addfinalizer(lambda: sys.modules.pop(package, None))  # before that is undone
    else:
        package = {"tensorboard": "tensorboardX"}.get(name, name)
        pytest.importorskip(package, reason=f"{name} is neither a dependency nor light")
    yield name


def everywhere(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backend", names, indirect=True)


def kept_of(backend: str, folder: pathlib.Path) -> Kept:
    return READERS[backend](folder)


def logger_of(backend: str, folder: pathlib.Path) -> Any:
    return KINDS[backend.split()[-1]](folder)


# --- what is logged ----------------------------------------------------------------------------


@everywhere(*READERS)
def test_a_log_that_goes_on_has_every_step_once(backend: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints" / "15").mkdir(parents=True)
    files.write_json(folder / "config.json", {"seed": 3})

    def values(number: float) -> dict[str, float]:
        return {"loss/largest": number, "gradient_norm": 2 * number}

    log = logger_of(backend, folder)
    for step in (10, 20, 30):
        log(step, values(step))
    log.close()
    again = logger_of(backend, folder)  # of the same numbers, after a stop
    for step in (20, 30, 40):
        again(step, values(step))
    for step in (30, 40, 50):  # of others, after a rollback
        again(step, values(-step))
    again.image("search/front", PICTURE, 50)
    again.close()
    kept = kept_of(backend, folder)
    replaced = {10: 10, 20: 20, 30: -30, 40: -40, 50: -50}
    wanted = replaced if backend == "tensorboard" else {**replaced, 30: 30, 40: 40}
    found = [(step, value) for name, step, value in kept.scalars if name == "loss/largest"]
    assert found == list(wanted.items())
    norms = {s: v for name, s, v in kept.scalars if name == "training/gradient_norm"}
    assert norms == {step: 2 * value for step, value in wanted.items()}
    ((name, step),) = kept.pictures
    assert name == "search/front" and 50 <= step <= 51


@everywhere("fake wandb", "fake trackio")
def test_paths_of_this_machine_stay_here(backend: str, tmp_path: pathlib.Path) -> None:
    settings = {
        "data": {"name": "npz:/home/jane/a.npz", "data_dir": "~jane/data"},
        "teacher": {"features": ["layer3/q"], "file": None, "run": "gs://jane/runs/first"},
        "files": {"Mine": "/home/jane/mine.py, sha256 0f"},
        "others": ["tfds:mnist/3.0.1", "npz:gs://jane/b.npz", "runs/second", "/"],
    }
    (tmp_path / "run").mkdir()
    files.write_json(tmp_path / "run" / "config.json", settings)
    logger_of(backend, tmp_path / "run")(1, {"loss/largest": 1.0})
    sent = json.loads((tmp_path / "calls.jsonl").read_text().splitlines()[0])["init"]["config"]
    assert sent == {
        "data": {"name": "npz:a.npz", "data_dir": "data"},
        "teacher": {"features": ["layer3/q"], "file": None, "run": "first"},
        "files": {"Mine": "mine.py, sha256 0f"},
        "others": ["tfds:mnist/3.0.1", "npz:b.npz", "runs/second", ""],
    }


def test_listeners_get_each_line_and_stop_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a run that goes back; and what TensorBoard then shows is what is true in the end."""
    pytest.importorskip("tensorboardX")
    folder, calls = tmp_path / "run", []

    def fails(step: int, values: dict[str, float]) -> None:
        values.clear()
        if step >= 3:
            raise OSError("the network\nis away")

    def collects(step: int, values: dict[str, float]) -> None:
        assert lines(folder)[-1]["step"] == step  # it is written already
        calls.append({"step": step, **values})

    log, table = loggers.TensorBoard(folder), example("logger").Table(tmp_path / "losses.csv")
    state = run(folder, bad=BAD, on_metrics=(fails, collects, log, table))
    log.close()
    assert bitwise(state, run(tmp_path / "plain", bad=BAD))
    seen = lines(folder)
    assert seen == lines(tmp_path / "plain")
    wanted = [line for line in seen if "event" not in line]
    assert [json.loads(files.dumps(call)) for call in calls] == wanted
    assert any(math.isnan(value) for call in calls for value in call.values())
    (warned,) = [one.getMessage() for one in caplog.records if "warning" in one.getMessage()]
    assert "fails failed at step 3 (OSError: the network is away" in warned
    assert "test_loggers.py, line" in warned and "training goes on" in warned

    last = {line["step"]: line for line in wanted}  # a later one is of the other way
    scalars = of_tensorboard(folder).scalars
    for name, metric in (("loss/largest", "loss/largest"), ("training/rollbacks", "rollbacks")):
        curve = {step: value for tag, step, value in scalars if tag == name}
        assert len(curve) == sum(tag == name for tag, _, _ in scalars)
        assert curve == pytest.approx({step: line[metric] for step, line in last.items()}, rel=1e-6)
    assert table.path.read_text().count("\n") == 1 + len(last)
    rows = example("logger").Table(table.path).rows  # as a run that goes on finds them
    for step, line in last.items():
        assert float(rows[step]["loss/largest"]) == pytest.approx(line["loss/largest"])
    assert {one.name for one in scalars} == {
        *(name for name in wanted[0] if "/" in name),
        *(f"training/{name}" for name in wanted[0] if "/" not in name and name != "step"),
    }


@everywhere(*LIGHT)
def test_from_the_command_line(
    backend: str,
    tmp_path: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that was killed after its last checkpoint goes on in the same log, as does a search."""
    folder, name = tmp_path / "run", backend.split()[-1]
    train = ("train", CONFIG, "--out", folder, "--log", name)
    if backend == "tensorboard":
        assert supernet(capsys, *train).status == 0
        shutil.rmtree(folder / "checkpoints" / "30")
        plain = tiny_run.trained(tmp_path_factory)
        whole = sj.open_run(plain, CONFIG)
        assert supernet(capsys, *train).status == 0
        again = sj.open_run(folder, CONFIG)
        jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
        assert (folder / "config.json").read_text() == (plain / "config.json").read_text()
    else:
        shutil.copytree(tiny_run.trained(tmp_path_factory), folder)
        for step in (15, 30):
            shutil.rmtree(folder / "checkpoints" / str(step))
        said = supernet(capsys, *train)
        assert said.status == 0 and "a banner" in said.err and "a banner" not in said.out
    search = ("search", folder, "--config", CONFIG, "--searcher", "random", "--evaluations", 3)
    said = supernet(capsys, *search, "--log", name)
    assert said.status == 0 and "front:0" in said.out
    kept = kept_of(backend, folder)
    losses = [(one.step, one.value) for one in kept.scalars if one.name == "loss/random_1"]
    wanted = [(line["step"], line["loss/random_1"]) for line in lines(folder)]
    assert [step for step, _ in losses] == [10, 20, 30]
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert {name for name, _ in kept.pictures} == {"search/front", "search/scores"}


# --- what is refused, and what is survived ------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_installed(
    name: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    said = supernet(capsys, "train", CONFIG, "--out", tmp_path / "run", "--log", name)
    assert said.status == 2 and said.err.count("\n") == 1
    assert f'pip install "supernet_jax[{name}]"' in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_load(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text("from json import gone")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(sj.UserError, match=r"trackio does not load \(cannot import name 'gone'"):
        loggers.Wandb(tmp_path / "run", package="trackio")


def test_wandb_without_a_key(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is neither a dependency nor light")
    for variable in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()  # it reads its environment once
    try:
        with pytest.raises(sj.UserError, match="no key for its server: run `wandb login`"):
            loggers.Wandb(tmp_path / "run")
    finally:
        wandb.teardown()
    assert not (tmp_path / "run").exists()


def test_a_bucket_is_no_place_for_event_files() -> None:
    pytest.importorskip("tensorboardX")
    with pytest.raises(sj.UserError, match="writes to a disk, but gs://bucket/run is in a bucket"):
        loggers.TensorBoard("gs://bucket/run")


@everywhere("fake wandb")
def test_a_damaged_place(backend: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "loggers").mkdir()
    (tmp_path / "loggers" / "wandb.json").write_text('{"id": "x"}')
    with pytest.raises(sj.UserError, match=r"wandb\.json does not say which log"):
        logger_of(backend, tmp_path)


def test_a_full_disk_stops_no_log_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = pytest.importorskip("tensorboardX.record_writer")
    log = loggers.TensorBoard(tmp_path)
    log(1, {"loss/largest": 1.0})

    def full(writer: Any, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writers.RecordWriter, "write", full)
        with pytest.raises(OSError, match="No space left"):
            log(2, {"loss/largest": 2.0})
    log(3, {"loss/largest": 3.0})
    log.close()
    assert [one.step for one in of_tensorboard(tmp_path).scalars] == [1, 3]


def test_a_logger_that_fails_at_the_end_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        name = "broken"

        def image(self, *given: Any) -> None:
            raise OSError("no space")

        close = image

    KINDS["broken"] = lambda folder: Broken()
    with contextlib.ExitStack() as stack:
        stack.callback(KINDS.pop, "broken")
        found = stack.enter_context(loggers.opened(["broken", "broken"], "run"))
        assert len(found) == 1
        result = {"front": [], "all": [], "split": "held-out"}
        space = tiny_config.TinySpace().build(classes=10, input_channels=1)
        loggers.log_front(found, sj.Front(space, result), 3)
    first, second = [record.getMessage() for record in caplog.records]
    assert "broken got no pictures of the search (OSError: no space)" in first
    assert "broken could not be closed (OSError: no space)" in second


@pytest.mark.parametrize("wrong", [3, "tensorboard"])
def test_a_number_or_a_name_is_no_logger(wrong: Any, tmp_path: pathlib.Path) -> None:
    with pytest.raises(sj.UserError, match=f"on_metrics is {wrong!r}, but must be a function"):
        sj.train(tiny_config.config, tmp_path / "run", on_metrics=wrong)
    assert not (tmp_path / "run").exists()
