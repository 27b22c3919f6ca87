"""DARTS' space: counts, logits and genotypes of its published code, and its two menus."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_train_step import QUICK
from theorem import largest_difference, random_inputs, random_params
from tiny_space import cell_edges, cell_genotypes

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import space_facts
from supernet_jax.nn.blocks import darts as blocks
from supernet_jax.spaces import DartsEdges, DartsGenotypes, darts
from supernet_jax.tasks import ImageClassification

GOLDEN = reference.golden("darts")
KINDS = {"normal": "normal", "reduction": "reduce"}  # as the published genotypes call them
LAYERS = {  # of the published operations, by their place in them
    "sep": {1: "first_depthwise", 2: "first_pointwise", 3: "first_norm"}
    | {5: "second_depthwise", 6: "second_pointwise", 7: "second_norm"},
    "dil": {1: "depthwise", 2: "pointwise", 3: "norm"},
}
FACTORISED = {"conv_1": "first", "conv_2": "second", "bn": "norm"}
PER_CELL = 1_037_664_180  # appendix: genotypes of a cell


def arch_of(genotype: Any) -> Any:
    """A published genotype in the menu of genotypes."""
    found: Any = {"resolution": 0}
    for ours, theirs in KINDS.items():
        inputs, operations = [], []
        for i, two in enumerate(zip(genotype[theirs][::2], genotype[theirs][1::2], strict=True)):
            first, second = sorted(two, key=lambda taken: taken[1])
            inputs.append(blocks.pairs(i + 2).index((first[1], second[1])))
            operations += [darts.OPERATIONS.index(name) - 1 for name, _ in (first, second)]
        found[ours] = {"inputs": inputs, "operation": operations}
    return jax.tree.map(np.int32, found)


def code_of(rows: int, normal: int, reduction: int, scale: float) -> Any:
    """A code of edges whose logits the hash fills; see the goldens."""
    rows_of = lambda start: [  # noqa: E731
        jax.nn.softmax(jnp.asarray(scale * reference.uniform(8, start + i), jnp.float32))
        for i in range(rows)
    ]
    return {"resolution": np.ones(1), "normal": rows_of(normal), "reduction": rows_of(reduction)}


# ---------------------------------------------------------------------------- counts


def test_archs_of_a_cell_are_the_published_ones() -> None:
    facts = space_facts.summarise(
        DartsGenotypes(resolution=8, channels=2).build(), samples=2, seed=0
    )
    assert facts["archs"] == PER_CELL**2
    edges = DartsEdges(resolution=8, channels=2, cells=3).build()
    assert choices.count(edges.menu) == 8 ** (14 + 14)


def test_parameters_of_derived_networks_are_the_published_ones() -> None:
    parameters = costs.parameters(DartsGenotypes(channels=36, cells=20, derived=True).build())
    for name, genotype in GOLDEN["genotypes"].items():
        assert int(parameters(arch_of(genotype))) == GOLDEN["parameters"][name]


@pytest.mark.parametrize("settings", [DartsEdges(), DartsGenotypes()])
def test_parameters_of_the_search_network_are_the_published_ones(settings: Any) -> None:
    assert space_facts.supernet_parameters(settings.build()) == GOLDEN["parameters"]["search"]


# ---------------------------------------------------------------------------- logits


def small(genotypes: bool, derived: bool) -> Space:
    """What the goldens were computed with."""
    return darts.darts(
        "small",
        genotypes=genotypes,
        resolution=8,
        channels=4,
        cells=3,
        nodes=2,
        task=ImageClassification(3, 10),
        outputs=10,
        input_channels=3,
        derived=derived,
    )


def filled(space: Space, golden: Any, genotype: Any) -> Any:
    """The published tensors in our parameters, zeros where the published network has none.

    The genotype is that of a derived network, None for the search.
    """
    shapes = shared_params.parameter_shapes(space)
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    for name, value in reference.tensors(golden["param_names_shapes"]).items():
        *way, last = where(name, genotype)
        leaf = params
        for key in way:
            leaf = leaf[key]
        turned = value.transpose(range(value.ndim)[::-1] if value.ndim < 4 else (2, 3, 1, 0))
        assert leaf[last].shape == turned.shape, name
        leaf[last] = turned
    return params


def where(name: str, genotype: Any) -> tuple[str, ...]:
    """Where a published tensor lies among our parameters."""
    parts = name.split(".")
    leaf = {"weight": "kernel", "bias": "bias"}[parts[-1]]
    if parts[0] == "stem":
        return ("stem", *(("conv", leaf) if parts[1] == "0" else ("norm", norm_leaf(leaf))))
    if parts[0] == "classifier":
        return ("head", "classifier", leaf)
    cell = int(parts[1])
    if parts[2].startswith("preprocess"):
        block = blocks.input_name(cell, int(parts[2][-1]))
        layer = FACTORISED.get(parts[3]) or {"1": "conv", "2": "norm"}[parts[4]]
        return (block, layer, norm_leaf(leaf) if layer == "norm" else leaf)
    place = int(parts[3])
    if genotype is None:
        start, end = blocks.edges(2)[place]
        operation, inside = darts.OPERATIONS[int(parts[5])], parts[6:-1]
    else:
        kind = "reduction" if blocks.halves(3, cell) else "normal"
        operation, start = genotype[KINDS[kind]][place]
        end, inside = 2 + place // 2, parts[4:-1]
    if operation == "skip_connect":
        layer = FACTORISED[inside[0]]
    else:
        layer = LAYERS[operation[:3]][int(inside[-1])]
    leaf = norm_leaf(leaf) if layer.endswith("norm") else leaf
    return (blocks.edge_name(cell, start, end), operation, layer, leaf)


def norm_leaf(leaf: str) -> str:
    return "scale" if leaf == "kernel" else leaf


def test_published_logits_of_the_search() -> None:
    space, golden = small(genotypes=False, derived=False), GOLDEN["search"]
    params = filled(space, golden, None)
    code, x = code_of(5, 50, 70, 2.0), reference.images(3, 8, 0)
    run = jax.jit(lambda p, c: mixed(space, p, c, x, size=8).logits, **QUICK)
    # Float32 sums over a few hundred products, in another order.
    np.testing.assert_allclose(run(params, code), golden["logits"], rtol=0, atol=1e-4)
    wanted = arch_of(golden["genotype"])
    jax.tree.map(np.testing.assert_array_equal, darts.genotype(code), wanted)


def test_published_logits_of_a_derived_network() -> None:
    space, golden = small(genotypes=True, derived=True), GOLDEN["derived"]
    params, x = filled(space, golden, golden["genotype"]), reference.images(3, 8, 0)
    arch = arch_of(golden["genotype"])
    run = jax.jit(lambda p: strategies.sliced(space, p, arch, x, size=8).logits, **QUICK)
    np.testing.assert_allclose(run(params), golden["logits"], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------- genotypes


@pytest.mark.parametrize("t", range(3))
def test_genotypes_are_the_published_ones(t: int) -> None:
    arch = darts.genotype(code_of(14, 200 + 100 * t, 250 + 100 * t, 1.0))
    wanted = arch_of(GOLDEN["derivations"][t])
    jax.tree.map(np.testing.assert_array_equal, arch, wanted)


def rows(*operations: str) -> list[np.ndarray]:
    return [np.eye(8)[darts.OPERATIONS.index(name)] for name in operations]


def test_a_genotype_is_the_same_network_in_both_menus() -> None:
    """Of an arch whose nodes have two edges each the one-hot code gives that arch."""
    edges, genotypes = cell_edges(), cell_genotypes()
    code = {
        "resolution": np.ones(1),
        "reduction": rows(
            *("sep_conv_3x3", "skip_connect"), *("dil_conv_3x3", "none", "avg_pool_3x3")
        ),
    }
    arch = darts.genotype(code)
    assert jax.tree.leaves(arch["reduction"]["inputs"]) == [0, 1]  # 0 and 1; 0 and 2
    params, x = random_params(edges), random_inputs(edges, 4, 3)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, random_params(genotypes))
    by_edges = jax.tree.map(lambda w: np.int32(w.argmax()), code)
    moved = {**arch, "reduction": {**arch["reduction"], "inputs": [np.int32(0), np.int32(0)]}}

    @functools.partial(jax.jit, **QUICK)
    def run(params: Any) -> Any:
        each = (edges, by_edges), (genotypes, arch), (genotypes, moved)
        hard = choices.one_hot(genotypes.menu, arch)
        return [
            *(strategies.sliced(space, params, one, x, size=4).logits for space, one in each),
            mixed(genotypes, params, hard, x, size=4).logits,
        ]

    one, other, third, coded = run(params)
    np.testing.assert_array_equal(one, other)
    assert largest_difference(coded, one) < 1e-5
    assert largest_difference(third, one) > 1e-3


def test_none_is_never_taken_however_large() -> None:
    weights = rows(*["none"] * 5)
    for row, rest in zip(weights, (1, 3, 9, 2, 5), strict=True):
        row[1:] = 0.01 * rest
        row[4] += 0.001
    arch = darts.genotype({"resolution": np.ones(1), "reduction": weights})["reduction"]
    assert arch["inputs"] == [0, 1] and arch["operation"] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (rows(*["none"] * 4), "has 4 of shapes [[8]]"),
        ([np.ones(7)] * 5, "has 5 of shapes [[7]]"),
    ],
)
def test_other_codes_are_refused(weights: Sequence[Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        darts.genotype({"resolution": np.ones(1), "normal": weights})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (DartsEdges(channels=3), "space.channels is 3, but must be even"),
        (DartsGenotypes(resolution=30), "space.resolution is 30, but must be a multiple of 4"),
        (DartsGenotypes(nodes=0), "space.nodes is 0, but must be at least 1"),
        (DartsEdges(cells=0), "space.cells is 0, but must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings.build()
