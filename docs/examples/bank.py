"""A parameter bank: one set of weights for each option of a decision, as few-shot NAS has it.

supernet train docs/examples/bank.py --out runs/few
"""

import dataclasses
from typing import Any

import numpy as np

import supernet_jax as sj
from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Lookup, Path
from supernet_jax.elastic.space import Bank, Space


def split(space: Space, path: Path) -> Space:
    """The space with a row of parameters for each option of the decision at `path`.

    Subnets that differ there share nothing (Zhao et al. 2021, arXiv:2006.06863).
    """
    rows = len(choices.get(space.menu, path))
    return dataclasses.replace(space, bank=Bank(rows, Lookup((path,), np.arange(rows))))


@dataclasses.dataclass(frozen=True)
class RowPerWidth:
    """The space of digits, with a set of weights for each width of its last stage."""

    def build(self, **data: Any) -> Space:
        """The space for data with so many classes and channels."""
        return split(sj.spaces.Digits().build(**data), ("width", 3))


config = sj.Config(space=RowPerWidth())
