"""Processes that watch each other: who died is named, and orderly ends disturb nobody."""

import ctypes
import errno
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import pytest

from supernet_jax.cli import main
from supernet_jax.errors import UserError
from supernet_jax.runtime import peers, stopping
from supernet_jax.storage import failures

SECONDS = 0.6  # of silence, in these tests


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit statuses with which this process would have ended."""
    statuses: list[int] = []
    monkeypatch.setattr(stopping, "leave", statuses.append)
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(peers, "PART_SECONDS", 0.2)
    return statuses


@pytest.fixture
def pair(left):
    """Makes a link to another process, and what that one has of it."""
    made = []

    def connected(process: int) -> tuple[peers._Link, peers._Link]:
        made.extend(socket.socketpair())
        return peers._Link(made[-2], process, f"host{process}"), peers._Link(made[-1], 0, "host0")

    yield connected
    for end in made:
        end.close()
    time.sleep(0.2)  # the threads end


def until(condition) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_one_that_dies_is_named_to_all(pair, left, capsys):
    (first, dying), (second, living) = pair(1), pair(2)
    peers._Watch([first, second], 60).start()
    dying.connection.close()
    assert until(lambda: left == [stopping.UNFINISHED])
    assert "process 1 (on host1) has died; this one ends too" in capsys.readouterr().err
    assert peers.Ended(1, "host1", -1) in [peers.Ended(*m) for m in living.hear() if m]


def test_silence_is_death_and_signs_of_life_are_not(pair, left, capsys):
    (quiet, _kept), (lively, other) = pair(1), pair(2)
    peers._Watch([quiet, lively], SECONDS).start()
    while not left:
        other.say(None)
        time.sleep(0.02)
    assert left == [stopping.UNFINISHED]
    assert "process 1 (on host1) was not heard of for 0.6 s" in capsys.readouterr().err


def test_what_another_process_heard_is_passed_on_with_its_status(pair, left, capsys):
    here, zero = pair(0)
    peers._Watch([here], 60).start()
    zero.say(peers.Ended(3, "host3", 2))
    assert until(lambda: left == [2])
    assert "process 3 (on host3) ended with status 2, its own line" in capsys.readouterr().err


def test_an_orderly_end_disturbs_nobody(pair, left):
    (first, ending), (second, living) = pair(1), pair(2)
    watch = peers._Watch([first, second], 60)
    watch.start()
    ending.say(peers.Ended(1, "host1", 0))
    ending.connection.close()
    assert until(lambda: watch.links == [second])
    watch.end(0)
    living.connection.close()
    watch.join(10)
    assert not watch.is_alive() and left == []


def test_a_process_that_was_stopped_itself_blames_nobody(pair, left, monkeypatch):
    """SIGSTOP and SIGCONT, or a laptop that slept: all others seem silent for that long."""
    here, other = pair(1)
    clock = [0.0]
    fake = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
    monkeypatch.setattr(peers, "time", fake)
    watch = peers._Watch([here], 10.0)
    here.heard = 0.0
    watch.start()
    time.sleep(0.2)
    clock[0] = 1000.0  # the thread did not run in between
    time.sleep(0.3)
    other.say(None)
    time.sleep(0.2)
    assert left == [] and watch.is_alive()
    other.say(peers.Ended(1, "host1", 0))
    watch.join(10)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("no"), 2),
        (RuntimeError("a bug"), 1),
        (stopping.Stopped(15), stopping.UNFINISHED),
        (stopping.Stopped(15, step=7), 0),  # all of them, after the same step
    ],
)
def test_statuses_that_others_hear(error, status):
    assert peers.status_of(error) == status


def test_a_save_that_fails_for_another_process_is_no_mistake(monkeypatch, tmp_path, capsys):
    lost = ValueError("UNKNOWN: Gloo AllGather failed: Read error: Connection reset by peer")
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(stopping, "leave", pytest.fail)
    with pytest.raises(UserError, match="cannot write") as told, failures.writing(tmp_path):
        raise lost
    assert peers.is_lost(lost) and peers.is_lost(told.value)
    assert peers.status_of(told.value) == main._told(told.value) == stopping.UNFINISHED
    assert "another process of this job has ended" in capsys.readouterr().err
    assert not peers.is_lost(ValueError("CURL error[56]: Connection reset by peer"))  # a bucket's
    failures.end_process(tmp_path, lost)
    assert capsys.readouterr().err == ""
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="No space left") as told, failures.writing(tmp_path):
        raise full
    assert not peers.is_lost(told.value)


def test_one_process_watches_nothing():
    assert jax.process_count() == 1
    with peers.watched(5):
        assert stopping.farewell is None


def test_an_abort_waits_for_the_watch_also_after_an_error(pair, left, monkeypatch):
    (link, dying) = pair(0)
    handlers = []
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    def sleep(_: float) -> None:
        handlers.append(libc.signal(signal.SIGABRT, None))
        libc.signal(signal.SIGABRT, handlers[-1])

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(peers, "_connected", lambda: [link])
    monkeypatch.setattr(peers, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with pytest.raises(ValueError, match="Gloo"), peers.watched(60):
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    assert handlers[0] == ctypes.cast(libc.sleep, ctypes.c_void_p).value
    dying.connection.close()


def test_an_abort_comes_later() -> None:
    """So much that this process can end as it should, and not so much that it stays."""
    script = (
        "import ctypes, os, resource, sys, threading, time\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "from supernet_jax.runtime import peers\n"
        "abort = ctypes.CDLL(None).abort\n"  # without Python's lock, as XLA does
        "with peers.aborts_later():\n"
        "    if sys.argv[1] != 'after':\n"
        "        threading.Thread(target=abort).start()\n"
        "        time.sleep(float(sys.argv[1]))\n"
        "        os._exit(75)\n"
        "threading.Thread(target=abort).start()\n"
        "time.sleep(3)\n"
        "os._exit(75)\n"
    )
    words = ("1", "60", "after")
    ends = [subprocess.Popen([sys.executable, "-c", script, word]) for word in words]
    begun = time.monotonic()
    aborted = -signal.SIGABRT
    assert [end.wait(60) for end in ends] == [stopping.UNFINISHED, aborted, aborted]
    assert time.monotonic() - begun > 5
