"""One writer: who holds a folder is said, and a dead process holds nothing."""

import errno
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pytest

from supernet_jax.errors import UserError
from supernet_jax.storage import lock


def _hold(folder: pathlib.Path, ready: str) -> None:
    with lock.held(folder):
        pathlib.Path(ready).touch()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path: pathlib.Path):
    """A process that holds the folder."""
    ready = tmp_path / "ready"
    folder = tmp_path / "run"
    folder.mkdir()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(folder, str(ready)))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    yield process, folder
    process.kill()
    process.join()


def test_a_second_writer_hears_who_holds_it(holder) -> None:
    process, folder = holder
    with pytest.raises(UserError, match=rf"is being written by process {process.pid} on .*, since"):
        with lock.held(folder):
            pass
    assert json.loads((folder / lock.FILE).read_text("utf-8"))["pid"] == process.pid  # as it was


def test_a_dead_process_holds_nothing(holder) -> None:
    process, folder = holder
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert json.loads((folder / lock.FILE).read_text("utf-8"))["pid"] == process.pid
    with lock.held(folder):
        assert json.loads((folder / lock.FILE).read_text("utf-8"))["pid"] == os.getpid()
    assert json.loads((folder / lock.FILE).read_text("utf-8")) == {}


def test_in_one_process_too(tmp_path: pathlib.Path) -> None:
    with lock.held(tmp_path), pytest.raises(UserError, match="is being written by process"):
        with lock.held(tmp_path):
            pass


def unsupported(*_: object) -> None:
    """A file system without locks."""
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("locks", [True, False])
def test_another_host_by_its_sign_of_life(
    locks: bool,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 3.0)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)
    if not locks:
        monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    path = tmp_path / lock.FILE
    sign = json.dumps({"host": "elsewhere", "pid": 1, "started": "then"})
    path.write_text(sign, "utf-8")
    renewed = threading.Timer(1.0, os.utime, (path, (1, 1)))
    renewed.start()
    with pytest.raises(UserError, match="is being written by process 1 on elsewhere, since then"):
        with lock.held(tmp_path):
            pass
    renewed.join()
    assert "3 s at most for a sign of its life" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [lock.FILE] and path.read_text("utf-8") == sign

    old = time.time() - 2.0
    os.utime(path, (old, old))
    with lock.held(tmp_path):  # after one more second
        pass
    assert json.loads(path.read_text("utf-8")) == {}


def test_a_clock_that_jumped_back_does_not_lengthen_the_wait(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)
    path = tmp_path / lock.FILE
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "then"}), "utf-8")
    later = time.time() + 3600
    os.utime(path, (later, later))
    start = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - start < 30


def test_without_locks_by_whether_the_process_is_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    ended = subprocess.Popen(["true"])
    ended.wait()
    sign = {"host": socket.gethostname(), "pid": ended.pid, "started": "then"}
    (tmp_path / lock.FILE).write_text(json.dumps(sign), "utf-8")
    start = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - start < lock.STALE_SECONDS / 2


def test_a_sign_of_life_is_given(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    path = tmp_path / lock.FILE
    with lock.held(tmp_path):
        os.utime(path, (0, 0))
        limit = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < limit:
            time.sleep(0.02)
        assert path.stat().st_mtime > 0


def test_a_lock_file_cut_short_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    (tmp_path / lock.FILE).write_text('{"host": "els', "utf-8")
    with lock.held(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="cannot write"), lock.held(tmp_path / "none"):
        pass
