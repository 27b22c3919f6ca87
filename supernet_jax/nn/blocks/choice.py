"""One of several modules in the same place: a choice block, as cells are made of.

Options differ in what they compute, not only in sizes. A subnet runs one of them; in the union of
all, each has its variables under its own name, and gates say how much of each counts.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a choice block.

    Attributes:
        name: of its variables within the block.
        module: its class, whose only field is `spec`.
        spec: its sizes.
    """

    name: str
    module: type[nn.Module]
    spec: Any


@dataclasses.dataclass(frozen=True)
class ChoiceSpec:
    """The options that are there: one, or all of a union."""

    options: tuple[Option, ...]


def gate_name(option: Option) -> str:
    """The name of an option's gate; its own is taken by its variables."""
    return f"gate_{option.name}"


class ChoiceBlock(nn.Module):
    """Runs its option; of several, the sum weighted by their gates.

    A gate of 0 silences what an option reads, too, so that its statistics are 0 as well.
    """

    spec: ChoiceSpec

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        """The inputs of every option -> their common output."""
        options = self.spec.options
        if len(options) == 1:
            return options[0].module(options[0].spec, name=options[0].name)(*inputs)
        total: Any = 0.0
        for option in options:
            gate = self.variable("gates", gate_name(option), jnp.ones, ()).value
            runs = gate != 0
            own = [x * runs.astype(x.dtype) for x in inputs]
            y = option.module(option.spec, name=option.name)(*own)
            total = total + gate.astype(y.dtype) * y
        return total
