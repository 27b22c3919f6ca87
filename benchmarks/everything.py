"""All benchmarks by one command, each in a process of its own, on whatever machine this is.

    python benchmarks/everything.py --quick
    python benchmarks/everything.py --out figures
    python benchmarks/everything.py --out figures --reference AttentiveNAS --budget 25

The folder gets a JSON file and a log for each benchmark, and one `table.md` with the machine, the
versions and all tables, written anew after each. What is in the folder already is not run again
unless `--again`. A benchmark that fails is named with its last lines, the others go on, and the
exit status is 1.

The most valuable come first. With `--budget` a benchmark is left out that does not fit into what is
left of the minutes, by a rough estimate; one that runs longer than them is stopped. Neither is a
failure; the same command with a new budget goes on from there.

On a GPU the training step runs at several sizes, in float32 and in bfloat16. `--variants` runs what
depends on the compiler again with other options of XLA; `--xla-flags` is one of your own.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jobs import VARIANTS, Job, every, with_variants

HERE = pathlib.Path(__file__).parent
TAIL = 15  # lines of a failed benchmark that are shown


class Ended(NamedTuple):
    """What became of a job: "done", "kept", "skipped", "stopped" or "failed", and why."""

    job: Job
    state: str
    why: str = ""


def main() -> None:
    """Runs what is not there yet, and writes the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    parser = command_line()
    arguments = parser.parse_args()
    folder = arguments.out or pathlib.Path("figures-quick" if arguments.quick else "figures")
    try:
        variants = chosen(arguments)
        machine = describe()
        found = every(machine["backend"], arguments.quick, arguments.reference)
        found = [job for job in found if arguments.only is None or job.script in arguments.only]
        found = with_variants(found, variants)
        if not arguments.again:
            check(folder, found, machine)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        print("\n".join(f"{job.name}: about {job.minutes:g} min: {job.command}" for job in found))
        return
    folder.mkdir(parents=True, exist_ok=True)
    ended = run_all(found, folder, budget=arguments.budget, again=arguments.again)
    print(f"tables: {folder / 'table.md'}", file=sys.stderr)
    sys.exit(1 if any(e.state == "failed" for e in ended) else 0)


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder (default: figures)")
    parser.add_argument("--quick", action="store_true", help="small versions, a few minutes in all")
    parser.add_argument("--again", action="store_true", help="also what is in the folder already")
    parser.add_argument("--budget", type=float, help="minutes that all may take")
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", help="such as train_step memory")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    parser.add_argument(
        "--reference", type=pathlib.Path, help="checkout of the published code, for peer_alphanet"
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument(
        "--xla-flags",
        action="append",
        default=[],
        metavar="NAME:FLAGS",
        help="a variant of your own; may be given several times",
    )
    return parser


