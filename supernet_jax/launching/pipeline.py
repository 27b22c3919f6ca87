"""All of one run in a row: train, search, evaluate on the test split, extract."""

import dataclasses
import shlex
from typing import Annotated, ClassVar

import tyro

from supernet_jax.errors import UserError
from supernet_jax.experiment.search import Search
from supernet_jax.launching.cluster_job import ClusterJob, Script

STAGE = """\
#!/bin/sh
# Runs a command, which hears the signals of this script; ends with its status unless it is 0.
stage() {
  "$@" &
  trap "kill -TERM $! 2>/dev/null" TERM USR1 INT
  wait $!
  status=$?
  while kill -0 $! 2>/dev/null; do
    wait $!
    status=$?
  done
  [ "$status" -eq 0 ] || exit "$status"
}

"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ClusterJob):
    """Train, search, evaluate and extract on this machine, each stage when the one before is done.

    Every stage goes on where it was stopped, and one that is done takes no time again: the same
    command goes on with the whole. The networks are then in the folder `networks` of the run.
    """

    EXAMPLES: ClassVar[str] = """
supernet launch pipeline configs/digits.py --out runs/a --high 300000
supernet launch pipeline configs/digits.py --out runs/a --format onnx -- --train.steps 2000"""

    search: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)
    format: tuple[str, ...] = ("orbax",)
    """formats of the networks, as of `supernet extract`"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task != "train":
            raise UserError(f"--task is {self.task!r}, but a pipeline is of all tasks")

    @property
    def script(self) -> Script:
        """A shell script that ends with the status of the first stage that does not end with 0."""
        out = self.out.rstrip("/")
        settings = (
            (f"--{field.name.replace('_', '-')}", str(value))
            for field in dataclasses.fields(self.search)
            if (value := getattr(self.search, field.name)) != field.default
        )
        stages = (
            ("train", self.config, "--out", out, *self.overrides),
            ("search", out, *(word for setting in settings for word in setting)),
            ("evaluate", out, "--front", "--split", "test"),
            ("extract", out, "--front", "--out", f"{out}/networks", "--format", *self.format),
        )
        lines = [f"stage {shlex.join(('supernet', *stage))}" for stage in stages]
        return Script(f"{self.name}.sh", STAGE + "\n".join([*lines, ""]), ("sh",))
