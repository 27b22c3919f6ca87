"""AutoFormer's spaces: sizes, costs and logits of the published code, and weights taken in."""

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_train_step import QUICK
from theorem import archs_of, check_of, largest_difference
from tiny_space import tokens

from supernet_jax.elastic import choices, elastic_block, shared_params, strategies
from supernet_jax.elastic.notation import from_notation, to_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.networks.formats import table
from supernet_jax.networks.formats.format import Export
from supernet_jax.networks.importers import autoformer as importer
from supernet_jax.nn.blocks.vision_transformer import (
    PatchEmbedding,
    PatchEmbeddingSpec,
    TokensHead,
    TokensHeadSpec,
    TransformerBlock,
    TransformerSpec,
)
from supernet_jax.spaces import mobilenet
from supernet_jax.spaces.autoformer import AutoFormerB, AutoFormerS, AutoFormerT, autoformer

GOLDEN = reference.golden("autoformer")
# Without drop path the blocks are alike, and described once.
SPACE = AutoFormerT(drop_path=0.0).build()
WHOLE = AutoFormerT(
    embed_dims=(256,), depths=(14,), num_heads=(4,), mlp_ratios=(4,), drop_path=0.0
).build()
PARTS = {"T": AutoFormerT(), "S": AutoFormerS(), "B": AutoFormerB()}


def published(name: str) -> tuple[Any, Any]:
    """One of the archs of the golden file, and its space."""
    space = WHOLE if name == "supernet" else SPACE
    return space, from_notation(space.menu, GOLDEN["archs"][name]["cfg"])


@pytest.mark.parametrize("name", PARTS)
def test_the_published_spaces_are_offered(name: str) -> None:
    own, there = PARTS[name], GOLDEN["published"][name]
    for ours, theirs in (
        (own.embed_dims, "EMBED_DIM"),
        (own.depths, "DEPTH"),
        (own.num_heads, "NUM_HEADS"),
        (own.mlp_ratios, "MLP_RATIO"),
    ):
        assert {*ours} >= {*there["search_space"][theirs]}
        assert max(ours) == max(there["search_space"][theirs])
    assert own.width == there["supernet"]["EMBED_DIM"]
    # Published subnets have these, and the published search spaces do not.
    assert 3.0 in PARTS["T"].mlp_ratios and 8 in PARTS["B"].num_heads


def test_size_of_the_published_space() -> None:
    menu = AutoFormerT(mlp_ratios=(3.5, 4.0)).build().menu
    each = [len(h) * len(r) for h, r in zip(menu["num_heads"], menu["mlp_ratio"], strict=True)]
    subnets = sum(math.prod(each[:depth]) for depth in menu["depth"].values)
    assert len(menu["embed_dim"]) * subnets == GOLDEN["space_size"]


def test_parameters_of_all_shared_weights() -> None:
    shapes = jax.tree.leaves(shared_params.parameter_shapes(SPACE))
    assert sum(math.prod(leaf.shape) for leaf in shapes) == GOLDEN["supernet_parameters"]


@pytest.mark.parametrize("name", GOLDEN["archs"])
def test_costs_are_the_published_ones(name: str) -> None:
    space, arch = published(name)
    cfg, wanted = GOLDEN["archs"][name]["cfg"], GOLDEN["archs"][name]
    assert int(costs.parameters(space)(arch)) == wanted["params"]
    assert int(costs.macs(space)(arch)) == macs_by_hand(cfg)
    assert published_complexity(cfg) == wanted["complexity_reported"]


def macs_by_hand(cfg: Any) -> int:
    """Products of matrices of 197 tokens, 14 x 14 of which are patches."""
    c, n, side = cfg["embed_dim"], 197, 14
    total = side**2 * 3 * 16**2 * c + 1000 * c
    for heads, ratio in zip(cfg["num_heads"], cfg["mlp_ratio"], strict=True):
        q = 64 * heads
        linear = n * (4 * q * c + 2 * c * int(c * ratio))
        scores_and_values = 2 * n**2 * q
        # Rows and columns of the keys' and the values' positions; the class token's of the keys.
        positions = 4 * side**2 * side * q + n * q
        total += linear + scores_and_values + positions
    return total


def published_complexity(cfg: Any) -> float:
    """What the published code reports, which counts 198 tokens in blocks, and more besides."""
    c, n = cfg["embed_dim"], 198
    total = 196 * 3 * 16**2 * c + 197 * 1000 * c  # the head at every token
    total += c + 197 * c / 2  # a bias, and half of the positions
    for heads, ratio in zip(cfg["num_heads"], cfg["mlp_ratio"], strict=True):
        q = 64 * heads
        total += n * (4 * q * c + 2 * c * int(c * ratio)) + 2 * n**2 * q
        total += 2 * n * c  # norms
        total += 2 * 14 * n**2 + n**2 / 2 + n * q / 2  # relative positions
    return total


