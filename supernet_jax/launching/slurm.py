"""SLURM: a batch script whose job is requeued when it is preempted, or stopped by the time limit.

SLURM sends SIGTERM `signal_seconds` before the time limit; training saves and ends with status 75,
after which the script asks for the job to be queued again. Sources: sbatch(1), scontrol(1).
"""

import dataclasses
import shlex
from typing import ClassVar

from supernet_jax.errors import UserError, at_least
from supernet_jax.launching.cluster_job import RESTARTED, OnGpus, Script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm(OnGpus):
    """Train on machines of a SLURM cluster; the current folder is shared by all of them."""

    EXAMPLES: ClassVar[str] = """
supernet launch slurm configs/digits.py --out runs/a --nodes 2 --gpus 8
supernet launch slurm configs/digits.py --out runs/a --dry-run -- --train.steps 2000"""

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
        at_least("--signal-seconds", self.signal_seconds, 10)
        for option, value in (("partition", self.partition), ("account", self.account)):
            if value and shlex.quote(value) != value:
                raise UserError(f"--{option} is {value!r}, which is no name in SLURM")

    @property
    def script(self) -> Script:
        """A script for sbatch."""
        options = {
            "job-name": self.name,
            "nodes": self.nodes,
            "ntasks-per-node": max(1, self.gpus),  # as JAX takes it under SLURM: a GPU a process
            "gpus-per-node": self.gpus or None,
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
        again = "|".join(map(str, RESTARTED))
        text = "\n".join(
            [
                "#!/bin/bash",
                *lines,
                *filter(None, [self.setup]),
                f"srun {self.spelt_command}",
                "status=$?",
                f'case "$status" in {again})',
                f'  [ "${{SLURM_RESTART_COUNT:-0}}" -lt {self.restarts} ] && '
                'scontrol requeue "$SLURM_JOB_ID" ;;',
                "esac",
                'exit "$status"',
                "",
            ]
        )
        follow = (f"tail -f {self.name}-JOB.log", f"squeue --name {self.name}", "scancel JOB")
        return Script(f"{self.name}.sbatch", text, ("sbatch",), follow)
