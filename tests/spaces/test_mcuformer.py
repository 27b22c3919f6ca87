"""MCUFormer: what is offered, costs by hand, memory by layers, and what cannot be."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import archs_of, check_of, flat, largest_difference
from tiny_space import two_factors

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.notation import from_notation, to_notation
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import extract
from supernet_jax.nn.blocks.mcuformer import SizedPatchEmbedding, SizedPatchEmbeddingSpec
from supernet_jax.spaces.mcuformer import MCUFormer

# One width, depth and ratio, so that few specs are traced.
NARROW = {"embed_dims": (192,), "depths": (2,), "mlp_ratios": (4.0,), "rank_ratios": (0.4, 0.9)}


def test_the_published_space_is_offered() -> None:
    """experiments/supernet/supernet-T.yaml and supernet-T-new.yaml of the published code."""
    own = MCUFormer()
    assert own.embed_dims == (168, 192, 216) and own.depths == (12, 13, 14)
    assert own.num_heads == (3, 4) and own.mlp_ratios == (3.5, 4.0)
    assert own.patches == (16, 20, 24, 28, 32) and own.resolutions == (240,)
    assert own.rank_ratios == tuple(n / 100 for n in range(40, 100, 5))
    space = own.build()
    # 28 and 32 do not divide 240: the published code has a border of 6 and of 8 pixels.
    assert space.sizes == tuple((240, p) for p in own.patches)
    shapes = shared_params.parameter_shapes(space)["embed"]
    tokens = {name: leaf.shape for name, leaf in shapes.items() if name.startswith("position")}
    assert tokens == {f"position{g}": (g * g + 1, 216) for g in (8, 9, 10, 12, 15)}


# --- by hand ------------------------------------------------------------------------------------


def sizes_of(space: Space, arch: Any, head_dim: int) -> dict[str, Any]:
    """The numbers that an arch stands for, and from them the ranks."""
    values = to_notation(space.menu, arch)
    c, ratio, side = values["embed_dim"], values["rank_ratio"], values["resolution"]
    grid = math.ceil(side / values["patch"])
    blocks = []
    for heads, mlp in zip(values["num_heads"], values["mlp_ratio"], strict=True):
        hd, hidden = heads * head_dim, int(c * mlp)
        rank = lambda a, b: max(int(min(a, b) * ratio), 1)  # noqa: E731
        ranks = rank(c, 3 * hd), rank(hd, c), rank(c, hidden), rank(hidden, c)
        blocks.append((heads, hidden, ranks))
    found = {"c": c, "grid": grid, "side": side, "patch": values["patch"], "d": head_dim}
    return {**found, "n": grid**2 + 1, "blocks": blocks[: values["depth"]]}


def live_by_hand(space: Space, arch: Any, head_dim: int, distance: int) -> int:
    """The most numbers that live at once: a list of moments, each of the arrays that are there."""
    s = sizes_of(space, arch, head_dim)
    task = space.task
    c, n, g, d = s["c"], s["n"], s["grid"], s["d"]
    image, patches = s["side"] ** 2 * task.input_channels, (n - 1) * c
    moments = {"patches": [image, patches], "class token": [patches, n * c]}
    for i, (h, hidden, (qkv, merge, expand, project)) in enumerate(s["blocks"]):
        x, heads, one, scores = n * c, 3 * n * h * d, n * h * d, h * n * n
        attention = {
            "norm": [x, x],
            "rank": [x, x, n * qkv],
            "heads": [x, n * qkv, heads],
            "scaled queries": [x, heads, one],
            "scores": [x, heads, one, scores],
            "softmax": [x, heads, scores, h * n],
            "values": [x, heads, scores, one],
            "merged": [x, one, n * merge],
            "added": [x, n * merge, x],
        }
        if distance:  # of pairs with the class token, of rows and columns, of pairs of patches
            token, lines, pairs = h * n, h * (n - 1) * g, h * (n - 1) ** 2
            rest = [x, heads, scores, token]
            attention |= {
                "lines": [*rest, one, lines, lines],
                "pairs": [*rest, lines, lines, pairs],
                "patches' scores": [*rest, pairs, h * (n - 1) * n],
                "all positions": [*rest, h * (n - 1) * n, scores],
                # The sums of weights over rows, then over columns, each times its embeddings.
                "positions of values": [x, one, scores, lines, 2 * (n - 1) * h * d],
            }
        mlp = {
            "norm 2": [x, x],
            "rank 2": [x, x, n * expand],
            "expanded": [x, n * expand, n * hidden],
            "narrowed": [x, n * hidden, n * project],
            "projected": [x, n * project, x],
        }
        moments |= {f"{name} of {i}": arrays for name, arrays in (attention | mlp).items()}
    moments |= {"mean": [n * c, c], "logits": [c, task.classes]}
    return max(map(sum, moments.values()))


def of(**offers: Any) -> Space:
    """A space of few specs."""
    own = {"resolutions": (6, 24), "patches": (2, 4), "embed_dims": (4, 20), "depths": (1, 2)}
    own |= {"num_heads": (1, 3), "mlp_ratios": (6.0,), "rank_ratios": (0.4, 1.0), "head_dim": 2}
    return MCUFormer(**{**own, "drop_path": 0.0, **offers}).build(classes=5, input_channels=2)


def everywhere(space: Space) -> list[Any]:
    """Archs at each size."""
    return [
        jax.tree.map(np.asarray, space.at_size(arch, np.int32(which)))
        for which in range(len(space.sizes))
        for arch in archs_of(space, 2)
    ]


@pytest.mark.parametrize("distance", [0, 1])
def test_peak_memory_is_that_of_the_layers(distance: int) -> None:
    space = of(distance=distance)
    cost = costs.peak_memory(space)
    for arch in everywhere(space):
        assert int(cost(arch)) == live_by_hand(space, arch, 2, distance)


def test_peak_memory_of_the_published_sizes() -> None:
    """Of two blocks: all are alike, and the neediest counts. Bytes, int8."""
    space = MCUFormer(**NARROW, drop_path=0.0).build()
    cost, budget = costs.peak_memory(space), 320 * 1024
    for arch in everywhere(space):
        own = int(cost(arch))
        assert own == live_by_hand(space, arch, 64, 14)
        # With 226 tokens attention alone needs more; with 101 and fewer everything fits.
        patch = to_notation(space.menu, arch)["patch"]
        assert own > budget if patch == 16 else patch == 20 or own < budget


def macs_by_hand(space: Space, arch: Any, head_dim: int, classes: int, channels: int) -> int:
    """Products of matrices, of relative positions too."""
    s = sizes_of(space, arch, head_dim)
    c, n, g = s["c"], s["n"], s["grid"]
    total = g**2 * channels * s["patch"] ** 2 * c + classes * c
    for h, hidden, (qkv, merge, expand, project) in s["blocks"]:
        q = h * head_dim
        linear = qkv * (c + 3 * q) + merge * (q + c) + (expand + project) * (c + hidden)
        total += n * linear + 2 * n**2 * q + 4 * g**3 * q + n * q
    return total


def test_macs_and_parameters() -> None:
    space = of(distance=1)
    macs, parameters = costs.macs(space), costs.parameters(space)
    for arch in everywhere(space):
        assert int(macs(arch)) == macs_by_hand(space, arch, 2, 5, 2)
        s = sizes_of(space, arch, 2)
        c, p = s["c"], s["patch"]
        wanted = 2 * p * p * c + c + c + s["n"] * c + 2 * c + 5 * c + 5
        for h, hidden, (qkv, merge, expand, project) in s["blocks"]:
            wanted += qkv * (c + 6 * h) + 6 * h + merge * (2 * h + c) + c
            wanted += (expand + project) * (c + hidden) + hidden + c
            wanted += 4 * c + 2 * 2 * 4 * 2  # norms; two tables each of keys and of values
        assert int(parameters(arch)) == wanted


# --- strategies ---------------------------------------------------------------------------------


def test_a_rank_is_the_leading_columns_and_rows() -> None:
    """What is beyond the rank of a subnet does not count, and what is within does."""
    check = check_of(two_factors, size=(6, 2))
    space, full = check.space, check.params
    arch = {**choices.largest(space.menu), "rank_ratio": np.int32(0), "patch": np.int32(0)}
    arch["depth"] = np.int32(0)
    run = jax.jit(lambda params: strategies.sliced(space, params, arch, check.images, size=(6, 2)))
    before = run(full).logits
    first, second = full["block1"]["expand_down"]["kernel"], full["block1"]["expand"]["kernel"]
    assert first.shape == (6, 6) and second.shape == (6, 9)
    for rank, same in ((3, True), (2, False)):
        block = {
            **full["block1"],
            "expand_down": {"kernel": first.at[:, rank:].set(9.0)},
            "expand": {**full["block1"]["expand"], "kernel": second.at[rank:].set(9.0)},
        }
        after = run({**full, "block1": block}).logits
        assert (largest_difference(after, before) == 0) == same


def test_patches_have_weights_of_their_own() -> None:
    check = check_of(two_factors, size=(6, 4))
    space = check.space
    arch = jax.tree.map(np.asarray, space.at_size(choices.largest(space.menu), np.int32(2)))
    made, variables = extract.extract(space, check.params, arch, None)
    assert set(variables["params"]["embed"]) == {"class_token", "patch4", "position2"}
    assert extract.prove(space, check.params, arch, None, made, variables, check.images) < 1e-5
    # An image of 6 pixels has a border of 1: its patches of 4 are those of one of 8 pixels.
    spec, image = SizedPatchEmbeddingSpec(2, 6, 4), check.images
    module, own = SizedPatchEmbedding(spec), {"params": variables["params"]["embed"]}
    bordered = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(module.apply(own, image), module.apply(own, bordered))
    # The gradient of another size's weights is exactly 0, that of its own is not.
    _, gradients = check.run("masked", arch)
    dead = [gradients["embed"][name] for name in ("patch2", "patch3", "position3")]
    assert not np.any(flat(dead))
    assert all(np.any(flat(gradients["embed"][name])) for name in ("patch4", "position2"))


def test_a_patch_is_a_static_decision() -> None:
    space = two_factors()
    assert space.sizes == ((6, 2), (6, 3), (6, 4))
    menu = space.menu
    given = {"resolution": 6, "patch": 3, "embed_dim": 4, "depth": 1, "rank_ratio": 0.5}
    arch = from_notation(menu, {**given, "num_heads": [2], "mlp_ratio": [1.5]})
    assert space.size_of(arch) == (6, 3)
    # Whatever a traced arch says of its patch, the caller's size is what runs.
    check = check_of(two_factors, size=(6, 4))
    masked = check.forward(strategies.masked)
    one, other = (
        masked(check.params, jax.tree.map(jnp.asarray, {**arch, "patch": np.int32(i)}))
        for i in (0, 2)
    )
    np.testing.assert_array_equal(one.logits, other.logits)


# --- what cannot be -----------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "uneven border": ({"patches": (2, 5)}, "images of 24 pixels cannot be cut into patches of 5"),
    "patch": ({"patches": (2, 7)}, "images of 6 pixels cannot be cut into patches of 7"),
    "ratio": ({"rank_ratios": (0.5, 1.2)}, r"rank-ratios has 1.2; .* above 0 and at most 1"),
    "no ratio": ({"rank_ratios": (0.0, 1.0)}, r"space.rank-ratios is \(0.0, 1.0\); give numbers"),
    "no patch": ({"patches": ()}, r"space.patches is \(\); give numbers above 0"),
    "distance": ({"distance": -1}, "space.distance is -1, but must be at least 0"),
    "head": ({"head_dim": 0}, "space.head-dim is 0, but must be at least 1"),
    "deviation": ({"deviation": 0.0}, "space.deviation is 0.0, but must be above 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_cannot_be(case: str) -> None:
    changes, said = WRONG[case]
    with pytest.raises(UserError, match=said):
        of(**changes)


def test_larger_patches_are_cheaper() -> None:
    """The ends of a cost are those at any size, not those of the smallest and the largest arch."""
    space = of(resolutions=(24,), distance=0)
    cost = costs.macs(space)
    every = choices.stack(everywhere(space))
    assert costs.span(space, cost) == (cost(every).min(), cost(every).max())
    largest, smallest = choices.largest(space.menu), choices.smallest(space.menu)
    assert costs.span(space, cost) != (cost(smallest), cost(largest))
