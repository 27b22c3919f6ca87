"""What a job on a cluster is, whichever system starts it, and what such a system takes."""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Annotated, ClassVar

import tyro

from supernet_jax.errors import UserError, at_least, near, one_of, require
from supernet_jax.launching import accelerators
from supernet_jax.runtime import stopping, watchdog
from supernet_jax.storage import files
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import check_url, expanded

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAME_LENGTH = 40  # so that a pod's name, with what Kubernetes appends, stays below 63
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]")
TASKS = ("train", "search", "evaluate")
CAPACITY = re.compile(r"on-demand|spot|flex|reserved:[a-zA-Z0-9][-\w./]*", re.ASCII)
CAPACITIES = ("on-demand", "spot", "flex", "reserved:NAME")
# Exit statuses after which a job is started again: stopped, hung, and crashed, killed, stopped
# before Python listened.
RESTARTED = (stopping.UNFINISHED, watchdog.HUNG, 134, 137, 139, 143)


@dataclasses.dataclass(frozen=True)
class Script:
    """What a system takes: a file, and the command that starts it.

    Attributes:
        name: of the file.
        text: its content.
        command: that starts it; the path of the file follows.
        follow: command lines that show how the job is going, and that end it.
    """

    name: str
    text: str
    command: tuple[str, ...]
    follow: tuple[str, ...] = ()

    def start(self) -> int:
        """Runs the command, and returns its exit status; signals are passed on to it.

        Raises:
            UserError: this machine does not have the program.
        """
        require(
            shutil.which(self.command[0]) is not None,
            f"there is no program {self.command[0]} on this machine, which starts the job; install "
            "it, or use --out-file and start the job where there is one",
        )
        with tempfile.TemporaryDirectory(prefix="supernet-") as folder:
            path = pathlib.Path(folder) / self.name
            files.write_text(path, self.text)
            # `supernet` and `python` are those that are running now.
            found = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
            process = subprocess.Popen(
                [*self.command, str(path)], env={**os.environ, "PATH": found}
            )
            passed_on = False
            with stopping.held(patient=True):  # the signal is the job's
                while process.poll() is None:
                    # A terminal sends Ctrl-C to all that run in it.
                    told = stopping.asked() == signal.SIGINT and sys.stdin and sys.stdin.isatty()
                    if stopping.asked() and not told and not passed_on:
                        process.send_signal(stopping.asked())
                        passed_on = True
                    time.sleep(0.05)
        status = process.returncode
        return status if status >= 0 else 128 - status


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """A training job, as every system sees it."""

    EXAMPLES: ClassVar[str] = ""  # command lines that its help shows

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """config file, by its path in the folder where the job runs, as configs/digits.py"""
    overrides: tyro.conf.Suppress[tuple[str, ...]] = ()
    """options of the command that the task is"""
    out: str
    """folder of the run, which all processes reach: in a bucket (gs://..., s3://...), or shared"""
    task: str = "train"
    """train | search | evaluate: what to do with the run in --out"""
    name: str = ""
    """name of the job, of a-z, 0-9 and -; if not given, the last part of --out: two runs that are
    called alike need names"""
    restarts: int = 20
    """how often the job may be started again, after a failed or a reclaimed machine"""
    hang_seconds: int = 1800
    """end a job that makes no step for so long, so that it is started again; 0 waits for ever"""

    @property
    def script(self) -> Script:
        """What the system takes."""
        raise NotImplementedError

    @property
    def devices(self) -> int:
        """Devices of the whole job, each with an equal part of a batch; 1 where it is not known."""
        return 1

    def __post_init__(self) -> None:
        one_of("--task", self.task, TASKS)
        at_least("--restarts", self.restarts, 0)
        at_least("--hang-seconds", self.hang_seconds, 0)
        for option, value in (
            *(("CONFIG", self.config), ("--out", self.out)),
            *((f"what follows -- ({word!r})", word) for word in self.overrides),
        ):
            require(
                not CONTROL.search(value),
                f"{option} has a control character in it, which no cluster passes on; take it out",
            )
        own_options = [w for w in self.overrides if w.partition("=")[0] in self.owned]
        require(
            not own_options,
            f"{', '.join(own_options)} cannot follow --: the job tells processes their places, and "
            "--out and --hang-seconds belong before --",
        )
        require(self.out != "", "--out is '', but must name a folder, or one in a bucket")
        check_url(self.out)
        own = re.sub(r"[^a-z0-9]+", "-", pathlib.PurePath(self.out).name.lower()).strip("-")
        name = self.name or (own if own[:1].isalpha() else f"run-{own}")[:NAME_LENGTH].strip("-")
        if not NAME.fullmatch(name) or len(name) > NAME_LENGTH:
            raise UserError(
                f"--name is {name!r}, but names of jobs are of a-z, 0-9 and -, begin with a "
                f"letter, do not end with -, and have at most {NAME_LENGTH} characters"
            )
        object.__setattr__(self, "name", name)

    @property
    def owned(self) -> tuple[str, ...]:
        """Options of the task that the job itself gives."""
        places = ("--coordinator", "--processes", "--process")
        return (*places, "--out", "--hang-seconds", "--dry-run") if self.task == "train" else places

    @property
    def joining(self) -> tuple[str, ...]:
        """Options by which its processes find each other."""
        return ("--coordinator", "auto")

    @property
    def command(self) -> tuple[str, ...]:
        """The command that every process of the job runs."""
        if self.task != "train":
            return ("supernet", self.task, self.out, *self.joining, *self.overrides)
        return (
            *("supernet", "train", self.config, "--out", self.out, *self.joining),
            *("--hang-seconds", str(self.hang_seconds), *self.overrides),
        )

    def installed(self, jax: str) -> str:
        """The command that installs `supernet` in a copy of the current folder: the folder if it
        is a project, else the released library; with JAX for `jax`, as tpu or cuda12.
        """
        project = any(pathlib.Path(name).is_file() for name in ("pyproject.toml", "setup.py"))
        return f"uv pip install --quiet {'.' if project else 'supernet_jax'} 'jax[{jax}]'"

    @property
    def spelt_command(self) -> str:
        """The same for a shell."""
        return shlex.join(self.command)

    def need_bucket(self, why: str) -> None:
        """Raises a `UserError` unless the run lies in a bucket."""
        if not isinstance(expanded(self.out), Bucket):
            raise UserError(
                f"--out is {self.out!r}, {why}; give a bucket, as gs://BUCKET/{self.out.strip('/')}"
            )

    def need_config_here(self) -> None:
        """Raises a `UserError` unless the config file comes along with the current folder."""
        inside = pathlib.PurePath(self.config)
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(
                f"the config file {self.config} is not in the current folder, which is what the "
                "hosts get; copy it there and give its path from there"
            )
        if not pathlib.Path(self.config).is_file():
            raise UserError(f"there is no config file {self.config}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnTpu(ClusterJob):
    """A job on slices of Cloud TPU."""

    accelerator: str
    """type of the slice: v5e-N or v6e-N of N chips, v5p-N or tpu7x-N (GKE only) of N cores, which
    are two a chip"""
    topology: str = ""
    """how its chips are wired, as 4x4 or 2x2x2; if not given, as compact as they can be"""
    slices: int = 1
    """number of slices that train together"""
    capacity: str = "on-demand"
    """on-demand | spot (cheaper, may be reclaimed) | flex (waits in a queue) | reserved:NAME"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--slices", self.slices, 1)
        if not CAPACITY.fullmatch(self.capacity):
            raise UserError(
                f"--capacity is {self.capacity!r}, allowed: {', '.join(CAPACITIES)}"
                f"{near(self.capacity, CAPACITIES)}"
            )
        _ = self.slice

    @property
    def slice(self) -> accelerators.TpuSlice:
        """Each slice of the job."""
        return accelerators.tpu_slice(self.accelerator, self.topology)

    @property
    def devices(self) -> int:
        """All chips."""
        return self.slices * self.slice.chips

    @property
    def reservation(self) -> str:
        """Name of the reservation, "" for other capacities."""
        return self.capacity.partition(":")[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnGpus(ClusterJob):
    """A job on machines with GPUs."""

    nodes: int = 1
    """number of machines, with one process each"""
    gpus: int = 1
    """GPUs of each machine"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--nodes", self.nodes, 1)
        at_least("--gpus", self.gpus, 0)

    @property
    def devices(self) -> int:
        """All GPUs; a CPU is one device."""
        return self.nodes * max(1, self.gpus)