def chosen(arguments: argparse.Namespace) -> dict[str, str]:
    """XLA flags by variant; ValueError for one that is unknown."""
    own = {}
    for text in arguments.xla_flags:
        name, colon, flags = text.partition(":")
        if not colon or not name.replace("-", "").isalnum():
            raise ValueError(
                f"--xla-flags is {text!r}, but must be NAME:FLAGS, NAME of a-z, 0-9, -"
            )
        own[name] = flags
    names = arguments.variants or ["default"]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ValueError(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    return {name: VARIANTS[name] for name in names} | own


def describe() -> dict[str, Any]:
    """The machine, asked in another process: one that has seen a GPU keeps its memory."""
    code = (
        "import json; from supernet_jax.runtime import hardware; "
        "print(json.dumps(hardware.describe()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=surroundings(""), stdout=subprocess.PIPE, text=True
    )
    if ended.returncode:
        raise ValueError("JAX does not run here, see above")
    return json.loads(ended.stdout.splitlines()[-1])


def check(folder: pathlib.Path, found: Iterable[Job], machine: Mapping[str, Any]) -> None:
    """ValueError where the folder holds figures of another command or machine."""
    for job in found:
        file = folder / f"{job.name}.json"
        if not file.exists():
            continue
        there = json.loads(file.read_text("utf-8"))
        if there["command"] != job.command:
            raise ValueError(
                f"{file} is of another command ({there['command']}), not of {job.command}; "
                "give another folder with --out, or --again to replace it"
            )
        if there["machine"] != machine:
            raise ValueError(
                f"{file} is of another machine or other versions; "
                "give another folder with --out, or --again to replace it"
            )


def run_all(
    found: Sequence[Job], folder: pathlib.Path, *, budget: float | None, again: bool
) -> list[Ended]:
    """Runs the jobs one after the other, says how they go, and keeps the tables up to date."""
    start = time.monotonic()
    ended: list[Ended] = []
    for i, job in enumerate(found):
        left = None if budget is None else budget * 60 - (time.monotonic() - start)
        say(f"[{i + 1} of {len(found)}] {job.name}: ", end="")
        ended.append(one(job, folder, left, again=again))
        say(ended[-1].state + (f": {ended[-1].why}" if ended[-1].why else ""))
        write_tables(folder, found, ended)
    return ended


def one(job: Job, folder: pathlib.Path, left: float | None, *, again: bool) -> Ended:
    """Runs a job unless it is done or does not fit into the seconds that are left."""
    file = folder / f"{job.name}.json"
    if file.exists() and not again:
        return Ended(job, "kept")
    if left is not None and left < job.minutes * 60:
        needs = f"needs about {job.minutes:g} min"
        return Ended(job, "skipped", f"{needs}, {max(left, 0) / 60:.1f} of the budget are left")
    say(f"about {job.minutes:g} min, log in {folder / job.name}.log ... ", end="")
    begin = time.monotonic()
    part, log = folder / f"{job.name}.part", folder / f"{job.name}.log"
    command = [sys.executable, str(HERE / f"{job.script}.py"), *job.options, "--json", str(part)]
    status, printed = spawn(command, log, surroundings(job.flags), left)
    taken = time.monotonic() - begin
    if status is None:
        return Ended(job, "stopped", f"the budget was spent after {taken / 60:.1f} min of it")
    if status:
        last = "\n".join(f"    {line}" for line in log.read_text("utf-8").splitlines()[-TAIL:])
        return Ended(
            job, "failed", f"exit status {status} after {taken:.0f} s; its last lines:\n{last}"
        )
    noted = {"command": job.command, "seconds": taken, "printed": printed}
    part.write_text(
        json.dumps(noted | json.loads(part.read_text("utf-8")), indent=1) + "\n", encoding="utf-8"
    )
    part.replace(file)  # there whole, or not at all
    return Ended(job, "done", f"{taken:.0f} s")


def surroundings(flags: str) -> dict[str, str]:
    """The environment of a benchmark."""
    both = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path} | ({"XLA_FLAGS": both} if both else {})


def spawn(
    command: Sequence[str], log: pathlib.Path, environment: Mapping[str, str], left: float | None
) -> tuple[int | None, str]:
    """Exit status (None: stopped) and standard output of a process; the rest goes into the log."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,  # so that its own processes can be ended with it
        )
        try:
            printed, _ = process.communicate(timeout=left)
            return process.returncode, printed
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def write_tables(folder: pathlib.Path, found: Sequence[Job], ended: Sequence[Ended]) -> None:
    """Writes `table.md`: the machine, then what each benchmark printed, then what is missing."""
    there = {job: folder / f"{job.name}.json" for job in found}
    done = {
        job: json.loads(file.read_text("utf-8")) for job, file in there.items() if file.exists()
    }
    parts = ["# Figures"]
    if done:
        machine = next(iter(done.values()))["machine"]
        rows = [f"| {key} | {value} |" for key, value in machine.items()]
        parts.append("\n".join(["| | |", "|---|---|", *rows]))
    for job, noted in done.items():
        settings = noted.get("settings", {})
        precision = settings.get("matmul_precision")
        about = f"{noted['seconds']:.0f} s in all; products of matrices at {precision} precision"
        if settings.get("kernels") == "native":
            about += "; compiled kernels"
        if settings.get("flags"):
            about += f"; XLA flags `{settings['flags']}`"
        parts += [f"## {job.name}", f"    {job.command}", about + ".", spaced(noted["printed"])]
    missing = [e for e in ended if e.state in ("skipped", "stopped", "failed")]
    if missing:
        lines = [f"- {e.job.name}: {e.state}, {e.why.splitlines()[0]}" for e in missing]
        parts += ["## Not measured", "\n".join(lines)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def spaced(printed: str) -> str:
    """Printed text as Markdown: a list of the lines between tables, each table by itself."""
    lines = [
        line if line.startswith("|") or not line else f"- {line}" for line in printed.splitlines()
    ]
    return "\n".join(line for line, _ in itertools.groupby(lines)).strip("\n")


def say(text: str, *, end: str = "\n") -> None:
    """On the terminal, at once."""
    print(text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
