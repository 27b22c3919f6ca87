"""Starts several training processes on this machine, as a cluster would on several.

    python launch/local.py --processes 2 -- configs/digits.py --out runs/two

Everything after `--` goes to `supernet train`. Useful to try a job of several processes before a
cluster runs it; on a TPU pod or under Slurm start `supernet train ... --coordinator auto` on every
host instead. Signals that ask to stop (SIGTERM, SIGUSR1, Ctrl-C) are passed on to all processes.
Exit status: that of the first process that fails; 75 where they were stopped and saved what they
did; 0 where all finished.
"""

import argparse
import ctypes
import math
import signal
import socket
import subprocess
import sys
import time
from typing import Any

STOP_SECONDS = 20.0  # that processes have to end by themselves after another has failed
UNFINISHED = 75  # exit status: saved, not finished
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
DIE_WITH_PARENT = 1  # prctl(2): PR_SET_PDEATHSIG


def main() -> None:
    """Starts the processes, passes signals on to them, and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="how many, on this machine")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- then those of train")
    arguments = parser.parse_args()
    if arguments.processes < 1:
        parser.error(f"--processes is {arguments.processes}, but must be at least 1")
    rest = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    address = f"localhost:{free_port()}"
    command = [sys.executable, "-m", "supernet_jax", "train", *rest]
    count = ["--coordinator", address, "--processes", str(arguments.processes)]
    workers: list[subprocess.Popen] = []
    stopped: list[float] = []

    def pass_on(number: int, _: Any) -> None:
        stopped.append(time.monotonic())
        for worker in workers:
            worker.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    for i in range(arguments.processes):
        # A session of its own: Ctrl-C in the terminal comes once, from here.
        workers.append(
            subprocess.Popen(
                [*command, *count, "--process", str(i)],
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        )
        if stopped:  # while they were being started
            workers[-1].send_signal(signal.SIGTERM)
    try:
        sys.exit(wait(workers, stopped))
    finally:
        for worker in workers:
            worker.kill()


def wait(workers: list[subprocess.Popen], stopped: list[float]) -> int:
    """Waits for all. Where one fails the others have `STOP_SECONDS` to end; after a signal all have
    the time that they need, as for a save.

    Args:
        workers: the processes.
        stopped: times of signals that were passed on; may grow meanwhile.

    Returns:
        The exit status of the job.
    """
    failed = 0
    ending = math.inf
    while any(worker.poll() is None for worker in workers):
        failed = failed or next((w.returncode for w in workers if w.poll()), 0)
        if failed and not stopped and ending == math.inf:
            ending = time.monotonic() + STOP_SECONDS
            for worker in workers:
                worker.terminate()
        if time.monotonic() > ending:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    status = failed or next((w.returncode for w in workers if w.returncode), 0)
    # A process that did not hear signals yet was ended by one.
    return UNFINISHED if stopped and status in [-number for number in SIGNALS] else status


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _die_with_parent() -> None:
    """In a new process: it is asked to stop when its parent dies, which cannot always say so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


if __name__ == "__main__":
    main()
