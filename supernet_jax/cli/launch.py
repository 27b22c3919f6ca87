"""`supernet launch SYSTEM`: start a training job on a cluster, or write what would start it."""

import dataclasses
import inspect
import pathlib
import sys
from typing import Annotated, Generic, TypeVar

import tyro

from supernet_jax.errors import UserError, near
from supernet_jax.launching import LAUNCHERS, ClusterJob
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded

Job = TypeVar("Job", bound=ClusterJob)


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[Job]):
    """Start a training job, or write what would start it.

    What follows -- goes to `supernet train`, or to what --task names, and is looked at as there
    before anything is started.
    """

    job: Annotated[Job, tyro.conf.arg(name="")]
    dry_run: bool = False
    """print what would be started, and start nothing"""
    out_file: pathlib.Path | None = None
    """write it to this file, and start nothing"""


def system(arguments: list[str]) -> type[ClusterJob]:
    """The system that is named first.

    Raises:
        UserError: there is none of this name.
    """
    known = ", ".join(LAUNCHERS)
    if not arguments:
        raise UserError(f"say where: {known}; supernet launch --help explains them")
    if arguments[0] not in LAUNCHERS:
        hint = near(arguments[0], LAUNCHERS)
        raise UserError(f"launch starts jobs by {known}, not by {arguments[0]}{hint}")
    return LAUNCHERS[arguments[0]]


def overview() -> str:
    """What systems there are, a line each."""
    lines = [
        f"  {name:<10}{(inspect.getdoc(launcher) or '').splitlines()[0]}"
        for name, launcher in LAUNCHERS.items()
    ]
    return "\n".join(
        [
            "Start a training job that goes on by itself after failures and preemption:",
            "",
            *lines,
            "",
            "supernet launch SYSTEM --help explains each.",
        ]
    )


def run(arguments: Arguments) -> None:
    """Starts the job, or prints or writes what would start it."""
    script = arguments.job.script
    if arguments.out_file is not None:
        path = expanded(arguments.out_file)
        files.check_free("--out-file", path)
        files.write_text(path, script.text)
        print(f"wrote {path}; start it with: {' '.join(script.command)} {path}", file=sys.stderr)
    if arguments.dry_run:
        print(script.text, end="")
    elif arguments.out_file is None:
        status = script.start()
        if status:
            job = f"the job {arguments.job.name} ({script.command[0]})"
            print(f"supernet: {job} ended with status {status}", file=sys.stderr)
            sys.exit(status)
    for line in () if arguments.dry_run else script.follow:
        print(f"  {line}")
