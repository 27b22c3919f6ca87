"""HAT's spaces: published counts, heads that are views of the same channels, and what is attended.

The space is held to the theorem in `tests/elastic/test_theorem.py`; here are the strategies and
facts that it leaves out.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from theorem import check_of, global_difference, largest_difference
from tiny_space import translating

from supernet_jax import spaces
from supernet_jax.elastic import choices, elastic_block, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.notation import from_notation, to_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.nn.blocks import translation_transformer as blocks
from supernet_jax.tasks import ImageClassification, NextToken, Translation

GOLDEN = reference.golden("hat")
PARTS = {
    part.name: part
    for part in (
        spaces.HatWmt14EnDe,
        spaces.HatWmt14EnFr,
        spaces.HatWmt19EnDe,
        spaces.HatIwslt14DeEn,
    )
}


@pytest.mark.parametrize("name", PARTS)
def test_parameters_are_the_published_ones(name: str) -> None:
    """By the shapes of each arch's own blocks; the cost of archs is held to the same rule below."""
    space = PARTS[name]().build()
    places = elastic_space.geometry(space, ())
    for net in GOLDEN["nets"][name]:
        arch, total = from_notation(space.menu, net["arch"]), 0
        for block, place in places.items():
            if block not in space.uncounted and (spec := space.blocks[block].spec(arch)):
                own = elastic_block.shapes(space.blocks[block], spec, place.inputs).params
                total += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own))
        assert total == net["parameters"], net["name"]


def test_the_golden_file_has_all_that_were_read() -> None:
    assert sum(map(len, GOLDEN["nets"].values())) == 22
    assert set(GOLDEN["nets"]) == set(PARTS)


def test_parameters_by_the_published_formula() -> None:
    """Of random archs, with each matrix, bias and norm counted by hand."""
    one: Any = {"encoder_heads": (4,), "decoder_heads": (4,), "memory_heads": (2,)}
    space = spaces.HatIwslt14DeEn(encoder_layers=(4, 6), attended=(-1,), **one).build()
    archs = choices.sample(space.menu, jax.random.key(0), (20,))
    found = costs.parameters(space)(jax.tree.map(np.asarray, archs))
    for arch, count in zip(choices.unstack(archs), found, strict=True):
        cfg: Any = to_notation(space.menu, arch)
        e, d, q = cfg["encoder_embed_dim"], cfg["decoder_embed_dim"], 512
        total = 0
        for f in cfg["encoder_ffn_embed_dim_all"][: cfg["encoder_layer_num"]]:
            total += 3 * (e * q + q) + q * e + e + 2 * (2 * e) + e * f + f + f * e + e
        for f in cfg["decoder_ffn_embed_dim_all"][: cfg["decoder_layer_num"]]:
            total += 3 * (d * q + q) + q * d + d + 3 * (2 * d) + d * f + f + f * d + d
            total += d * q + q + 2 * (e * q + q) + q * d + d
        assert count == total


def test_lists_may_end_where_layers_do() -> None:
    space = spaces.HatWmt14EnDe().build()
    short = next(net["arch"] for net in GOLDEN["nets"]["hat_wmt14_ende"])
    arch = from_notation(space.menu, short)
    full: Any = to_notation(space.menu, arch)
    assert len(short["decoder_arbitrary_ende_attn_all"]) == short["decoder_layer_num"] < 6
    assert len(full["decoder_arbitrary_ende_attn_all"]) == 6
    jax.tree.map(np.testing.assert_array_equal, from_notation(space.menu, full), arch)
    with pytest.raises(UserError, match=r"all\[0\] is 0, but this space allows -1, 1, 2"):
        from_notation(space.menu, {**full, "decoder_arbitrary_ende_attn_all": [0] * 6})


@functools.cache
def masked() -> Any:
    """`(params, arch) -> output`, compiled once."""
    return check_of(translating, size=()).forward(strategies.masked)


@functools.cache
def whole() -> Any:
    """`(params, ids) -> logits` of the largest subnet."""
    space = check_of(translating, size=()).space
    arch = choices.largest(space.menu)
    return jax.jit(lambda p, x: strategies.sliced(space, p, arch, x, size=()).logits)