def test_a_plain_vision_transformer_has_the_published_counts() -> None:
    # DeiT-T (arXiv 2012.12877): parameters of the authors' log, MACs by the formula of its layers.
    c, layers, n = 192, 12, 197
    token = jax.ShapeDtypeStruct((1, n, c), jnp.float32)
    blocks = {
        "embed": (PatchEmbedding, PatchEmbeddingSpec(3, c, 16), (1, 224, 224, 3)),
        "block": (TransformerBlock, TransformerSpec(c, 3, 64, 4 * c), token.shape),
        "head": (TokensHead, TokensHeadSpec(c, 1000, "class_token"), token.shape),
    }
    macs = parameters = 0
    for name, (module, spec, shape) in blocks.items():
        described = elastic_block.block_shapes.describe(
            module, spec, (jax.ShapeDtypeStruct(shape, jnp.float32),)
        )
        times = layers if name == "block" else 1
        macs += times * described.macs
        parameters += times * sum(math.prod(s.shape) for s in jax.tree.leaves(described.params))
    assert (parameters, macs) == (5_717_416, 1_253_683_200)


def taken_in() -> Any:
    tensors = reference.tensors(GOLDEN["param_names_shapes"])
    params, report = importer.load(tensors, SPACE)
    assert len(report.mapped) == len(tensors) and report.left == ()
    return params


