"""What holds for every farm: pieces go to who is free, and to another when a worker dies."""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from farms import Here

from supernet_jax.errors import UserError
from supernet_jax.runtime import farm
from supernet_jax.runtime.farm import Farm, NoWorkers, Workers
from supernet_jax.runtime.ray_farm import RayFarm


def squares() -> tuple[str, Callable[[int], int]]:
    """What a worker begins with."""
    return "ready", lambda piece: piece * piece


def accept(worker: str, said: Any) -> None:
    assert said == "ready" and worker.startswith("worker ")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_piece_is_done_once(count: int) -> None:
    engine = Here(count)
    assert isinstance(engine, Farm)
    workers = Workers(engine, squares, accept)
    for pieces in (range(9), range(2), ()):
        found = list(workers.results(pieces))
        assert sorted(found) == [(piece, piece * piece) for piece in pieces]
        assert sorted(workers.idle) == engine.names and len(workers) == count
    assert len(engine.pieces) == 11


def test_pieces_are_taken_when_a_worker_is_free() -> None:
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(20):
            taken.append(piece)
            yield piece

    found = Workers(Here(3), squares, accept).results(pieces())
    next(found)
    assert len(taken) == 3
    next(found)
    assert len(taken) == 4


def test_work_of_the_dead_goes_to_others(caplog: pytest.LogCaptureFixture) -> None:
    engine = Here(3, deaths={"worker 1": 2, "worker 2": -1})
    workers = Workers(engine, squares, accept)
    with caplog.at_level(logging.WARNING, "supernet_jax"):
        assert sorted(workers.results(range(9))) == [(i, i * i) for i in range(9)]
    said = [record.getMessage() for record in caplog.records]
    assert sorted(said) == [
        "warning: worker 1 of the farm has died (killed); others go on with its work, 1 of 3",
        "warning: worker 2 of the farm has died (killed); others go on with its work, 2 of 3",
    ]
    assert len(engine.pieces) == 10 and workers.idle == ["worker 3"]


def test_nobody_is_left() -> None:
    found = Workers(Here(2, deaths={"worker 1": 1, "worker 2": 3}), squares, accept).results(
        range(9)
    )
    done: list[Any] = []
    with pytest.raises(NoWorkers, match=r"no other is left of 2; what was finished is kept"):
        done += iter(lambda: next(found), None)  # what was done before it
    found = Workers(Here(1, deaths={"worker 1": -1}), squares, accept).results(range(9))
    with pytest.raises(NoWorkers, match="worker 1 of the farm has died"):
        next(found)


def test_nobody_begins(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(farm, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(farm, "BEGIN_SECONDS", 0.01)
    found = Workers(Here(2, silent=True), squares, accept).results(range(9))
    with pytest.raises(NoWorkers, match="no worker of the farm has begun within 0 s"):
        next(found)
    (record,) = caplog.records
    assert "waiting for the first of 2 workers" in record.getMessage()


def test_mistakes_of_users_travel_and_bugs_are_raised() -> None:
    def refuse(piece: Any = None) -> Any:
        raise UserError("there is no run folder x")

    def fail(piece: int) -> int:
        raise ZeroDivisionError

    for begin in (refuse, lambda: ("ready", refuse)):
        with pytest.raises(UserError, match=r"worker \d: there is no run folder x"):
            next(Workers(Here(2), begin, accept).results(range(3)))
    with pytest.raises(ZeroDivisionError):
        next(Workers(Here(2), lambda: ("ready", fail), accept).results(range(3)))


def test_a_worker_that_does_not_pass_gets_nothing() -> None:
    def check(worker: str, said: Any) -> None:
        raise UserError(f"{worker} has other data")

    engine = Here(2)
    with pytest.raises(UserError, match="worker 2 has other data"):
        next(Workers(engine, squares, check).results(range(3)))
    assert engine.pieces == []


def test_a_worker_computes_on_its_share_alone() -> None:
    variables = farm.environment(3, here=True)
    assert variables["NPROC"] == variables["OMP_NUM_THREADS"] == "3"
    assert variables["JAX_PLATFORMS"] == "cpu" and variables["JAX_NUM_CPU_DEVICES"] == "1"
    config: Any = jax.config
    assert variables["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"  # as the tests have set it
    assert variables["JAX_COMPILATION_CACHE_DIR"] == config.jax_compilation_cache_dir
    assert "JAX_COMPILATION_CACHE_DIR" not in farm.environment(3, here=False)


@pytest.mark.parametrize(
    "where", ["", "0", "-1", "257", "2.5", "many", "host:", "host:99999", ":1"]
)
def test_what_is_no_farm(where: str) -> None:
    with pytest.raises(UserError, match="give a number of workers for this machine"):
        RayFarm(where)


def test_a_client_of_ray_is_said_not_to_be_used() -> None:
    with pytest.raises(UserError, match="Ray's client is not used"):
        RayFarm("ray://host:10001")


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    engine = RayFarm(2)
    with pytest.raises(UserError, match=r'pip install "supernet_jax\[ray\]"') as met:
        engine.start(squares)
    assert "\n" not in str(met.value)
    engine.stop()  # of what never was
