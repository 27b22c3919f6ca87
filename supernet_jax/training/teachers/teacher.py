"""The door of teachers.

A `Teacher` is functions around a memory. The memory is a part of the training state: it lies in
checkpoints, and on the devices as the rules of parameters have it, and no compiled program holds it
as a constant.

Shape letters: `B` examples of a step, `K` numbers that a network puts out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Tree = Any  # nested dicts of arrays
Memory = Any  # pytree of arrays, saved in the checkpoint


class Taught(NamedTuple):
    """What a member or a teacher puts out that others may learn from: constants for them.

    Attributes:
        logits: float `[B, ..., K]`.
        features: by name `[B, ...]`; those of blocks that it has not are left out.
    """

    logits: Array
    features: dict[str, Array]


class Teacher(NamedTuple):
    """What the members of a step learn from.

    Attributes:
        init: `params -> memory`, once, before the first step and outside any program: a memory of
            NumPy arrays is put on the devices as it is. Only its shapes are traced.
        teach: `(memory, inputs) -> Taught`, traced, once in a step, for all of its inputs as
            augmented. Or None, where the memory says nothing.
        update: `(memory, params, step) -> memory`, traced, with the parameters after a step that
            was applied, and the number of steps up to this one, int32.
        role: of the fixed member whose outputs teach the members after it, as far as `teach` says
            nothing: its logits, and features that the teacher has not. None for nobody.
        of_params: whether the memory holds trees like the shared parameters. Where channels of the
            parameters are put into another order, so are those of the memory.
    """

    init: Callable[[Tree], Memory]
    teach: Callable[[Memory, Array], Taught | None]
    update: Callable[[Memory, Tree, Array], Memory]
    role: str | None = None
    of_params: bool = False


def without_memory(role: str | None) -> Teacher:
    """A teacher that is a member of the step, or nobody."""
    return Teacher(
        init=lambda params: (),
        teach=lambda memory, inputs: None,
        update=lambda memory, params, step: memory,
        role=role,
    )