def test_published_logits() -> None:
    """Masked, where blocks must find out by themselves how many heads there are."""
    _, arch = published("retrain")
    images, wanted = reference.images(2, 224, 0), GOLDEN["logits"]
    run = functools.partial(strategies.masked, SPACE, size=224)
    program = jax.jit(lambda p, a, x: run(p, a, x).logits, **QUICK)
    logits = np.asarray(program(taken_in(), jax.tree.map(jnp.asarray, arch), images))
    assert logits.shape == tuple(wanted["shape"])
    np.testing.assert_allclose(logits[:, :8], wanted["first8"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits.sum(1), wanted["sum"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), wanted["l2"], rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == wanted["argmax"]


# --- weights ------------------------------------------------------------------------------------


def as_published(space: Any, params: Any) -> dict[str, np.ndarray]:
    """What the published code would have saved, by slices of its own."""
    found = {}
    for name, place in importer.places(space).items():
        value = functools.reduce(lambda node, key: node[key], place.leaf, params)
        value = np.asarray(value)
        if name.endswith("qkv.weight"):
            rows = np.zeros((value[0].size, len(value)), np.float32)
            for kind in range(3):
                rows[kind::3] = value[:, kind].reshape(len(value), -1).T
            value = rows
        elif name.endswith("attn.proj.weight"):
            value = value.reshape(-1, value.shape[-1]).T
        elif name.endswith("patch_embed_super.proj.weight"):
            value = value.transpose(3, 2, 0, 1)
        elif name.endswith(("fc1.weight", "fc2.weight", "head.weight")):
            value = value.T
        elif name in ("pos_embed", "cls_token"):
            value = value.reshape(1, -1, value.shape[-1])
        found[name] = value
    return found


def test_weights_are_mapped_to_the_bit() -> None:
    params = check_of(tokens, size=6).params
    file = as_published(tokens(), params)
    found, report = importer.load(file, tokens())
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert set(report.mapped) == set(file) and report.left == ()
    assert file["blocks.1.attn.qkv.weight"].shape == (3 * 3 * 2, 7)
    assert file["pos_embed"].shape == (1, 10, 7)


def test_weights_that_are_not_of_the_space() -> None:
    file = as_published(tokens(), check_of(tokens, size=6).params)
    for change, said in (
        ({"blocks.0.attn.qkv.bias": np.zeros(9, np.float32)}, r"qkv.bias has the shape \[9\]"),
        ({"blocks.0.attn.qkv.weight": np.zeros((7, 18), np.float32)}, r"in .* it has \[18, 7\]"),
        ({"blocks.2.fc1.bias": np.zeros(9, np.float32)}, "has no blocks.2.fc1.bias"),
    ):
        with pytest.raises(UserError, match=said):
            importer.load({**file, **change}, tokens())
    with pytest.raises(UserError, match="digits is not of the AutoFormer family"):
        importer.load(file, mobilenet.digits())


# --- strategies and notation --------------------------------------------------------------------


def test_one_hot_codes_are_archs() -> None:
    check = check_of(tokens, size=6)
    masked = check.forward(strategies.masked)
    for arch in archs_of(check.space, 2):
        hard = masked(check.params, jax.tree.map(jnp.asarray, arch))
        coded = masked(check.params, choices.one_hot(check.space.menu, arch))
        assert largest_difference(coded.logits, hard.logits) < 1e-5


def test_a_subnet_in_every_format(tmp_path: pathlib.Path) -> None:
    space, params = tokens(), check_of(tokens, size=6).params
    arch = choices.replace(choices.largest(space.menu), ("num_heads", 1), np.int32(0))
    made, variables = extract.extract(space, params, arch, None)
    images = np.random.default_rng(3).normal(size=(3, 6, 6, 2)).astype(np.float32)
    description = extract.describe(
        space,
        arch,
        made,
        variables,
        mean=(0.5, 0.25),
        std=(0.3, 0.2),
        accuracy={},
        calibration=(2, 64),
        source={},
        proof=extract.prove(space, params, arch, None, made, variables, images),
        proof_images=len(images),
    )
    assert description["calibration"] == {"batches": 0, "batch": 0}  # there is nothing to calibrate
    card = manifest.model_card(description)
    assert "calibrat" not in card and "BatchNorm" not in card
    assert description["parameters"] == int(costs.parameters(space)(arch))
    there = [format for format in table.FORMATS if not table.missing_packages(format)]
    assert {"orbax", "safetensors", "stablehlo", "onnx"} <= {format.name for format in there}
    export = Export(made, variables, description, (6, 6), pixels=False)
    # What is written is loaded by the format's own runtime and compared, or nothing is written.
    write = table.writer(there, export, images)
    network_folder.save(tmp_path / "all", made, variables, description=description, write=write)
    written = manifest.read_description(tmp_path / "all")["formats"]
    assert set(written) == {format.name for format in there}
    assert all(one["difference"] <= 1e-5 and one["images"] == 3 for one in written.values())


def notation(**changes: Any) -> Any:
    cfg = GOLDEN["archs"]["retrain"]["cfg"]
    return {**cfg, **changes}


def test_lists_are_as_long_as_the_depth_or_the_largest() -> None:
    short = from_notation(SPACE.menu, notation())
    full = to_notation(SPACE.menu, short)
    assert [len(full[name]) for name in ("num_heads", "mlp_ratio")] == [14, 14]
    assert full["num_heads"][:13] == notation()["num_heads"] and full["num_heads"][13] == 3
    again = from_notation(SPACE.menu, full)
    jax.tree.map(np.testing.assert_array_equal, again, short)


WRONG: dict[str, tuple[Any, str]] = {
    "depth": ({"depth": 12}, "num_heads has 13 entries, but depth is 12; it must have 12 entries"),
    "short": (
        {"mlp_ratio": [4.0] * 12},
        "mlp_ratio has 12 entries, but depth is 13; it must have 13 entries, or 14, of which",
    ),
    "long": ({"num_heads": [3] * 15}, "num_heads must be a list of 14 numbers"),
    "heads": ({"num_heads": [3] * 12 + [5]}, r"num_heads\[12\] is 5, but this space allows 3, 4"),
    "empty": ({"num_heads": []}, "num_heads has 0 entries, but depth is 13"),
}


@pytest.mark.parametrize("case", WRONG)
def test_archs_that_are_not_in_the_space(case: str) -> None:
    changes, said = WRONG[case]
    with pytest.raises(UserError, match=said) as caught:
        from_notation(SPACE.menu, notation(**changes))
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_be() -> None:
    small = {"embed_dims": (4,), "depths": (1,), "num_heads": (1,), "mlp_ratios": (1.0,)}
    with pytest.raises(UserError, match=r"images of 30 pixels and patches of 16; .* a multiple"):
        autoformer("a", **small, width=4, resolution=30)
    with pytest.raises(UserError, match="shared weights of 3 channels, but offers 4; width must"):
        autoformer("a", **small, width=3)
    with pytest.raises(UserError, match=r"space.num-heads is \(0,\); give numbers above 0"):
        AutoFormerT(num_heads=(0,)).build()
    with pytest.raises(UserError, match=r"space.depths is \(\); give numbers above 0"):
        AutoFormerT(depths=()).build()
    image = jax.ShapeDtypeStruct((1, 30, 30, 3), jnp.float32)
    with pytest.raises(UserError, match="30 x 30 pixels have no patches of 16 x 16 without rest"):
        elastic_block.block_shapes.describe(PatchEmbedding, PatchEmbeddingSpec(3, 4, 16), (image,))
