"""SLURM: a batch script whose job is requeued when it is preempted, or stopped by the time limit.

SLURM sends SIGTERM `signal_seconds` before the time limit to the processes, not to the script that
waits for them; training saves and ends with status 75, and the script has the job queued again.
When SLURM itself requeues the job, or it is cancelled, it ends the script first and gives the
processes `KillWait` (30 s as a rule) to save. Sources: sbatch(1), srun(1), scontrol(1).
"""

import dataclasses
import shlex
from typing import ClassVar

from supernet_jax.errors import UserError, at_least, require
from supernet_jax.launching.cluster_job import RESTARTED, OnGpus, Script

WAIT_SECONDS = 300  # that processes have to end by themselves after the first of them
LONGEST_SIGNAL = 65535  # seconds; the most that sbatch takes
EARLY_SECONDS = 60  # by which SLURM may be early with the signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm(OnGpus):
    """Train on machines of a SLURM cluster; the current folder is shared by all of them."""

    EXAMPLES: ClassVar[str] = """
supernet launch slurm configs/digits.py --out runs/a --nodes 2 --gpus 8
supernet launch slurm configs/digits.py --out runs/a --dry-run -- --train.steps 2000"""

    nodes: int = 1
    """number of machines, with one process for each GPU, or one where --gpus is 0"""
    cpus: int = 0
    """CPU cores of each process; 0 leaves them to the cluster, which often gives a single one"""
    time: str = "24:00:00"
    """time limit of each start, as SLURM writes it; the job is requeued when it is reached"""
    signal_seconds: int = 120
    """seconds before the time limit at which training is asked to save and to stop"""
    partition: str = ""
    """partition of the cluster; its default if not given"""
    account: str = ""
    """account that pays; your default if not given"""
    setup: str = ""
    """shell commands before training, as: module load cuda; source .venv/bin/activate"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--cpus", self.cpus, 0)
        at_least("--signal-seconds", self.signal_seconds, 10)
        require(
            self.signal_seconds <= LONGEST_SIGNAL,
            f"--signal-seconds is {self.signal_seconds}, but SLURM takes at most {LONGEST_SIGNAL}",
        )
        require(
            _seconds(self.time) > self.signal_seconds + EARLY_SECONDS,
            f"--time is {self.time}, which leaves no time to train: SLURM asks to stop "
            f"{self.signal_seconds} s before (--signal-seconds), or up to {EARLY_SECONDS} s sooner",
        )
        for option, value in (("partition", self.partition), ("account", self.account)):
            if value and shlex.quote(value) != value:
                raise UserError(f"--{option} is {value!r}, which is no name in SLURM")

    @property
    def script(self) -> Script:
        """A script for sbatch."""
        options = {
            "job-name": self.name,
            "nodes": self.nodes,
            "ntasks-per-node": max(1, self.gpus),  # under SLURM, JAX gives each process one GPU
            "gpus-per-node": self.gpus or None,
            "cpus-per-task": self.cpus or None,
            "time": self.time,
            "partition": self.partition or None,
            "account": self.account or None,
            "signal": f"TERM@{self.signal_seconds}",
            "requeue": "",
            "open-mode": "append",
            "output": f"{self.name}-%j.log",
        }
        lines = [
            f"#SBATCH --{key}={value}" if value != "" else f"#SBATCH --{key}"
            for key, value in options.items()
            if value is not None
        ]
        head = "\n".join([*lines, *filter(None, [self.setup])])
        # srun does not take the cores from sbatch. It returns the highest status of all processes;
        # those that are still saving when the first one ends are not killed.
        srun = ["srun", "--kill-on-bad-exit=0", f"--wait={WAIT_SECONDS}"]
        srun += [f"--cpus-per-task={self.cpus}"] if self.cpus else []
        text = f"""\
#!/bin/bash
{head}
{" ".join(srun)} {self.spelt_command}
status=$?
restarts=${{SLURM_RESTART_COUNT:-0}}
case "$status" in {"|".join(map(str, RESTARTED))})
  if [ "$restarts" -lt {self.restarts} ]; then
    echo "supernet: status $status, started again $restarts times so far; queued again"
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "supernet: status $status, and started again $restarts times already (--restarts)"
  fi ;;
esac
exit "$status"
"""
        follow = (f"tail -f {self.name}-JOB.log", f"squeue --name {self.name}", "scancel JOB")
        return Script(f"{self.name}.sbatch", text, ("sbatch",), follow)


def _seconds(time: str) -> int:
    """Of a time as SLURM writes it: minutes, M:S, H:M:S, or with days D-H, D-H:M, D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]):
        raise UserError(
            f"--time is {time!r}, but SLURM takes MINUTES, HOURS:MINUTES:SECONDS or "
            "DAYS-HOURS:MINUTES:SECONDS"
        )
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    own = sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
    return own + 86400 * int(days or 0)
