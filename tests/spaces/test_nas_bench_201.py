"""NAS-Bench-201: its published counts, and what a cell is."""

import json

import jax
import numpy as np
import pytest
from conftest import ROOT

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import space_facts
from supernet_jax.nn.blocks.cells import Cells, edges
from supernet_jax.spaces import NasBench201
from supernet_jax.spaces.nas_bench_201 import OPERATIONS

PUBLISHED = json.loads((ROOT / "tests" / "goldens" / "nas_bench_201.json").read_text("utf-8"))
SPACE = NasBench201().build()


def everywhere(operation: str) -> dict:
    option = OPERATIONS.index(operation)
    return jax.tree.map(lambda choice: np.int32(min(option, len(choice) - 1)), SPACE.menu)


def test_the_published_counts() -> None:
    assert choices.count(SPACE.menu) == PUBLISHED["archs"]
    for operation, (parameters, macs) in PUBLISHED["everywhere"].items():
        arch = everywhere(operation)
        assert int(costs.parameters(SPACE)(arch)) == parameters, operation
        assert int(costs.macs(SPACE)(arch)) == macs, operation


def test_the_bounds_of_costs_are_those_of_all_archs() -> None:
    """Options are operations here, so the last ones are not the dearest."""
    sizes = [len(choice) for choice in jax.tree.leaves(SPACE.menu)]
    rows = np.indices(sizes, np.int32).reshape(len(sizes), -1).T
    archs = choices.unpack(SPACE.menu, rows)
    facts = space_facts.summarise(SPACE, samples=10, seed=0)
    for name, cost in (("macs", costs.macs(SPACE)), ("parameters", costs.parameters(SPACE))):
        every = np.asarray(cost(archs))
        assert len(every) == 15625
        assert costs.span(SPACE, cost) == (every.min(), every.max())
        assert (facts[name]["smallest"], facts[name]["largest"]) == costs.span(SPACE, cost)


def test_a_cell_is_the_sum_over_its_edges() -> None:
    """Numbered values in place of arrays: the topology alone, against sums written out."""
    assert edges(4) == [(1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4)]
    factors = {name: i + 2 for i, name in enumerate(f"{a}_{b}" for a, b in edges(4))}

    def run(name: str, x: float) -> float:
        return x * factors.get(name.rpartition("edge")[2], 1)

    second = 2.0
    third = 3 + second * 4
    assert Cells(1, 1, 4)(run, 1.0) == 5 + second * 6 + third * 7  # type: ignore[arg-type]


def test_wrong_sizes() -> None:
    with pytest.raises(UserError, match=r"space.cells is 0"):
        NasBench201(cells=0).build()
    with pytest.raises(UserError, match=r"space.resolution is 2"):
        NasBench201(resolution=2).build()
