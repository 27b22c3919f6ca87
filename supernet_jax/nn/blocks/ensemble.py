"""How the members of an ensemble are connected: a trunk that they share, and what each has of its
own behind it.

NEAS (Chen et al., CVPR 2021, arXiv 2104.00597). Its published evaluation takes the mean of the
members' logits (github.com/researchmm/NEAS, `lib/core/valid_function.py`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PartedSpec:
    """Channels of what the trunk and a member made."""

    channels: int


class Parted(nn.Module):
    """What a member made of its own; where the block is skipped, what the trunk made stays.

    It stands behind blocks that a member may skip, for these then give what came in.
    """

    spec: PartedSpec

    def __call__(self, trunk: Array, own: Array) -> Array:
        """Both `[B, ..., C]` -> the second."""
        return own


def name_of(member: int, block: str) -> str:
    """The name of a member's own copy of a block; `member` counts from 2, as 1 has the trunk."""
    return f"member{member}_{block}"


@dataclasses.dataclass(frozen=True)
class Branches:
    """The topology: a chain, beside it for each further member the chain from some block on, and
    the mean of what all of them put out.

    A member has the chain's own values as far as its blocks are skipped: there the trunk is shared.

    Attributes:
        blocks: names of the chain.
        first: how many of them every arch shares, so that only the first member has them.
        optional: names of those that a member may skip.
        members: of the ensemble.
    """

    blocks: tuple[str, ...]
    first: int
    optional: tuple[str, ...]
    members: int

    def __call__(self, run: Callable[..., Array], inputs: Any) -> Array:
        """What the network takes -> logits `[B, ..., K]`; see `elastic.space.Topology`."""
        x, made = inputs, []
        for name in self.blocks:
            x = run(name, x)
            made.append(x)
        total = x
        for member in range(2, self.members + 1):
            x = made[self.first - 1] if self.first else inputs
            for name, trunk in list(zip(self.blocks, made, strict=True))[self.first :]:
                own = name_of(member, name)
                if name in self.optional:
                    x = run(f"{own}_parted", trunk, run(own, x))
                else:
                    x = run(own, x, otherwise=trunk)
            total = total + x
        return total / self.members
