"""The compiled kernels in programs over several devices: each has its part of the batch."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from supernet_jax.nn import batch_norm, depthwise
from supernet_jax.runtime import native
from supernet_jax.runtime.native import devices

Array = jax.Array
pytestmark = pytest.mark.skipif(
    not native.available(), reason="installed without a C++ compiler, and the kernels are optional"
)


def loss(x: Array, kernel: Array, scale: Array, bias: Array) -> Array:
    """All kernels, each image with a weight of its own."""
    x = depthwise.depthwise(x, kernel, 2)
    y, (mean, variance) = batch_norm.batch_norm(x, scale, bias, swish=True)
    y = batch_norm.normalise(y, mean, variance, scale, bias, swish=False)
    weights = 1.0 + jnp.arange(len(y))[:, None, None, None]
    return jnp.sum(weights * y**2) + jnp.sum(mean * variance)


VALUE = jax.value_and_grad(loss, (0, 1, 2, 3))
IN_PARTS = {
    "depthwise",
    "depthwise_input_gradient",
    "depthwise_kernel_gradient",
    "norm_given",
    "norm_part_moments",
    "norm_part_sums",
    "norm_part_gradient",
}


def operands() -> tuple[np.ndarray, ...]:
    shapes = [(8, 9, 7, 25), (3, 3, 1, 25), (25,), (25,)]
    return tuple(np.random.default_rng(0).normal(size=s).astype(np.float32) for s in shapes)


def mesh_of(**axes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
        devices=jax.devices()[: math.prod(axes.values())],
    )


def placed(mesh: jax.sharding.Mesh) -> list[Array]:
    over = tuple(axis for axis in mesh.axis_names if axis in devices.AXES)
    places = [PartitionSpec(over), *[PartitionSpec()] * 3]
    return [
        jax.device_put(value, NamedSharding(mesh, place))
        for value, place in zip(operands(), places, strict=True)
    ]


def check(run: Callable[..., Any], given: list[Array], expected: Any) -> str:
    """Runs a program, whose text it returns; its values are those of one device."""
    compiled = jax.jit(run).lower(*given).compile()
    for mine, other in zip(
        jax.tree.leaves(compiled(*given)), jax.tree.leaves(expected), strict=True
    ):
        # Sums over the batch in another order.
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5 * float(np.max(np.abs(other))))
    return str(compiled.as_text())


def called(program: str) -> set[str]:
    return set(re.findall(r'custom_call_target="supernet_(\w+)"', program))


@pytest.fixture(scope="module")
def on_one() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "device_count", lambda: 1)
        program = jax.jit(lambda *given: VALUE(*given))
        assert "supernet_norm_batch" in program.lower(*operands()).as_text()
        return program(*operands())


@pytest.mark.parametrize("axes", [{"data": 4}, {"data": 4, "model": 2}])
def test_split_by_the_compiler(axes: dict[str, int], on_one: Any) -> None:
    program = check(lambda *given: VALUE(*given), placed(mesh_of(**axes)), on_one)
    assert called(program) == IN_PARTS
    assert "all-gather(" not in program and "all-to-all(" not in program
    # In a loop, and computed again for the gradient, as blocks are.
    again = jax.checkpoint(loss)

    def looped(*given: Array) -> Array:
        total = jax.lax.fori_loop(0, 2, lambda _, sum: sum + again(*given), jnp.zeros(()))
        return total / 2

    program = check(jax.value_and_grad(looped, (0, 1, 2, 3)), placed(mesh_of(**axes)), on_one)
    assert called(program) == IN_PARTS


def test_split_by_hand(on_one: Any) -> None:
    """Over one of two axes, as an evaluation does; and over all, where a part is a batch itself."""
    mesh, whole = mesh_of(candidates=2, data=4), PartitionSpec()

    def grouped(*given: Array) -> Any:
        return jax.tree.map(lambda value: value[None], VALUE(*given))

    groups = jax.shard_map(
        grouped,
        mesh=mesh,
        in_specs=(whole,) * 4,
        out_specs=PartitionSpec("candidates"),
        axis_names={"candidates"},
        check_vma=False,
    )
    twice = jax.tree.map(lambda value: np.stack([value] * 2), on_one)
    program = check(groups, placed(mesh), twice)
    assert called(program) == IN_PARTS and "all-gather(" not in program

    mesh = mesh_of(data=4)
    split = PartitionSpec("data")
    each = jax.shard_map(
        lambda *given: loss(*given)[None],
        mesh=mesh,
        in_specs=(split, whole, whole, whole),
        out_specs=split,
        check_vma=False,
    )

    def total(*given: Array) -> Array:
        return jnp.sum(each(*given))

    def by_xla(x: Array, *rest: Array) -> Array:
        with native.aside():
            return sum((loss(x[i : i + 2], *rest) for i in range(0, 8, 2)), jnp.zeros(()))

    expected = jax.jit(jax.value_and_grad(by_xla, (0, 1, 2, 3)))(*operands())
    program = check(jax.value_and_grad(total, (0, 1, 2, 3)), placed(mesh), expected)
    assert {"depthwise_kernel_gradient", "norm_batch", "norm_gradient"} <= called(program)


def test_members_of_a_vmap_on_several_devices(on_one: Any) -> None:
    x, *rest = placed(mesh_of(data=4))
    some = [jnp.stack([value, value]) for value in rest]
    twice = jax.tree.map(lambda value: np.stack([value] * 2), on_one)
    members = jax.vmap(lambda *given: VALUE(*given), (None, 0, 0, 0))
    assert called(check(members, [x, *some], twice)) == IN_PARTS


def test_devices_that_kernels_are_not_for() -> None:
    """XLA does it where nothing says which devices, or they cannot have parts of equal size."""
    x = jnp.zeros((6, 4, 4, 8))

    def on(mesh: jax.sharding.Mesh) -> bool:
        return native.takes_norm(jax.device_put(x, NamedSharding(mesh, PartitionSpec())))

    assert not native.takes_norm(x)
    assert devices.parts_of(placed(mesh_of(data=4, model=2))[0]) == 8
    assert on(mesh_of(data=1)) and on(mesh_of(data=2)) and on(mesh_of(data=3, model=2))
    assert not on(mesh_of(data=4)) and not on(mesh_of(rows=2))
    kinds = (AxisType.Explicit,)
    assert not on(jax.make_mesh((2,), ("data",), axis_types=kinds, devices=jax.devices()[:2]))
