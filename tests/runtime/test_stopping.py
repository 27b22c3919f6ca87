"""Signals: heard at once wherever the process is, held back while there is something to save."""

import os
import signal
import subprocess
import sys
import time

import pytest

from supernet_jax.runtime import stopping

# Deep in compiled code: Python's own handlers do not run there.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
HEAD = "import hashlib, sys, time\nfrom supernet_jax.runtime import stopping\n"


def ended(body: str, *numbers: int, wait: float = 0.0) -> tuple[int, str, float]:
    """Exit status, output, and seconds from the first signal to the end of a program that says
    `ready` when signals may come.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        for number in numbers:
            time.sleep(wait)
            process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, time.monotonic() - start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_in_python_it_raises(number: int) -> None:
    body = """
with stopping.listening():
    try:
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt as stopped:
        print(stopped)
        sys.exit(stopped.status)
"""
    status, out, _ = ended(body, number)
    assert status == (130 if number == signal.SIGINT else 75)
    assert out == f"stopped by {signal.Signals(number).name}\n"


def test_in_compiled_code_it_leaves_soon() -> None:
    body = f"""
with stopping.listening():
    print("said before")
    print("ready", file=sys.stderr, flush=True)
    {BUSY}
"""
    status, out, seconds = ended(body, signal.SIGTERM, wait=0.5)
    assert status == 75 and seconds < stopping.SECONDS + 4
    assert out == f"supernet: stopped; {stopping.GOES_ON}\nsaid before\n"


def test_held_until_it_suits_but_not_for_ever() -> None:
    body = f"""
stopping.HELD_SECONDS = 1.5
with stopping.listening(), stopping.held():
    print("ready", flush=True)
    while not stopping.asked():
        time.sleep(0.01)
    print("asked", flush=True)
    {BUSY}
"""
    status, out, seconds = ended(body, signal.SIGTERM)
    assert status == 75 and 1.4 < seconds < 5
    assert out.startswith("asked\n")


def test_a_save_is_waited_for() -> None:
    body = """
stopping.SECONDS = stopping.HELD_SECONDS = 0.2
with stopping.listening():
    with stopping.held():
        with stopping.held(patient=True):
            print("ready", flush=True)
            time.sleep(2)
        print("saved", flush=True)
    stopping.stop() if stopping.asked() else None
"""
    status, out, seconds = ended(body, signal.SIGTERM)
    assert "saved" in out and "Stopped: stopped by SIGTERM" in out and seconds > 1.5
    assert status != 0


def test_a_second_interrupt_means_now() -> None:
    body = """
with stopping.listening(), stopping.held(patient=True):
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""
    status, _, seconds = ended(body, signal.SIGINT, signal.SIGINT, wait=1.2)
    assert status == 130 and seconds < 5


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with stopping.listening():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        with stopping.listening():  # within itself it does nothing
            pass
        assert signal.getsignal(signal.SIGTERM) != before[0]
    now = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert now == before and not stopping.asked()


def test_in_a_notebook_an_interrupt_never_ends_the_process() -> None:
    body = f"""
stopping.SECONDS = stopping.HELD_SECONDS = 0.1
with stopping.listening(program=False), stopping.held():
    try:
        print("ready", flush=True)
        while not stopping.asked():
            time.sleep(0.01)
        {BUSY.replace("10**9", "3 * 10**6")}
        time.sleep(60)
    except KeyboardInterrupt as again:
        print(repr(again), flush=True)
with stopping.listening(program=False):
    print("asked" if stopping.asked() else "anew")
"""
    status, out, _ = ended(body, signal.SIGINT, signal.SIGINT, wait=1.1)
    assert (status, out) == (0, "Stopped('stopped by SIGINT')\nanew\n")


def test_in_a_notebook_others_still_end_it() -> None:
    body = f"""
with stopping.listening(program=False):
    print("ready", flush=True)
    {BUSY}
"""
    status, _, seconds = ended(body, signal.SIGTERM, wait=0.5)
    assert status == 75 and seconds < stopping.SECONDS + 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_after_the_end_changes_nothing(number: int) -> None:
    body = """
with stopping.listening(ends=True):
    pass
print("ready", flush=True)
time.sleep(1)
"""
    assert ended(body, number)[:2] == (0, "")
