"""This machine: several processes of one job, as a cluster would start them on several machines."""

import dataclasses
import shlex
from typing import ClassVar

from supernet_jax.errors import at_least
from supernet_jax.launching.cluster_job import ClusterJob, Script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(ClusterJob):
    """Run several processes on this machine, to try what several machines will do.

    Signals that ask to stop (SIGTERM, SIGUSR1, Ctrl-C) are passed on to all processes; the status
    is then 75, or 130 after Ctrl-C, and the same command goes on.
    """

    EXAMPLES: ClassVar[str] = """
supernet launch local configs/digits.py --out runs/a --processes 2
supernet launch local configs/digits.py --out runs/a --task search -- --high 300000"""

    processes: int = 2
    """number of processes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--processes", self.processes, 1)

    @property
    def devices(self) -> int:
        """One of each process; several GPUs would be shared by all of them."""
        return self.processes

    @property
    def joining(self) -> tuple[str, ...]:
        """Filled in when the processes are started."""
        return ("--coordinator", "{coordinator}")

    @property
    def script(self) -> Script:
        """A shell script of one command."""
        command = [
            *("python", "-m", "supernet_jax.launching.run_processes"),
            *(str(self.processes), str(self.restarts), *self.command),
        ]
        text = f"#!/bin/sh\nexec {shlex.join(command)}\n"
        return Script(f"{self.name}.sh", text, ("sh",))
