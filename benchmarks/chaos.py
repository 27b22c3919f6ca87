"""Trains while signals, full disks and torn files hit the processes: does the same come out?

    python benchmarks/chaos.py --runs 100

Each run trains the same tiny supernet as 1, 2 or 4 processes. Again and again something happens to
one process or to all: SIGKILL, SIGTERM, SIGUSR1, or SIGSTOP and SIGCONT, at a moment drawn from the
whole of a start (imports, compilation, restore, steps, saves); a limit on the size of files, as a
full disk; a file of the last checkpoint that is cut short. Then all are started again, until they
finish. Every run must end with bitwise the state and the lines of metrics of a run of as many
processes that nothing disturbed, every process with a status that fits what happened to it, and
none of them may be left waiting. The table goes into `docs/reliability.md`.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from supernet_jax.launching.run_processes import free_port
from supernet_jax.storage import checkpoint

STEPS = 24
CONFIG = f"""
import dataclasses

import supernet_jax as sj
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training.optimizers import Sgd


@dataclasses.dataclass(frozen=True)
class Tiny:
    def build(self, *, classes, input_channels):
        return mobilenet(
            "tiny",
            resolutions=(6, 8),
            stem=(4, 8),
            stem_stride=2,
            stages=(Stage((4, 8), (1, 2), (3,), (1, 2), 1),),
            last=(8, 12),
            classes=classes,
            input_channels=input_channels,
            head_ratio=2,
            dropout=0.2,
            drop_path=0.2,
        )


config = sj.Config(
    space=Tiny(),
    data=sj.Data(name="digits", held_out=0.2, pad=1),
    optimizer=Sgd(learning_rate=0.05),
    train=sj.Train(steps={STEPS}, batch=16, ema=0.9, checkpoint_every=4, log_every=1),
    evaluation=sj.Evaluation(calibration_batches=2, batch=32, chunk=4),
)
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP)
DISASTERS = (*(number.name for number in SIGNALS), "full disk", "torn file")
HANG_SECONDS = 600  # without a step, after which a process says where it hangs, and ends
JOIN_SECONDS = 90  # that processes wait for one that was killed before it had joined them
LIMIT_SECONDS = 1500  # after which processes that are left are a failure
FULL_BYTES = 2000  # of a file, while the disk is full


