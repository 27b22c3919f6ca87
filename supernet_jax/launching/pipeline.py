"""All of one run in a row: train, search, evaluate on the test split, extract."""

import dataclasses
import shlex
from typing import Annotated, Any, ClassVar

import tyro

from supernet_jax.errors import UserError
from supernet_jax.evaluation import latency_table
from supernet_jax.experiment import extract
from supernet_jax.experiment.search import LATENCY, Search
from supernet_jax.launching.cluster_job import RESTARTED, ClusterJob, Script
from supernet_jax.storage.paths import expanded

STAGE = """\
#!/bin/sh
# Runs a command, which hears the signals of this script, again after it hung or crashed; ends with
# its status unless it is 0.
left={restarts}
asked=no
stage() {{
  while :; do
    "$@" &
    trap "asked=yes; kill -TERM $! 2>/dev/null" TERM USR1 INT
    wait $!
    status=$?
    while kill -0 $! 2>/dev/null; do
      wait $!
      status=$?
    done
    case $status in
      0) return ;;
      {again}) [ $asked = no ] && [ $left -gt 0 ] || exit "$status" ;;
      *) exit "$status" ;;
    esac
    left=$((left - 1))
  done
}}

"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ClusterJob):
    """Train, search, evaluate and extract on this machine, each stage when the one before is done.

    Every stage goes on where it was stopped, and one that is done takes no time again: the same
    command goes on with the whole. The networks are then in the folder `networks` of the run. The
    searcher is that of the configuration; its settings go behind --, as --searcher.population.
    """

    EXAMPLES: ClassVar[str] = """
supernet launch pipeline configs/digits.py --out runs/a --high 300000
supernet launch pipeline configs/digits.py --out runs/a --format onnx -- --train.steps 2000"""

    search: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)
    format: tuple[str, ...] = ("orbax",)
    """formats of the networks, as of `supernet extract`"""

    def __post_init__(self) -> None:
        super().__post_init__()
        # What search and extract are going to refuse, before hours of training.
        extract.checked(self.format, expanded(self.out) / "networks", pixels=False, size=None)
        if self.search.cost.startswith(f"{LATENCY}:"):
            latency_table.read(expanded(self.search.cost.removeprefix(f"{LATENCY}:")))
        if self.task != "train":
            raise UserError(f"--task is {self.task!r}, but a pipeline is of all tasks")

    @property
    def script(self) -> Script:
        """A shell script that ends with the status of the first stage that does not end with 0."""
        out, hang = self.out.rstrip("/"), ("--hang-seconds", str(self.hang_seconds))
        settings = (
            _words(field.name.replace("_", "-"), value)
            for field in dataclasses.fields(self.search)
            if (value := getattr(self.search, field.name)) != field.default
        )
        stages = (
            ("train", self.config, "--out", out, *hang, *self.overrides),
            ("search", out, *(word for setting in settings for word in setting)),
            ("evaluate", out, "--front", "--split", "test"),
            ("extract", out, "--front", "--out", f"{out}/networks", "--format", *self.format),
        )
        lines = [f"stage {shlex.join(('supernet', *stage))}" for stage in stages]
        stage = STAGE.format(restarts=self.restarts, again="|".join(map(str, RESTARTED)))
        return Script(f"{self.name}.sh", stage + "\n".join([*lines, ""]), ("sh",))


def _words(name: str, value: Any) -> tuple[str, ...]:
    """A setting as the command line takes it; one that is on or off has no value."""
    if isinstance(value, tuple):
        return tuple(word for one in value for word in _words(name, one))
    if isinstance(value, bool):
        return (f"--{name}" if value else f"--no-{name}",)
    return (f"--{name}", str(value))
