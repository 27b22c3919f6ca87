"""The largest subnet of the step teaches the others, in place."""

import dataclasses

from supernet_jax.training.teachers.teacher import Teacher, without_memory


def largest() -> Teacher:
    """In-place distillation (Yu & Huang 2019, arXiv:1903.05134): the member in the
    role "largest" teaches those after it, by its outputs in the same step.
    """
    return without_memory("largest")


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest subnet of the step teaches the others (in-place distillation)."""

    def build(self) -> Teacher:
        """The teacher."""
        return largest()
