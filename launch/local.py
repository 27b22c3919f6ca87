"""Starts several training processes on this machine, as a cluster would on several.

    python launch/local.py --processes 2 -- configs/digits.py --out runs/two

Everything after `--` goes to `supernet train`. Useful to try a job of several processes before a
cluster runs it; on a TPU pod or under Slurm start `supernet train ... --coordinator auto` on every
host instead. Exit status: that of the first process that fails, else 0.
"""

import argparse
import socket
import subprocess
import sys
import time


def main() -> None:
    """Starts the processes and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- then those of train")
    arguments = parser.parse_args()
    rest = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    address = f"localhost:{free_port()}"
    command = [sys.executable, "-m", "supernet_jax", "train", *rest]
    count = ["--coordinator", address, "--processes", str(arguments.processes)]
    workers = [
        subprocess.Popen([*command, *count, "--process", str(i)])
        for i in range(arguments.processes)
    ]
    sys.exit(first_failure(workers))


def first_failure(workers: list[subprocess.Popen]) -> int:
    """Waits for all; where one fails, ends the others, which would wait for it in vain."""
    while any(worker.poll() is None for worker in workers):
        failed = next((w.returncode for w in workers if w.poll()), 0)
        if failed:
            for worker in workers:
                worker.kill()
            return failed
        time.sleep(0.1)
    return next((w.returncode for w in workers if w.returncode), 0)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


if __name__ == "__main__":
    main()
