"""Costs: the published counts to the unit, and what the built networks really compute."""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import light_space
import numpy as np
import pytest
import reference
import test_latency as made_up
import tiny_space
from jax.extend.core import ClosedJaxpr, Jaxpr

from supernet_jax.elastic import choices, notation
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config, space_facts
from supernet_jax.spaces import attentivenas, mobilenet

GOLDEN = reference.golden("attentivenas")


@pytest.fixture(scope="module")
def space() -> Space:
    return attentivenas.attentivenas()


@pytest.mark.parametrize("name", GOLDEN["nets"])
def test_published_subnets(space: Space, name: str) -> None:
    net = GOLDEN["nets"][name]
    arch = notation.from_notation(space.menu, net["cfg"])
    assert int(costs.macs(space)(arch)) == round(net["MMACs"] * 1e6)
    assert int(costs.parameters(space)(arch)) == net["effective_params"]


@pytest.mark.parametrize("resolution", GOLDEN["min_max_MMACs_by_resolution"])
@pytest.mark.parametrize("end", ["min", "max"])
def test_published_range(space: Space, resolution: str, end: str) -> None:
    pick = {"min": choices.smallest, "max": choices.largest}[end](space.menu)
    arch = {**pick, "resolution": np.int32(space.sizes.index(int(resolution)))}
    wanted = GOLDEN["min_max_MMACs_by_resolution"][resolution][end]
    assert int(costs.macs(space)(arch)) == round(wanted * 1e6)


def test_published_distribution_of_uniform_archs(space: Space) -> None:
    wanted = GOLDEN["uniform_sampling_MMACs"]
    archs = jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(0), (wanted["n"],)))
    found = costs.macs(space)(archs) / 1e6
    close = functools.partial(pytest.approx, rel=0.01)  # of one other sample of the same size
    assert np.percentile(found, 5) == close(wanted["p5"])
    assert np.median(found) == close(wanted["median"])
    assert found.mean() == close(wanted["mean"])
    assert np.percentile(found, 95) == close(wanted["p95"])
    # a share of 0.348 of 20,000 has a standard deviation of 1 %, and so has the published one
    assert np.mean(found <= 600) == pytest.approx(wanted["frac_le_600"], rel=0.03)


def subjaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [j for v in value for j in subjaxprs(v)] if isinstance(value, list | tuple) else []


def multiplications(jaxpr: Jaxpr) -> int:
    """Of all matrix products and convolutions that a program consists of.

    A depthwise convolution is there twice, for CPU as shifted products, which are not counted, and
    for other backends as a convolution, which is.
    """
    total = 0
    for equation in jaxpr.eqns:
        left = equation.invars[0].aval.shape if equation.invars else ()
        if equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            output = math.prod(equation.outvars[0].aval.shape)
            total += output * math.prod(left[axis] for axis in contracting)
        elif equation.primitive.name == "conv_general_dilated":
            *window, channels, _ = equation.invars[1].aval.shape  # HWIO
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(window) * channels
        else:
            inside = [j for value in equation.params.values() for j in subjaxprs(value)]
            total += sum(multiplications(j) for j in inside)
    return total


@functools.cache
def built(module: Any, spec: Any, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
    """MACs, parameters and output shape of a block of one size, from the module itself."""
    run = functools.partial(module(spec).init_with_output, jax.random.key(0))
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    jaxpr, (output, variables) = jax.make_jaxpr(run, return_shape=True)(image)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return multiplications(jaxpr.jaxpr), size, output.shape


def count(space: Space, arch: Any) -> tuple[int, int]:
    """MACs and parameters of the network that a concrete arch is, block by block."""
    total = np.zeros(2, np.int64)

    def run(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        block = space.blocks[name]
        spec = block.spec(arch)
        if spec is None:
            return shape
        macs, size, output = built(block.module, spec, shape)
        total[:] += (macs, size)
        return output

    resolution = space.sizes[int(arch["resolution"])]
    logits = space.forward(run, (1, resolution, resolution, space.task.input_channels))
    assert logits == (1, space.task.classes)
    return int(total[0]), int(total[1])


@pytest.mark.slow
def test_random_archs_against_the_built_networks() -> None:
    # Without drop-connect, whose rates differ from block to block and cost nothing; at two of the
    # resolutions. Each distinct block is built once.
    space = attentivenas.attentivenas(drop_path=0.0)
    archs = jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(1), (10_000,)))
    archs["resolution"] = np.where(archs["resolution"] < 2, 0, 3)
    wanted = np.asarray([count(space, arch) for arch in choices.unstack(archs)])
    np.testing.assert_array_equal(costs.macs(space)(archs), wanted[:, 0])
    np.testing.assert_array_equal(costs.parameters(space)(archs), wanted[:, 1])


# Every cost of the library, by being in the folder.
PARTS = [kind for kind in vars(costs).values() if hasattr(kind, "build")]


