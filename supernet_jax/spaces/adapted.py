"""Adapters of elastic rank on the frozen weights of another space, as a part of a configuration."""

import dataclasses
import json
from typing import Any

from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.notation import from_notation
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import low_rank
from supernet_jax.errors import UserError
from supernet_jax.spaces.checks import built
from supernet_jax.spaces.mobilenet import Digits
from supernet_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A space whose weights are frozen, with adapters of elastic rank that are trained (LoRA)."""

    space: Any = dataclasses.field(default_factory=Digits)
    """the space whose weights are adapted: its own part of a configuration"""
    base: str = dataclasses.field(default="", metadata={"path": True})
    """folder of a run of that space, or of a network extracted from one, whose weights these are"""
    base_file: str | None = dataclasses.field(default=None, metadata={"path": True})
    """Python file of yours that defines the network's blocks, if some are your own; it is run"""
    arch: str | None = None
    """the only subnet of the space to adapt, as JSON; without, all of them stay on offer"""
    ranks: tuple[int, ...] = (2, 4, 8)
    """ranks on offer for each block; larger ones can change more, and add more parameters"""
    leaves: tuple[str, ...] = (r".*/kernel",)
    """which parameters get adapters: regular expressions for paths as block/layer/kernel"""
    fused: tuple[str, ...] = ()
    """which of these have one axis of inputs, the first, and several of outputs"""
    trained: tuple[str, ...] = ()
    """which other parameters are trained too; those of another shape than the base's start anew"""
    alpha: float = 8.0
    """what adapters add is multiplied by alpha / rank; more lets them change more in a step"""

    def build(self, *, task: Task) -> Space:
        """The space for a task."""
        return low_rank.adapted(
            self.inner(task),
            leaves=self.leaves,
            ranks=self.ranks,
            alpha=self.alpha,
            fused=self.fused,
            trained=self.trained,
        )

    def whole(self, task: Task) -> Space:
        """The space without adapters, with all of its archs."""
        return built(self.space, task)

    def inner(self, task: Task) -> Space:
        """The space without adapters; with one arch only, where one is named."""
        space = self.whole(task)
        if self.arch is None:
            return space
        try:
            arch = from_notation(space.menu, json.loads(self.arch))
        except (ValueError, RecursionError) as error:
            raise UserError(f"space.arch is not valid JSON: {error}") from None
        return elastic_space.only(space, arch)
