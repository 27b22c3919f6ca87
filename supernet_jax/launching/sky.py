"""SkyPilot: a task file for a managed job, which goes on elsewhere when its machines are lost.

The file itself starts training again where the machines are left. SkyPilot could, by
`job_recovery.recover_on_exit_codes`, but without a limit, and it would take a mistake for a crash:
when one node fails, it kills the others, which it takes to have ended with 137. Source: the task
YAML and the code of SkyPilot 0.14.
"""

import dataclasses
import re
import textwrap
from typing import ClassVar

from supernet_jax.errors import UserError, at_least, one_of, require
from supernet_jax.launching import accelerators
from supernet_jax.launching.cluster_job import RESTARTED, ClusterJob, Script

PORT = 8476
MANY = (
    f' --coordinator "$(head -n 1 <<<"$SKYPILOT_NODE_IPS"):{PORT}"'
    ' --processes "$SKYPILOT_NUM_NODES" --process "$SKYPILOT_NODE_RANK"'
)
TASK = """\
# A managed job of SkyPilot: sky jobs launch FILE, in the folder of the project.
name: {name}
resources:
  accelerators: {accelerator}
  use_spot: {spot}{more}
num_nodes: {nodes}
workdir: .
setup: |
{setup}
run: |
{run}
"""
RUN = """\
. ~/venv/bin/activate
for start in $(seq 0 {restarts}); do  # stopped, hung or crashed: again, from the last checkpoint
  status=0
  {train} || status=$?
  case $status in {again}) ;; *) break ;; esac
done
exit $status
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sky(ClusterJob):
    """Train on machines of any cloud by SkyPilot, with the current folder copied to them."""

    EXAMPLES: ClassVar[str] = """
supernet launch sky configs/digits.py --out s3://BUCKET/runs/a --accelerator H100:8 --nodes 2
supernet launch sky configs/digits.py --out gs://BUCKET/runs/a --accelerator v6e-8 --capacity spot"""  # noqa: E501

    accelerator: str
    """GPUs of each machine, as H100:8, or type of the TPU slice, as v6e-8"""
    nodes: int = 1
    """number of machines with GPUs, with one process each"""
    capacity: str = "on-demand"
    """on-demand | spot (cheaper, may be reclaimed)"""
    cloud: str = ""
    """cloud, with region and zone if wanted, as aws, gcp/us-east5 or k8s/CONTEXT; the cheapest that
    has the machines if not given"""
    setup: str = ""
    """shell commands that install `supernet` in the copied folder, where a virtual environment of
    Python 3.11 is active; if not given, the folder if it is a project, else the released library"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_bucket("which is lost with the machines")
        self.need_config_here()
        at_least("--nodes", self.nodes, 1)
        one_of("--capacity", self.capacity, ("on-demand", "spot"))
        require(
            self.nodes == 1 or not self.is_tpu,
            f"--nodes is {self.nodes}, but {self.accelerator} is one slice, with all of its hosts; "
            "several slices train together by supernet launch tpu or gke",
        )
        if self.is_tpu:
            kind = accelerators.tpu_slice(self.accelerator).kind
            require(kind.runtime != "", f"{self.accelerator} is on GKE only; supernet launch gke")
        elif not re.fullmatch(r"[A-Za-z][-A-Za-z0-9.]*(:[1-9]\d*)?", self.accelerator):
            raise UserError(
                f"--accelerator is {self.accelerator!r}, allowed: GPUs, as H100:8, or a TPU slice, "
                "as v6e-8"
            )
        if not re.fullmatch(r"[-\w/.*]*", self.cloud):
            raise UserError(f"--cloud is {self.cloud!r}, but clouds are as aws or gcp/us-east5")

    @property
    def is_tpu(self) -> bool:
        """Whether it runs on a slice of TPUs."""
        return re.match(r"(tpu|v\d)[a-z0-9]*-\d", self.accelerator) is not None

    @property
    def devices(self) -> int:
        """All GPUs, or the chips of the slice."""
        if self.is_tpu:
            return accelerators.tpu_slice(self.accelerator).chips
        return self.nodes * int(self.accelerator.partition(":")[2] or 1)

    @property
    def joining(self) -> tuple[str, ...]:
        """Hosts of a slice know each other; machines are told by the file."""
        return super().joining if self.is_tpu else ()

    @property
    def script(self) -> Script:
        """A task file."""
        accelerator, train = self.accelerator, self.spelt_command
        more = f"\n  infra: {self.cloud}" if self.cloud else ""
        if self.is_tpu:
            kind, size = accelerators.tpu_slice(self.accelerator).kind, accelerator.split("-")[1]
            accelerator = f"tpu-{kind.types[-1]}-{size}"
            if not self.cloud.startswith(("k8s", "kubernetes")):
                more += f"\n  accelerator_args:\n    runtime_version: {kind.runtime}"
        elif self.nodes > 1:
            train += MANY
        setup = self.setup or self.installed("tpu" if self.is_tpu else "cuda12")
        text = TASK.format(
            name=self.name,
            accelerator=accelerator,
            spot=str(self.capacity == "spot").lower(),
            more=more,
            nodes=self.nodes,
            setup=_indented(
                "uv venv --seed --allow-existing --python 3.11 ~/venv || exit\n"
                f". ~/venv/bin/activate\n{setup}"
            ),
            run=_indented(
                RUN.format(
                    restarts=self.restarts,
                    train=train,
                    again="|".join(map(str, RESTARTED)),
                )
            ),
        )
        follow = (
            "sky jobs queue",
            f"sky jobs logs --name {self.name}",
            f"sky jobs cancel --name {self.name}",
        )
        return Script(f"{self.name}.yaml", text, ("sky", "jobs", "launch", "--yes"), follow)


def _indented(lines: str) -> str:
    return textwrap.indent(lines.strip(), "  ")