@pytest.fixture(scope="module")
def latencies(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A table of made-up ones."""
    path = tmp_path_factory.mktemp("latency") / "table.json"
    table = made_up.table_of(mobilenet.cifar())
    path.write_text(json.dumps(dataclasses.asdict(table)), "utf-8")
    return path


def part_of(kind: Any, latencies: pathlib.Path) -> Any:
    """A part with its usual numbers."""
    return kind(str(latencies)) if kind is costs.Latency else kind()


@pytest.mark.parametrize("kind", PARTS)
def test_one_answer_however_it_is_asked(kind: Any, latencies: pathlib.Path) -> None:
    space = mobilenet.cifar()
    ask = part_of(kind, latencies).build(space)
    archs = choices.sample(space.menu, jax.random.key(2), (6, 4))
    host = ask(jax.tree.map(np.asarray, archs))
    exact = host.dtype == np.int64
    assert (exact or host.dtype == np.float64) and host.shape == (6, 4)
    assert len(np.unique(host)) >= 6, "hardly a cost"
    for answer in (ask(archs), jax.jit(ask)(archs), jax.vmap(jax.jit(jax.vmap(ask)))(archs)):
        assert isinstance(answer, jax.Array)
        assert answer.dtype == (jnp.int32 if exact else jnp.float32)
        # float32 of sums of a dozen numbers, in another order
        np.testing.assert_allclose(answer, host, rtol=0 if exact else 1e-6)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[3, 2], archs)
    assert ask(one) == host[3, 2]


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_says_what_it_is(kind: Any, latencies: pathlib.Path) -> None:
    part, space = part_of(kind, latencies), mobilenet.cifar()
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert isinstance(kind.name, str) and isinstance(kind.unit, str)
    assert [other.name for other in PARTS].count(kind.name) == 1
    assert config.LIBRARY[kind.__name__] is kind and kind.name not in config.SPACES
    archs = jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(3), (50,)))
    by_blocks = costs.BlockCost(space, part.tables(space))(archs)
    np.testing.assert_array_equal(by_blocks, part.build(space)(archs))


def test_only_spaces_are_known_as_such() -> None:
    assert all(callable(part.build) for part in config.SPACES.values())
    modules = {type(part).__module__.rpartition(".")[0] for part in config.SPACES.values()}
    assert modules == {"supernet_jax.spaces"}


def test_costs_too_large_for_32_bits(space: Space) -> None:
    huge = mobilenet.mobilenet(
        "huge",
        resolutions=(2048, 4096),
        stem=(64,),
        stem_stride=1,
        stages=(mobilenet.Stage((64, 96), (1, 2), (3,), (1,), 2),),
        last=(64,),
        classes=10,
    )
    arch = choices.largest(huge.menu)
    exact = costs.macs(huge)(arch)
    assert exact > 2**33 and int(exact) == count(huge, arch)[0]
    rounded = jax.jit(costs.macs(huge))(jax.tree.map(jnp.asarray, arch))
    assert rounded.dtype == jnp.float32
    assert float(rounded) == pytest.approx(float(exact), rel=1e-6)  # float32 of a sum of 4 numbers


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("width", [3, 4])
def test_shared_parameters_count_once_and_their_work_each_time(depth: int, width: int) -> None:
    space = light_space.tied()
    arch = notation.from_notation(space.menu, {"resolution": 2, "depth": depth, "width": width})
    places = 4
    assert costs.macs(space)(arch) == places * (width + depth * width**2 + width * 5)
    once = 2 * width + (width**2 + width) + (5 * width + 5)
    assert costs.parameters(space)(arch) == once
    assert int(costs.parameters(space)(jax.tree.map(jnp.asarray, arch))) == once


def test_blocks_that_a_paper_does_not_count() -> None:
    whole = tiny_space.decoding()
    space = dataclasses.replace(whole, uncounted=("embed", "head"))  # which share their parameters
    archs = jax.tree.map(np.asarray, choices.sample(space.menu, jax.random.key(0), (8,)))
    widths = np.take(space.menu["width"].values, archs["width"])
    counted = costs.parameters(whole)(archs) - widths * space.task.vocabulary
    np.testing.assert_array_equal(costs.parameters(space)(archs), counted)
    rows = space_facts.count(space, choices.unstack(archs))
    assert [row["parameters"] for row in rows] == counted.tolist()
    assert [row["parameters_left_out"] for row in rows] == (widths * space.task.vocabulary).tolist()
    with pytest.raises(UserError, match=r"does not count the block 'embde'.*did you mean embed"):
        dataclasses.replace(whole, uncounted=("embde",))


def test_codes_are_refused_where_an_index_is_wanted():
    """Cut to integers, nearly every code would be the smallest arch."""
    space = mobilenet.digits()
    code = choices.one_hot(space.menu, choices.largest(space.menu))
    for wants in (costs.macs(space), costs.parameters(space), choices.pack):
        with pytest.raises(UserError, match="a code was given"):
            wants(code)
    likeliest = jax.tree.map(lambda weights: weights.argmax(-1), code)
    assert costs.macs(space)(likeliest) == costs.macs(space)(choices.largest(space.menu))