def test_blocks_by_themselves_and_dead_weights() -> None:
    """Of an arch that skips a layer of the encoder and attends to what it put out."""
    check = check_of(translating, size=())
    menu = check.space.menu
    arch = {**choices.smallest(menu), "decoder_arbitrary_ende_attn_all": [np.int32(1)] * 2}
    output, gradients = check.run("sliced", arch)
    boxes = check.boxes(arch)
    assert any((box == 0).any() for box in jax.tree.leaves(boxes))
    other, others_gradients = check.run("blockwise", arch)
    assert largest_difference(other.logits, output.logits) < 1e-5
    assert global_difference(others_gradients, gradients) < 1e-5
    for group, box in boxes.items():
        for inside, g in zip(
            jax.tree.leaves(box), jax.tree.leaves(others_gradients[group]), strict=True
        ):
            assert not np.any(np.asarray(g)[np.asarray(inside) == 0])


def test_every_decision_counts() -> None:
    """Otherwise heads, or layers that are attended to, could be the same in every strategy."""
    check = check_of(translating, size=())
    menu = check.space.menu
    largest = choices.largest(menu)
    before = masked()(check.params, jax.tree.map(jnp.asarray, largest)).logits
    for path in choices.paths(menu):
        if len(choices.get(menu, path)) > 1:
            changed = jax.tree.map(jnp.asarray, choices.replace(largest, path, np.int32(0)))
            after = masked()(check.params, changed).logits
            assert largest_difference(after, before) > 1e-3, path


def random_variables(module: Any, *inputs: Any) -> Any:
    """Parameters of a module, of noise alone."""
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


def test_heads_are_groups_of_the_same_channels() -> None:
    rng = np.random.default_rng(0)
    x, memory = (jnp.asarray(rng.normal(size=(2, n, 5)), jnp.float32) for n in (3, 4))
    wide = blocks.GroupedAttention(12, 6, 5)
    given = x, memory, jnp.zeros((1, 1, 1, 1))
    params = random_variables(wide, *given)
    shared = jax.jit(wide.apply)
    for heads in (2, 3):
        own = jax.jit(blocks.GroupedAttention(12, heads, 5).apply)(params, *given)
        same = shared(params, *given, {h: jnp.float32(h == heads) for h in (2, 3, 6)})
        np.testing.assert_allclose(same, own, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(
            own, by_hand(params["params"], x, memory, heads), rtol=1e-4, atol=1e-4
        )


def by_hand(params: Any, x: Any, memory: Any, heads: int) -> np.ndarray:
    """Head by head, in float64."""

    def dense(name: str, rows: Any) -> np.ndarray:
        kernel, bias = (np.asarray(params[name][leaf], np.float64) for leaf in ("kernel", "bias"))
        return np.asarray(rows, np.float64) @ kernel + bias

    parts = []
    q, k, v = (dense(n, r) for n, r in (("query", x), ("key", memory), ("value", memory)))
    for channels in np.split(np.arange(q.shape[-1]), heads):
        scores = q[..., channels] @ k[..., channels].swapaxes(1, 2) / np.sqrt(len(channels))
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        parts.append(weights @ v[..., channels])
    return dense("merge", np.concatenate(parts, -1))


def logits(ids: Any, params: Any = None) -> np.ndarray:
    """Of the largest subnet, `[T, V]`."""
    params = check_of(translating, size=()).params if params is None else params
    return np.asarray(whole()(params, np.asarray([ids], np.int32)))[0]


def test_what_a_target_sees() -> None:
    ids = [3, 4, 5, 6, 7, 8, 9]  # four of the source
    before = logits(ids)
    assert before.shape == (3, 11)
    later = logits([3, 4, 5, 6, 7, 2, 9])
    differs = np.abs(later - before).max(1) > 1e-4
    assert differs.tolist() == [False, True, True]
    assert (np.abs(logits([3, 4, 9, 6, 7, 8, 9]) - before).max(1) > 1e-4).all()


def test_padding_is_not_seen() -> None:
    params = check_of(translating, size=()).params
    table = params["embed"]["tokens"]["table"]
    moved = {**params, "embed": {"tokens": {"table": table.at[0].add(5.0)}}}
    padded, there = [3, 4, 0, 0, 7, 8, 9], [3, 4, 1, 1, 7, 8, 9]
    before, after = (logits(padded, p) for p in (params, moved))
    # The table is that of the logits, too: those of id 0 alone may differ.
    np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-5)
    changed = {**params, "embed": {"tokens": {"table": table.at[1].add(5.0)}}}
    assert largest_difference(logits(there, changed)[:, 2:], logits(there)[:, 2:]) > 1e-3
    assert np.isfinite(logits([0] * 7)).all()  # as rows of a last batch are


