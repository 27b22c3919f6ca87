"""A farm finds the same as one process: with 1, 2 and 4 workers of Ray, whoever dies meanwhile."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import processes
import pytest
import tiny_run
from farms import Here
from tiny_run import CONFIG, NETWORKS, supernet

import supernet_jax as sj
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, config, farm, read_archs, results
from supernet_jax.experiment.farm import FarmEvaluator
from supernet_jax.experiment.run import Run, with_params
from supernet_jax.runtime.farm import NoWorkers
from supernet_jax.runtime.ray_farm import RayFarm
from supernet_jax.storage import user_code

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs pip install ".[ray]"'
)
TYPES = config.load_file(CONFIG)[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """On one device, as in a worker: on several the last digits depend on who is beside whom."""
    found = sj.open_run(tiny_run.trained(tmp_path_factory), TYPES, read=False)
    mesh = build.mesh_of(found.config, jax.devices()[:1])
    return with_params(found._replace(experiment=found.experiment._replace(mesh=mesh)))


@pytest.fixture
def once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this process take the run that is open, so that programs are compiled once."""

    def opened(folder: str, types: Any) -> Run:
        assert os.path.isabs(folder)  # wherever the worker is
        return run._replace(folder=pathlib.Path(folder))

    monkeypatch.setattr(farm.experiment_run, "open_run", opened)


@pytest.fixture(scope="module")
def archs(run: Run) -> list[Arch]:
    """Nearly all of the space, of some networks twice."""
    return read_archs.sample(run.space, 40, seed=0)


@pytest.fixture(scope="module")
def alone(run: Run, archs: list[Arch]) -> list[dict[str, Any]]:
    """The records of one process."""
    return results.Scorer(run, "held-out", what="", keep=False)(archs)


