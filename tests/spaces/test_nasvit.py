"""NASViT: size of its space, counts and logits of its published code, and weights taken in."""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_train_step import QUICK
from theorem import check_of, largest_difference, random_params
from tiny_space import hybrid

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.notation import from_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks.importers import nasvit as importer
from supernet_jax.nn import resize
from supernet_jax.spaces import NASViT, mobilenet

GOLDEN = reference.golden("nasvit")
SPACE = NASViT().build()


def test_size_of_the_space() -> None:
    # Resolutions; widths of stem, stages and last; depths; kernels and expansions where there are
    # several. Stages with attention have none of kernels, and the last two one expansion.
    widths, depths = 2 * 2 * 2 * 2 * 2 * 3 * 4 * 3 * 2, 2 * 3 * 4 * 4 * 7 * 6 * 4
    assert choices.count(SPACE.menu) == 4 * widths * depths * (2 * 2) * 3**4 == 48_157_949_952


@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_costs_are_the_published_ones(name: str) -> None:
    case = GOLDEN["cases"][name]
    arch = from_notation(SPACE.menu, case["cfg"])
    jax.tree.map(np.testing.assert_array_equal, arch, getattr(choices, name)(SPACE.menu))
    alone = elastic_space.only(SPACE, arch)
    one = choices.smallest(alone.menu)
    assert int(costs.parameters(alone)(one)) == case["parameters"]
    assert int(costs.macs(alone)(one)) == case["macs"] == case["macs_by_its_counters"]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_costs_of_all_archs_that_were_compared(name: str) -> None:
    case = GOLDEN["cases"][name]
    arch = from_notation(SPACE.menu, case["cfg"])
    assert int(costs.parameters(SPACE)(arch)) == case["parameters"]
    assert int(costs.macs(SPACE)(arch)) == case["macs"] == case["macs_by_its_counters"]


@pytest.mark.slow
def test_published_logits() -> None:
    case = GOLDEN["cases"]["random1"]  # its last stages have odd sides
    arch, size = from_notation(SPACE.menu, case["cfg"]), case["cfg"]["resolution"]
    params, report = importer.load(reference.files(GOLDEN["param_names_shapes"]), SPACE)
    shapes = shared_params.parameter_shapes(SPACE)
    jax.tree.map(lambda p, s: np.testing.assert_equal(p.shape, s.shape), params, shapes)
    assert not any("attn" in line for line in report.left)
    run = functools.partial(strategies.sliced, SPACE, arch=arch, size=size)
    program = jax.jit(lambda p, x: run(p, inputs=x).logits, **QUICK)
    logits = np.asarray(program(params, reference.images(2, size, 0)))
    wanted = case["logits"]
    assert logits.shape == tuple(wanted["shape"])
    np.testing.assert_allclose(logits[:, :8], wanted["first8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), wanted["l2"], rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == wanted["argmax"]


# --- strategies ---------------------------------------------------------------------------------


def test_a_subnet_of_another_resolution() -> None:
    """Its distances and its scales are others of the shared ones."""
    space = hybrid((6, 8))
    params, images = random_params(space), jax.random.normal(jax.random.key(2), (4, 8, 8, 2))
    arch = choices.largest(space.menu)
    specs = [
        space.blocks["stage1_block2"].spec(space.at_size(arch, np.int32(which))) for which in (0, 1)
    ]
    assert [(spec.side, spec.row) for spec in specs] == [(3, (2, 1)), (4, (2, 0))]

    def logits(params: Any, arch: Any, strategy: Any) -> Any:
        return strategy(space, params, arch, images, size=8).logits

    sliced = jax.jit(lambda p: logits(p, arch, strategies.sliced), **QUICK)(params)
    masked = jax.jit(lambda p, a: logits(p, a, strategies.masked), **QUICK)
    assert largest_difference(masked(params, jax.tree.map(jnp.asarray, arch)), sliced) < 1e-5


def test_a_row_of_scales_is_its_subnets_alone() -> None:
    check = check_of(hybrid, size=6)
    deep, narrow = choices.largest(check.space.menu), choices.smallest(check.space.menu)
    shared = check.params["stage1_block2"]["attention_scale"]["scale"]
    assert shared.shape == (10, 8, 6)
    block = check.space.blocks["stage1_block2"]
    assert block.spec(narrow) is None and block.spec(deep).row == (2, 1)
    _, gradients = check.run("masked", deep)
    used = np.asarray(gradients["stage1_block2"]["attention_scale"]["scale"]) != 0
    assert used[2, 1].all() and used.sum() == 6


def test_a_one_hot_code_is_its_arch() -> None:
    """Also of a narrow one, whose heads are fewer: those that it lacks are mixed with no weight."""
    check = check_of(hybrid, size=6)
    masked = check.forward(strategies.masked)
    arch = choices.replace(choices.smallest(check.space.menu), ("depth", 0), np.int32(1))
    hard = masked(check.params, jax.tree.map(jnp.asarray, arch))
    coded = masked(check.params, choices.one_hot(check.space.menu, arch))
    assert largest_difference(coded.logits, hard.logits) < 1e-5


def test_zeros_are_averaged_along_with_the_edge_of_an_odd_image() -> None:
    rows = np.arange(1, 6, dtype=np.float32)
    image = jnp.asarray(np.multiply.outer(rows, np.ones(4, np.float32))[None, :, :, None])
    pooled = np.asarray(resize.zero_pool(image, 2))[0, :, :, 0]
    np.testing.assert_allclose(pooled, np.outer([0.5, 2.5, 4.5], [1, 1]))  # (0 + 1) / 2, ...


# --- weights ------------------------------------------------------------------------------------


def as_published(space: Any, params: Any) -> dict[str, np.ndarray]:
    """What the published code would have saved."""
    flat, found = flax.traverse_util.flatten_dict(params), {}
    for name, place in importer.places(space).items():
        turned = np.asarray(flat[place.leaf]).transpose(np.argsort(place.axes))
        found[name] = np.ascontiguousarray(turned.reshape(place.wanted))
    left = importer.spares(space).items()
    return {**found, **{name: np.zeros(spare.shape, np.float32) for name, spare in left}}


def test_weights_are_mapped_to_the_bit() -> None:
    params = check_of(hybrid, size=6).params
    file = as_published(hybrid(), params)
    found, report = importer.load(file, hybrid())
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert {*report.mapped} | {line.split(": ")[0] for line in report.left} == file.keys()
    assert file["blocks.1.attn.relative_position_bias_table"].shape == (81, 3)
    assert file["blocks.1.rescale_mlp"].shape == (10, 8, 6)
    for absent in ("blocks.1.attn.proj_l.linear.bias", "blocks.0.shortcut.conv.conv.weight"):
        with pytest.raises(UserError, match=f"{absent} is missing"):
            importer.load({name: file[name] for name in file if name != absent}, hybrid())
    with pytest.raises(UserError, match="digits is not of NASViT's family"):
        importer.load(file, mobilenet.digits())