def test_attended_layers_by_hand() -> None:
    """To the last two layers is to keys and values of both, one behind the other."""
    layer = blocks.TranslationDecoder(
        blocks.TranslationDecoderSpec(4, 6, 12, 2, 3, 5, memories=2, width=4)
    )
    rng = np.random.default_rng(1)
    x, last, before = (
        jnp.asarray(rng.normal(size=(1, n, c)), jnp.float32) for n, c in ((3, 4), (4, 6), (4, 6))
    )
    ids = jnp.asarray([[3, 4, 5, 0]], jnp.int32)
    params = random_variables(layer, x, ids, last, before)
    both = jax.jit(layer.apply)(params, x, ids, last, before)
    one = blocks.TranslationDecoder(
        blocks.TranslationDecoderSpec(4, 6, 12, 2, 3, 5, memories=1, width=4)
    )
    joined = jnp.concatenate([last, before], 1)
    alone = jax.jit(one.apply)
    same = alone(params, x, jnp.concatenate([ids, ids], 1), joined)
    np.testing.assert_allclose(both, same, atol=1e-5)
    assert largest_difference(alone(params, x, ids, last, before), both) > 1e-3


def test_positions() -> None:
    wave = blocks.sinusoids(3, 6)
    # Numbers of tensor2tensor's formula: angles (place + 2) * 10000 ** (-i / 2), i of 0, 1, 2.
    place = 3.0
    angles = place * np.asarray([1.0, 1e-2, 1e-4])
    np.testing.assert_allclose(wave[1], [*np.sin(angles), *np.cos(angles)], rtol=1e-6)


SMALL: dict[str, Any] = {
    "encoder_widths": (8,),
    "decoder_widths": (8,),
    "encoder_layers": (3,),
    "decoder_layers": (1,),
    "qkv": 8,
}


def test_settings_that_cannot_be() -> None:
    part = spaces.HatWmt14EnDe
    for make, said in (
        (lambda: part(qkv=12).build(), r"space.qkv is 12, of which each of the heads \(4, 8\)"),
        (lambda: part(qkv=0).build(), "space.qkv is 0, but must be at least 1"),
        (lambda: part(attended=(0,)).build(), "space.attended has 0, but must be of -1, 1 and 2"),
        (lambda: part(attended=()).build(), r"space.attended is \(\)"),
        (lambda: part(encoder_layers=(2,)).build(), "asks for 3 layers of the encoder, but it has"),
        (lambda: part(decoder_widths=(512,)).build(), "largest widths are 640 and 512; make them"),
        (lambda: part(encoder_widths=(2,)).build(), "must be even and at least 4"),
        (lambda: part(encoder_heads=()).build(), r"encoder-heads is \(\); give numbers above 0"),
        (lambda: part(dropout=1.0).build(), "dropout is 1.0"),
        (lambda: part().build(task=NextToken(256, 8)), "translates, but the task of the data is"),
        (lambda: part().build(task=ImageClassification(3, 9)), "is image classification; give"),
        (lambda: spaces.Decoder().build(task=Translation(9, 2, 2)), "is for text, but the task"),
    ):
        with pytest.raises(UserError, match=said) as error:
            make()
        assert "\n" not in str(error.value)
    assert part(**SMALL).build().name == "hat_wmt14_ende"
