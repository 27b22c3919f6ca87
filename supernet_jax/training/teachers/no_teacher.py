"""Nobody teaches: labels alone."""

import dataclasses

from supernet_jax.training.teachers.teacher import Teacher, without_memory


@dataclasses.dataclass(frozen=True)
class NoTeacher:
    """Nobody teaches: every subnet learns from the labels alone."""

    def build(self) -> Teacher:
        """The teacher that says nothing."""
        return without_memory(None)