def main() -> None:
    """Runs, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="of the runs, in turn"
    )
    parser.add_argument("--disasters", type=int, default=4, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, help="also write the counts to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        chaos = Chaos(pathlib.Path(folder))
        whole = {n: chaos.undisturbed(n) for n in sorted(set(arguments.processes))}
        for run in range(arguments.runs):
            n = arguments.processes[run % len(arguments.processes)]
            rng = random.Random(1000 * arguments.seed + run)
            faults = chaos.disturbed(n, rng, arguments.disasters, whole[n])
            print(f"run {run}, {n} processes: {'; '.join(faults) or 'as undisturbed'}", flush=True)
            chaos.count[n, "runs"] += 1
            chaos.count[n, "faults"] += bool(faults)
            if arguments.json:  # after hours somebody may stop it
                kept = {f"{n}: {name}": number for (n, name), number in chaos.count.items()}
                arguments.json.write_text(json.dumps(kept, indent=1), "utf-8")
    print(chaos.table(sorted(whole)))
    sys.exit(any(number for (_, name), number in chaos.count.items() if name == "faults"))


class Chaos:
    """Runs in one folder, and what happened to them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.config = folder / "tiny.py"
        self.config.write_text(CONFIG, "utf-8")
        self.count: collections.Counter[tuple[int, str]] = collections.Counter()
        self.seconds: dict[int, float] = {}  # that a start takes when nothing happens

    def undisturbed(self, n: int) -> str:
        """The digest of a run to which nothing happens; twice, so that its programs are compiled
        and the time of a start is known.
        """
        for name in ("first", "whole"):
            begun = time.monotonic()
            for worker in self.start(self.folder / f"{name}{n}", n):
                if worker.wait(600):
                    raise SystemExit(f"undisturbed: {self.said()}")
            self.seconds[n] = time.monotonic() - begun
        return digest(self.folder / f"whole{n}")

    def disturbed(self, n: int, rng: random.Random, disasters: int, whole: str) -> list[str]:
        """What went wrong in a run to which something happens several times; best nothing."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        faults = []
        for _ in range(disasters):
            faults += self.disaster(run, n, rng)
        for _ in range(3):
            workers = self.start(run, n)
            faults += self.ended(workers, allowed={0})
            if not any(worker.returncode for worker in workers):
                break
        if faults:
            return faults
        return [] if digest(run) == whole else ["the state or the metrics differ"]

    def disaster(self, run: pathlib.Path, n: int, rng: random.Random) -> list[str]:
        """Starts the processes, lets something happen to them, and waits until all have ended."""
        what = rng.choice(DISASTERS)
        self.count[n, what] += 1
        if what == "torn file":
            return torn(run, rng)
        if what == "full disk":
            workers = self.start(run, n, full=rng.randrange(n))
            return self.ended(workers, allowed={0, 2, 75})
        number = signal.Signals[what]
        workers = self.start(run, n)
        time.sleep(rng.uniform(0, 1.1 * self.seconds[n]))
        hit = workers if rng.random() < 0.5 else [rng.choice(workers)]
        for worker in hit:
            worker.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(rng.uniform(0, 4))  # less than the heartbeat: nobody is dead
            for worker in hit:
                worker.send_signal(signal.SIGCONT)
            return self.ended(workers, allowed={0})
        # Before Python hears signals, they end it themselves.
        return self.ended(workers, allowed={0, 75, -9, -number})

    def start(
        self, run: pathlib.Path, n: int, *, full: int | None = None
    ) -> list[subprocess.Popen]:
        """The processes of a job; the disk is full for one of them, if it is said for which."""
        command = [sys.executable, "-m", "supernet_jax", "train", self.config, "--out", run]
        command += ["--hang-seconds", str(HANG_SECONDS)]
        place = ["--coordinator", f"localhost:{free_port()}", "--processes", str(n)]
        place += ["--join-seconds", str(JOIN_SECONDS), "--process"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        workers = []
        for i in range(n):
            with open(self.folder / f"said{i}", "wb") as said:
                workers.append(
                    subprocess.Popen(
                        [
                            *(["prlimit", f"--fsize={FULL_BYTES}"] if i == full else []),
                            *command,
                            *([*place, str(i)] if n > 1 else []),
                        ],
                        env=environment,
                        stdout=said,
                        stderr=said,
                    )
                )
        return workers

    def ended(self, workers: list[subprocess.Popen], *, allowed: set[int]) -> list[str]:
        """Waits for all; what is wrong about how they ended."""
        end = time.monotonic() + LIMIT_SECONDS
        faults = []
        for i, worker in enumerate(workers):
            try:
                status = worker.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
                faults.append(f"process {i} did not end in {LIMIT_SECONDS} s")
                continue
            self.count[len(workers), f"status {status}"] += 1
            if status not in allowed:
                faults.append(f"status {status} of process {i}: {self.said()}")
        return faults

    def said(self) -> str:
        """The last words of all processes."""
        files = sorted(self.folder.glob("said*"))
        return " | ".join(file.read_text("utf-8", "replace")[-300:] for file in files)

    def table(self, processes: list[int]) -> str:
        """In Markdown."""
        names = sorted({name for _, name in self.count if name not in ("runs", "faults")})
        rows = ["runs", "faults", *names]
        lines = [f"| | {' | '.join(f'{n} processes' for n in processes)} |"]
        lines.append("|---" * (1 + len(processes)) + "|")
        lines += [
            f"| {name} | {' | '.join(str(self.count[n, name]) for n in processes)} |"
            for name in rows
        ]
        return "\n".join(lines)


def torn(run: pathlib.Path, rng: random.Random) -> list[str]:
    """Cuts the end off a file of the last checkpoint, and does what the message of it says: the
    checkpoint is moved aside. Does nothing where there is only one.
    """
    steps = checkpoint.steps(run / "checkpoints")
    if len(steps) < 2:
        return []
    last = run / "checkpoints" / str(steps[-1])
    file = rng.choice([path for path in sorted(last.rglob("*")) if path.is_file()])
    os.truncate(file, rng.randrange(max(1, file.stat().st_size)))
    command = [sys.executable, "-m", "supernet_jax", "evaluate", run, "--archs", "smallest"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    if refused.returncode == 2 and len(refused.stderr.splitlines()) > 1:
        return [f"more than a line: {refused.stderr[-300:]}"]
    if refused.returncode not in (0, 2):  # 0: a file that nobody reads
        return [f"status {refused.returncode} with a torn file: {refused.stderr[-300:]}"]
    shutil.rmtree(last)
    return []


def digest(run: pathlib.Path) -> str:
    """Of the last state, and of the lines of metrics, which must be those of the steps in order."""
    tree: Any = checkpoint.read_tree(run / "checkpoints" / str(STEPS) / "state")
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    if [line["step"] for line in lines] != list(range(1, STEPS + 1)):
        return f"steps {[line['step'] for line in lines]}"
    found.update(json.dumps(lines, sort_keys=True).encode())
    return found.hexdigest()


if __name__ == "__main__":
    main()
