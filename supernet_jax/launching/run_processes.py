"""Runs several processes of one job on this machine, and again when one of them dies.

python -m supernet_jax.launching.run_processes PROCESSES RESTARTS supernet train ...
"""

import ctypes
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from supernet_jax.launching.cluster_job import RESTARTED
from supernet_jax.runtime import stopping

SAY_SECONDS = 5.0  # that processes have to say themselves which other one has failed
STOP_SECONDS = 25.0  # until they are killed
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
DIE_WITH_PARENT = 1  # prctl(2): PR_SET_PDEATHSIG


def main(arguments: list[str]) -> int:
    """Runs processes until they have finished, and again when one of them has died.

    Args:
        arguments: the number of processes, how often they may be started again, and the command
            of each, beginning with `supernet`; in it `{coordinator}` becomes `HOST:PORT
            --processes N --process I`.

    Returns:
        The exit status of the job: 0 where all finished, 75 where they were stopped by a signal and
        saved what they did, else that of the first process that failed.
    """
    processes, restarts, (_, *words) = int(arguments[0]), int(arguments[1]), arguments[2:]
    workers: list[subprocess.Popen] = []
    stopped: list[float] = []

    def pass_on(number: int, _: Any) -> None:
        stopped.append(time.monotonic())
        for worker in workers:
            worker.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    for left in range(restarts, -1, -1):
        workers[:] = _started(processes, words, stopped)
        try:
            status = _wait(workers, stopped)
        finally:
            for worker in workers:
                worker.kill()
        if stopped or not left or not _again(status):
            break
        print(
            f"supernet: a process ended with status {status}; all are started again, "
            f"{left - 1} more times at most",
            file=sys.stderr,
            flush=True,
        )
    return status if status >= 0 else 128 - status


def _again(status: int) -> bool:
    """Whether a job that ended so is started again: it was stopped, hung, or killed."""
    return status < 0 or status in RESTARTED


def _started(processes: int, words: list[str], stopped: list[float]) -> list[subprocess.Popen]:
    coordinator = f"localhost:{free_port()}"
    workers = []
    for i in range(processes):
        place = [coordinator, "--processes", str(processes), "--process", str(i)]
        at = words.index("{coordinator}")
        command = [sys.executable, "-m", "supernet_jax", *words[:at], *place, *words[at + 1 :]]
        # A session of its own: Ctrl-C in the terminal comes once, from here.
        workers.append(
            subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)
        )
        if stopped:  # while they were being started
            workers[-1].send_signal(signal.SIGTERM)
    return workers


def _wait(workers: list[subprocess.Popen], stopped: list[float]) -> int:
    """Waits for all. Where one fails the others are made to end; after a signal all have
    the time that they need, as for a save.

    Args:
        workers: the processes.
        stopped: times of signals that were passed on; may grow meanwhile.

    Returns:
        The exit status of the job, negative where a process was ended by a signal.
    """
    failed, since = 0, 0.0
    while any(worker.poll() is None for worker in workers):
        failed = failed or next((w.returncode for w in workers if w.poll()), 0)
        if failed and not stopped:
            since = since or time.monotonic()
            for seconds, end in ((SAY_SECONDS, signal.SIGTERM), (STOP_SECONDS, signal.SIGKILL)):
                if time.monotonic() - since > seconds:
                    for worker in workers:
                        worker.send_signal(end)
        time.sleep(0.1)
    statuses = [w.returncode for w in workers]
    if 2 in statuses:  # what one process refuses is why the others end, too
        return 2
    status = failed or next((s for s in statuses if s), 0)
    # A process that did not hear signals yet was ended by one.
    return stopping.UNFINISHED if stopped and status in [-n for n in SIGNALS] else status


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
    sys.exit(main(sys.argv[1:]))
