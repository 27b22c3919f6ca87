"""What holds for every farm: pieces go to who is free, and to another when a worker dies."""

import contextlib
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from farms import Here

from supernet_jax.errors import UserError
from supernet_jax.runtime import farm, ray_farm
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


def test_what_is_left_of_an_earlier_call_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Of its pieces one was done, one lost its worker, and one is refused when nobody waits."""

    def work(piece: int) -> int:
        if piece == 0:
            raise UserError("no such piece")
        return piece * piece

    engine = Here(3, deaths={"worker 1": 0, "worker 2": 3})
    workers = Workers(engine, lambda: ("ready", work), accept)
    earlier = workers.results(range(9))
    assert next(earlier) == (1, 1) and len(workers) == 2
    assert engine.pieces == [("worker 3", 0), ("worker 2", 1), ("worker 1", 2)]
    assert sorted(workers.results(range(10, 15))) == [(i, i * i) for i in range(10, 15)]
    assert workers.idle == ["worker 3"] and len(caplog.records) == 2
    assert engine.pieces[-3:] == [("worker 3", piece) for piece in (12, 13, 14)]


def test_a_call_does_not_wait_for_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Here(2)
    workers = Workers(engine, squares, accept)
    workers.wait()
    next(workers.results(range(9)))
    monkeypatch.setattr(engine, "receive", lambda seconds: pytest.fail("waits"))
    assert list(workers.results(())) == []


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
    with pytest.raises(NoWorkers, match="2 of 2 workers of the farm have not begun within 0 s"):
        next(found)
    (record,) = caplog.records
    assert "note: 2 of 2 workers of the farm have not begun" in record.getMessage()


def test_one_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(farm, "BEGIN_SECONDS", 0.01)
    engine = Here(3)
    workers = Workers(engine, squares, accept)
    del engine._begun[0]
    with pytest.raises(NoWorkers, match="1 of 3 workers of the farm have not begun within 0 s"):
        workers.wait()


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


def test_without_ray_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """What its import has done to the environment until then is put back."""
    (tmp_path / "ray.py").write_text(
        "import os\nos.environ['HOME'] = os.environ['RAY_CLIENT_MODE'] = '0'\nraise ImportError"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_CLIENT_MODE", raising=False)
    before = dict(os.environ)
    engine = RayFarm(2)
    with pytest.raises(UserError, match=r'pip install --upgrade "supernet_jax\[ray\]"') as met:
        engine.start(squares)
    assert "\n" not in str(met.value)
    engine.stop()  # of what never was
    assert dict(os.environ) == before


def listening(processes: list[int]) -> list[str]:
    """The addresses at which processes take connections, in the hexadecimal digits of Linux."""
    found = {}
    for table in ("tcp", "tcp6"):
        text = pathlib.Path("/proc/net", table).read_text(encoding="ascii")
        for words in map(str.split, text.splitlines()[1:]):
            if words[3] == "0A":  # LISTEN
                found[f"socket:[{words[9]}]"] = words[1].partition(":")[0]
    addresses = []
    for process in processes:
        for descriptor in pathlib.Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                addresses.append(found.get(os.readlink(descriptor), ""))
    return [address for address in addresses if address]


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same in IPv6
    "00000000000000000000000001000000",  # ::1
}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs pip install ".[ray]"')
@pytest.mark.skipif(sys.platform != "linux", reason="reads sockets from /proc, which Linux has")
def test_a_ray_of_our_own_is_closed_to_others_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also where the program has imported Ray before, for which other variables are set."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationMode, get_authentication_mode

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    before, system = dict(os.environ), dict(ray_farm.SYSTEM)
    engine = RayFarm(1)
    try:
        workers = Workers(engine, lambda: ("ready", os.getenv), accept)
        assert dict(os.environ) == before and ray_constants.ENABLE_RAY_CLUSTER
        name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
        assert list(workers.results([name])) == [(name, "0")]
        assert get_authentication_mode() == AuthenticationMode.TOKEN
        addresses = listening([*ray_farm._marked(engine._folder), os.getpid()])
    finally:
        engine.stop()
    assert len(addresses) >= 4 and set(addresses) <= LOOPBACK
    assert get_authentication_mode() == AuthenticationMode.DISABLED
    assert dict(os.environ) == before and list(tmp_path.iterdir()) == []
    assert system == ray_farm.SYSTEM and not pathlib.Path(engine._folder).exists()
    assert capfd.readouterr().out == ""
