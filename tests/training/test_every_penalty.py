"""What every penalty of the library keeps: a new one joins by a line in `CASES`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from theorem import archs_of, random_params
from tiny_space import cells, superkernels

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.storage import user_code
from supernet_jax.training import penalties

OWN = user_code.run(ROOT / "docs" / "examples" / "penalty.py").Decided(weight=0.5)
CASES: tuple[tuple[Any, Any], ...] = (  # a penalty, and what makes a tiny space that it is for
    (penalties.SuperkernelCost(weight=0.5), superkernels),
    (OWN, cells),
)
BY_CASE = pytest.mark.parametrize(("part", "make"), CASES, ids=lambda x: type(x).__name__)


@functools.cache
def drawn(make: Any) -> tuple[Any, Any, list[Any]]:
    """Of a space: parameters, a code whose options are all likely, and archs."""
    space = make()
    keys = jax.random.split(jax.random.key(1), len(choices.paths(space.menu)))
    leaves, tree = jax.tree.flatten(space.menu)
    code = [
        jax.nn.softmax(jax.random.normal(k, (len(c),))) for k, c in zip(keys, leaves, strict=True)
    ]
    return random_params(space), jax.tree.unflatten(tree, code), archs_of(space, 1)


def test_every_part_of_the_library_is_here() -> None:
    own = {kind for kind in vars(penalties).values() if dataclasses.is_dataclass(kind)}
    assert own <= {type(part) for part, _ in CASES}, "give a new penalty its line in CASES"


@BY_CASE
def test_one_finite_number_and_finite_slopes(part: Any, make: Any) -> None:
    penalty = part.build(space=make())
    params, code, archs = drawn(make)
    graded = jax.jit(jax.value_and_grad(penalty, (0, 1)))
    slopes = []
    for member in (code, choices.one_hot(make().menu, archs[0])):
        value, slope = graded(params, member)
        assert value.shape == () and value.dtype == jnp.float32
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
        slopes.append(slope)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(slopes[0])), "nothing moves it"
    by_params = jax.jit(jax.grad(penalty))
    for arch in archs:
        traced = by_params(params, jax.tree.map(jnp.asarray, arch))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(traced))


@BY_CASE
def test_an_arch_and_its_one_hot_code_are_the_same(part: Any, make: Any) -> None:
    penalty = part.build(space=make())
    params, _, archs = drawn(make)
    run = jax.jit(penalty)
    for arch in archs:
        value = run(params, choices.one_hot(make().menu, arch))
        traced = run(params, jax.tree.map(jnp.asarray, arch))
        concrete = jax.jit(lambda params, arch=arch: penalty(params, arch))(params)
        # Float32, in which only the order of sums may differ.
        np.testing.assert_allclose([traced, concrete], [value] * 2, rtol=1e-6, atol=1e-7)


def weighted(part: Any, weight: float) -> Any:
    return dataclasses.replace(part, weight=weight)


@BY_CASE
def test_the_weight_is_a_factor(part: Any, make: Any) -> None:
    params, code, _ = drawn(make)
    value = [
        float(jax.jit(weighted(part, weight).build(space=make()))(params, code))
        for weight in (0.0, 1.0, 2.0)
    ]
    assert value[0] == 0 and value[1] != 0
    assert value[2] == pytest.approx(2 * value[1], rel=1e-6)


@BY_CASE
@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_makes_no_sense(part: Any, make: Any, weight: float) -> None:
    with pytest.raises(UserError) as said:
        weighted(part, weight).build(space=make())
    assert str(said.value).startswith(f"penalty.weight is {weight}, ")
    assert "\n" not in str(said.value)
