"""All of one run in a row: train, search, evaluate on the test split, extract."""

import dataclasses
import shlex
from typing import ClassVar

from supernet_jax.errors import UserError
from supernet_jax.launching.cluster_job import ClusterJob, Script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ClusterJob):
    """Train, search, evaluate and extract on this machine, each stage when the one before is done.

    Every stage goes on where it was stopped, and one that is done takes no time again: the same
    command goes on with the whole.
    """

    EXAMPLES: ClassVar[str] = """
supernet launch pipeline configs/digits.py --out runs/a --search '--high 300000'
supernet launch pipeline configs/digits.py --out runs/a --extract '--format onnx'"""

    search: str = ""
    """options of `supernet search`, as '--high 300000 --evaluations 200'"""
    extract: str = ""
    """options of `supernet extract`, as '--format onnx stablehlo'"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task != "train":
            raise UserError(f"--task is {self.task!r}, but a pipeline is of all tasks")
        for option, text in (("search", self.search), ("extract", self.extract)):
            try:
                shlex.split(text)
            except ValueError as error:
                raise UserError(
                    f"--{option} is {text!r}, which a shell cannot read: {error}"
                ) from None

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The commands, in order."""
        out = self.out.rstrip("/")
        return (
            ("supernet", "train", self.config, "--out", out, *self.overrides),
            ("supernet", "search", out, *shlex.split(self.search)),
            ("supernet", "evaluate", out, "--front", "--split", "test"),
            *(("supernet", "extract", out, "--front", "--out", f"{out}/networks"),),
        )

    @property
    def script(self) -> Script:
        """A shell script that ends with the status of the first stage that does not end with 0."""
        *stages, extract = (shlex.join(stage) for stage in self.stages)
        extract += f" {shlex.join(shlex.split(self.extract))}" if self.extract else ""
        text = "\n".join(["#!/bin/sh", "set -e", *stages, extract, ""])
        return Script(f"{self.name}.sh", text, ("sh",))
