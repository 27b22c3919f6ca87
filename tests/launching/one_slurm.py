"""A whole SLURM of two nodes on this machine, and its jobs."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import processes

CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName={host}x NodeHostname={host}x NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES
"""
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")


def is_there() -> bool:
    """Whether SLURM is installed and may be run."""
    return os.geteuid() == 0 and all(map(shutil.which, NEEDED))


@contextlib.contextmanager
def cluster(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Runs SLURM with its files in a folder, as root and without systemd.

    The second node is of the same machine, under a name of its own.

    Yields:
        environment variables of its users; their jobs use the package under test.
    """
    host = socket.gethostname().split(".")[0]
    with contextlib.ExitStack() as opened:
        each = [opened.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        ports = [one.getsockname()[1] for one in each]
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, ports=ports))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    for node in (host, f"{host}x"):
        (folder / node).mkdir()
    variables = {
        **processes.environment(),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    munge = [f"--{name}-file={folder / 'munge'}.{name}" for name in ("key", "pid", "seed", "log")]
    daemons = [
        ["munged", "-F", "-f", f"--socket={folder / 'munge.socket'}", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
        ["slurmd", "-D", "-N", f"{host}x"],
    ]
    log, running = folder / "daemons.log", []
    try:
        for daemon in daemons:
            with log.open("a") as to:
                running.append(subprocess.Popen(daemon, env=variables, stdout=to, stderr=to))
            if daemon[0] == "munged":
                until((folder / "munge.socket").exists, 30, log.read_text)
        until(lambda: slurm(variables, "sinfo", "-ht", "idle", "-o%D") == "2", 60, log.read_text)
        yield variables
        slurm(variables, "scancel", "-u", "root")
        until(lambda: not slurm(variables, "squeue", "-h"), 60, log.read_text)
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def slurm(variables: dict[str, str], *command: str) -> str:
    """What a program of SLURM prints; nothing while it fails."""
    return subprocess.run(command, env=variables, capture_output=True, text=True).stdout.strip()


def until(there: Callable[[], object], seconds: float, text: Callable[[], str]) -> None:
    limit = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < limit, text()
        time.sleep(0.05)


class Job:
    """A job of the cluster, by its number."""

    def __init__(self, variables: dict[str, str], said: str):
        self.variables, self.id = variables, said.split("Submitted batch job ")[1].split()[0]

    def __getattr__(self, field: str) -> str:
        shown = slurm(self.variables, "scontrol", "show", "job", self.id, "--oneliner")
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)[field]

    def log(self) -> str:
        path = pathlib.Path(self.StdOut)
        return path.read_text("utf-8") if path.exists() else ""

    def start_again(self) -> None:
        """A job that is queued again waits for two minutes, so that its nodes are free."""
        until(lambda: self.JobState == "PENDING" and self.Reason == "BeginTime", 60, self.log)
        slurm(self.variables, "scontrol", "update", f"JobId={self.id}", "StartTime=now")

    def end(self) -> str:
        """Waits, and says how it ended."""
        until(lambda: self.JobState in ("COMPLETED", "FAILED", "CANCELLED"), 300, self.log)
        return f"{self.JobState} {self.ExitCode} after {self.Restarts}"
