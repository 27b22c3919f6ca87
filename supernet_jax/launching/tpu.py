"""Cloud TPU: a script that keeps a queued resource and trains on all of its hosts, by `gcloud`.

Its parts are `tpu_host.sh`, which the hosts run, and `tpu.sh`, which runs here. Sources: the pages
of `gcloud compute tpus queued-resources` and of Cloud TPU (2026).
"""

import dataclasses
import pathlib
import re
import shlex
from typing import ClassVar

from supernet_jax.errors import UserError, require
from supernet_jax.launching.cluster_job import RESTARTED, OnTpu, Script
from supernet_jax.storage import files

HERE = pathlib.Path(__file__).parent
HEAD = """#!/bin/bash
# Trains on a queued resource of Cloud TPU: creates it, puts the current folder on all of its hosts,
# starts training there, creates it anew when it is reclaimed, and deletes it in the end. It may be
# interrupted and started again at any time. The hosts run a copy of it, by `bash FILE host STEP`.
set -u
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu(OnTpu):
    """Train on Cloud TPU by gcloud, with the current folder copied to the hosts."""

    EXAMPLES: ClassVar[str] = """
supernet launch tpu configs/digits.py --out gs://BUCKET/runs/a --zone us-east5-b --accelerator v6e-16 --capacity spot
supernet launch tpu configs/digits.py --out gs://BUCKET/runs/a --zone us-east5-b --accelerator v6e-16 --slices 2 --dry-run"""  # noqa: E501

    zone: str
    """zone of the TPUs, as us-east5-b"""
    project: str = ""
    """project of Google Cloud; gcloud's own if not given"""
    runtime_version: str = ""
    """software of the hosts; what Google names for the type of TPU if not given"""
    setup: str = ""
    """shell commands that install `supernet` on each host, in the copied folder, where a virtual
    environment of Python 3.11 is active; if not given, the folder if it is a project, else the
    released library"""
    keep: bool = False
    """keep the TPUs when training has ended; they cost until they are deleted"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_bucket("which is lost with the hosts")
        self.need_config_here()
        require(
            self.slice.kind.runtime != "",
            f"--accelerator is {self.accelerator!r}, which is on GKE only; use supernet launch gke",
        )
        names = {
            "--zone": (self.zone, r"[a-z]+-[a-z]+\d+-[a-z]", "us-east5-b"),
            "--project": (self.project or "any", r"[-a-z0-9.:]+", "my-project"),
            "--runtime-version": (self.runtime_version or "any", r"[-a-z0-9.]+", "v2-alpha-tpuv6e"),
            "--capacity": (self.reservation or "any", r"[-a-z0-9/]+", "reserved:my-reservation"),
        }
        for option, (value, pattern, example) in names.items():
            if not re.fullmatch(pattern, value):
                raise UserError(f"{option} is {value!r}, but such names are as {example}")
        if self.capacity == "flex" and self.slice.kind.types[0] not in ("v5e", "v6e"):
            raise UserError("--capacity flex is for v5e and v6e alone")

    @property
    def script(self) -> Script:
        """A script for bash, which keeps the job until it has ended."""
        where = [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]
        settings = [
            f"name={self.name}",
            f"folder=supernet-{self.name} # on the hosts, in the home folder",
            f"restarts={self.restarts}",
            f'again="{" ".join(map(str, RESTARTED))}" # statuses to start again after',
            f"keep={'yes' if self.keep else 'no'}",
            f"where=({' '.join(where)})",
            "create=(",
            *(f"  {words}" for words in self._create(where)),
            ")",
            f"setup={shlex.quote(self.setup or self.installed('tpu'))}",
            f"train={shlex.quote(self.spelt_command)}",
        ]
        parts = [files.read_text(HERE / part) for part in ("tpu_host.sh", "tpu.sh")]
        text = HEAD + "\n".join(settings) + "\n" + "".join(parts)
        return Script(f"{self.name}.sh", text, ("bash",))

    def _create(self, where: list[str]) -> list[str]:
        """The command that asks for the TPUs, a line for each option."""
        kind, size = self.slice.kind, self.accelerator.partition("-")[2]
        alpha = "alpha " if self.capacity == "flex" or self.reservation else ""
        return [
            f"gcloud {alpha}compute tpus queued-resources create {self.name}",
            *where,
            *(
                [f"--type={kind.types[-1]}", f"--topology={self.topology}"]
                if self.topology
                else [f"--accelerator-type={kind.types[-1]}-{size}"]
            ),
            f"--runtime-version={self.runtime_version or kind.runtime}",
            *(
                [f"--node-count={self.slices}", f"--node-prefix={self.name}"]
                if self.slices > 1
                else [f"--node-id={self.name}"]
            ),
            *{
                "on-demand": [],
                "spot": ["--spot"],
                "flex": ["--provisioning-model=flex-start", "--max-run-duration=7d"],
            }.get(self.capacity, [f"--reservation={self.reservation}"]),
            "--quiet",
        ]