def lines(folder: pathlib.Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def by_arch(records: list[Any]) -> list[Any]:
    return sorted({json.dumps(record, sort_keys=True) for record in records})


# --- by Ray ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_ray(run: Run) -> Iterator[FarmEvaluator]:
    """Four workers of Ray, which are started once for all tests."""
    evaluator = FarmEvaluator(run, "held-out", RayFarm(4))
    yield evaluator
    evaluator.stop()


@needs_ray
@pytest.mark.parametrize("count", [1, 2, 4])
def test_records_are_those_of_one_process(
    count: int,
    run: Run,
    archs: list[Arch],
    alone: list[dict[str, Any]],
    by_ray: FarmEvaluator,
    tmp_path: pathlib.Path,
) -> None:
    by_ray.start()
    workers = by_ray._workers
    spared = [workers.idle.pop() for _ in range(4 - count)]
    scorer = results.Scorer(run._replace(folder=tmp_path), "held-out", evaluator=by_ray)
    assert scorer(archs) == alone
    assert by_arch(lines(tmp_path)) == by_arch(alone) and len(lines(tmp_path)) <= NETWORKS
    workers.idle += spared
    assert len({machine.process for machine in by_ray.machines.values()}) == 4


@needs_ray
def test_a_worker_of_ray_is_killed_in_the_middle(
    run: Run,
    archs: list[Arch],
    alone: list[dict[str, Any]],
    by_ray: FarmEvaluator,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (worker, machine), *_ = by_ray.machines.items()
    os.kill(machine.process, signal.SIGSTOP)  # so that it does not finish before it is killed
    by_ray._workers.idle.sort(key=lambda name: name == worker)  # who is last is sent the first

    def killing(some: Arch, wanted: Any) -> Iterator[Any]:
        found = by_ray(some, wanted)
        yield next(found)
        os.kill(machine.process, signal.SIGKILL)
        yield from found

    scorer = results.Scorer(run._replace(folder=tmp_path), "held-out", what="", evaluator=killing)
    assert scorer(archs) == alone
    (record,) = caplog.records
    assert f"{worker} of the farm has died (killed or crashed" in record.getMessage()
    assert capfd.readouterr().out == ""  # where Ray would say it in a paragraph
    assert len(by_ray._workers) == 3


def left(folder: pathlib.Path) -> list[str]:
    """What processes of `start`, and those that they started, were called with."""
    mark, found = f"{MARK}={folder}\0".encode(), []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (path / "environ").read_bytes()
            if mark in text:
                found.append((path / "cmdline").read_bytes().decode())
    return found


MARK = "SUPERNET_TEST_FARM"


def start(folder: pathlib.Path, workers: int = 1) -> subprocess.Popen:
    """`supernet evaluate` by a farm, in processes of their own."""
    words = ["evaluate", folder, "--config", CONFIG, "--random", 40, "--farm", workers]
    return subprocess.Popen(
        [sys.executable, "-m", "supernet_jax", *map(str, words)],
        env={**processes.environment(), MARK: str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_goes_on(
    number: int, alone: list[dict[str, Any]], tmp_path: pathlib.Path, run: Run
) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    file = folder / "evaluations.jsonl"
    job = start(folder)
    assert processes.until(job, lambda: file.exists() and file.stat().st_size > 0)
    (place,) = {
        name for text in left(folder) for name in re.findall(r"/[\w/]*supernet-ray-\w+", text)
    }
    job.send_signal(number)
    status, _, err = processes.finish(job)
    assert status == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 75}[number], err
    assert number == signal.SIGKILL or "the same command goes on" in err
    assert 4 <= len(lines(folder)) < len(by_arch(alone))
    end = time.monotonic() + 180  # two of Ray's agents try for a minute to report a SIGKILL
    while left(folder) and time.monotonic() < end:
        time.sleep(0.1)
    assert left(folder) == []
    assert pathlib.Path(place).exists() == (number == signal.SIGKILL)
    shutil.rmtree(place, ignore_errors=True)
    if number == signal.SIGINT:  # to save time: it goes on from the same file as after SIGTERM
        return
    status, out, err = processes.finish(start(folder, workers=2))
    assert status == 0 and "subnets on 64 held-out images" in out and "(raylet)" not in out + err
    assert by_arch(lines(folder)) == by_arch(alone) and len(lines(folder)) == len(by_arch(alone))
    assert left(folder) == []


# --- by workers in this process --------------------------------------------------------------


def test_a_search_ends_the_same(
    run: Run, tmp_path: pathlib.Path, once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order in which workers finish is another one, and one of them dies."""
    monkeypatch.chdir(tmp_path)
    searcher = sj.searching.Evolution(population=6, mutations=3, crossovers=3)
    found = []
    for name, engine in (("one", None), ("farm", Here(3, deaths={"worker 2": 1}))):
        here = run._replace(folder=pathlib.Path(name))
        here.folder.mkdir()
        found.append(sj.search(here, searcher=searcher, evaluations=12, farm=engine).result)
        found[-1].pop("run")
    assert found[0] == found[1] and engine.stopped == 1
    assert by_arch(lines(tmp_path / "one")) == by_arch(lines(tmp_path / "farm"))
    assert {len(piece.where) for _, piece in engine.pieces} <= {1, 2}  # all have some


def test_what_is_known_starts_no_farm(
    run: Run, archs: list[Arch], tmp_path: pathlib.Path, once: None
) -> None:
    here, engine = run._replace(folder=tmp_path), Here(1)
    first = sj.evaluate(here, archs, farm=engine)
    again = Here(1)
    assert sj.evaluate(here, archs, farm=again) == first
    assert engine.pieces and not again.pieces and not hasattr(again, "workers")


def test_what_was_finished_is_kept_when_nobody_is_left(
    run: Run, archs: list[Arch], alone: list[dict[str, Any]], tmp_path: pathlib.Path, once: None
) -> None:
    here, engine = run._replace(folder=tmp_path), Here(1, deaths={"worker 1": 2})
    with pytest.raises(NoWorkers):
        sj.evaluate(here, archs, farm=engine)
    assert len(lines(tmp_path)) == 8 and engine.stopped == 1  # two chunks
    assert sj.evaluate(here, archs, farm=Here(2)) == alone
    assert by_arch(lines(tmp_path)) == by_arch(alone)


def test_the_status_of_a_command_whose_workers_died(
    run: Run, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    monkeypatch.setattr(farm, "RayFarm", lambda where: Here(1, deaths={"worker 1": 1}))
    said = supernet(capsys, "evaluate", folder, "--config", CONFIG, "--random", 40, "--farm", "1")
    assert said.status == 75 and "the same command goes on where it stopped" in said.err
    assert [line for line in said.err.splitlines() if "worker 1 of the farm has died" in line]
    assert len(lines(folder)) == 4


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data", "the data of this process: other there, "),
        ("checkpoint", "the last checkpoint of this process: other there, 30 here"),
        ("weights", "the weights of this process"),
        ("code", "the versions of JAX, Flax and this package of this process"),
        ("images", "the images of this process"),
    ],
)
def test_a_worker_with_another_run_is_refused(
    key: str, said: str, run: Run, archs: list[Arch], tmp_path: pathlib.Path
) -> None:
    evaluator = FarmEvaluator(run, "held-out", Here(1))
    evaluator._facts  # noqa: B018
    theirs = {**evaluator._facts, key: "other"}
    with pytest.raises(UserError, match=said):
        evaluator._check("worker 1", (theirs, farm.Machine("host", 1, "a processor")))


def test_processors_that_differ_are_noted_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = FarmEvaluator(run, "held-out", Here(1))
    for i, kind in enumerate(("one", "one", "two", "three")):
        evaluator._check(f"worker {i}", (evaluator._facts, farm.Machine("host", i, kind)))
    (record,) = caplog.records
    assert "the processors of the farm differ (two; one)" in record.getMessage()


def test_weights_that_differ_in_one_bit_are_told_apart(run: Run) -> None:
    same = farm.facts(run, "held-out")
    assert same == farm.facts(run, "held-out")
    block = run.params["head"]
    leaf = jax.tree.leaves(block)[0]
    flipped = np.asarray(leaf).copy()
    flipped.view(np.int32).reshape(-1)[0] ^= 1
    changed = jax.tree.map(lambda x: flipped if x is leaf else x, run.params)
    assert farm.facts(run._replace(params=changed), "held-out")["weights"] != same["weights"]


# --- parts of the user's own -----------------------------------------------------------------


def test_a_config_file_travels(run: Run, tmp_path: pathlib.Path) -> None:
    """To a machine that has no such file, or another one in its place."""
    (source,) = farm.sources(run.config)
    assert source.path == str(CONFIG) and set(source.names) == {"TinySpace"}
    for place, text in (("none.py", None), ("other.py", "raise RuntimeError")):
        path = tmp_path / place
        if text is not None:
            path.write_text(text)
        (kind,) = source._replace(path=str(path)).types().values()
        assert kind().build(classes=10, input_channels=1).name == "tiny"
        assert user_code.source(kind) != path


def test_parts_that_cannot_travel_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(run.config.space)
    monkeypatch.setattr(kind, "__module__", "__main__")
    with pytest.raises(UserError, match="TinySpace is defined in a notebook or in the script"):
        farm.sources(run.config)
    monkeypatch.setattr(kind, "__module__", "no_such_module")
    (source,) = farm.sources(run.config)
    with pytest.raises(UserError, match="cannot import no_such_module, where the TinySpace"):
        source.types()
