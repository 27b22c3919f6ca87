"""Decoders and encoders on text: their sizes, what they see, and what is said of a wrong one."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import archs_of, largest_difference, random_params
from tiny_space import decoding, decoding_untied, encoding

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import extract
from supernet_jax.nn.blocks import text_transformer
from supernet_jax.spaces import Decoder, TextEncoder, decoder, text_encoder
from supernet_jax.tasks import HiddenTokens, ImageClassification, NextToken

# Touvron et al. 2023 (arXiv 2307.09288) and the Gemma team 2024 (arXiv 2403.08295): sizes and
# parameters of the published checkpoints.
LLAMA_2_7B = {"V": 32000, "D": 4096, "I": 11008, "L": 32, "h": 32, "kv": 32, "hd": 128}
GEMMA_2B = {"V": 256000, "D": 2048, "I": 16384, "L": 18, "h": 8, "kv": 1, "hd": 256}
DECODERS = {"llama": (LLAMA_2_7B, False, 6_738_415_616), "gemma": (GEMMA_2B, True, 2_506_172_416)}
# Devlin et al. 2018 (arXiv 1810.04805) and Jiao et al. 2019 (arXiv 1909.10351), with their pooler.
ENCODERS = {"base": (768, 3072, 12, 109_482_240), "tiny": (312, 1200, 4, 14_350_248)}
WORDS = 30522  # of the vocabulary of both


def parameters(space: Space) -> int:
    leaves = jax.tree.leaves(shared_params.parameter_shapes(space))
    return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_have_the_published_sizes(name: str) -> None:
    sizes, tied, wanted = DECODERS[name]
    space = decoder.decoder(
        name,
        widths=(sizes["D"],),
        depths=(sizes["L"],),
        heads=(sizes["h"],),
        hidden=(sizes["I"],),
        head_dim=sizes["hd"],
        kv_heads=sizes["kv"],
        task=NextToken(sizes["V"], 16),
        tied=tied,
        activation="gelu" if tied else "silu",
    )
    assert parameters(space) == wanted
    assert costs.parameters(space)(choices.largest(space.menu)) == wanted


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_have_the_published_sizes(name: str) -> None:
    width, hidden, depth, wanted = ENCODERS[name]
    space = text_encoder.text_encoder(
        name,
        widths=(width,),
        depths=(depth,),
        heads=(12,),
        hidden=(hidden,),
        head_dim=width // 12,
        task=HiddenTokens(WORDS, 16),
        types=2,
    )
    # The transform's linear layer is of the size of the pooler; its LayerNorm and the bias of the
    # logits are not counted there.
    assert parameters(space) == wanted + 2 * width + WORDS


def logits(space: Space, params: Any, arch: Any, tokens: Any) -> np.ndarray:
    run = jax.jit(functools.partial(strategies.sliced, space, arch=arch, size=()))
    return np.asarray(run(params, inputs=tokens).logits)


@pytest.mark.parametrize("make", [decoding, decoding_untied, encoding])
def test_what_a_token_sees(make: Any) -> None:
    space = make()
    params, arch = random_params(space), choices.largest(space.menu)
    tokens = np.array([[3, 1, 4, 1, 5]], np.int32)
    changed = np.array([[3, 1, 4, 9, 5]], np.int32)
    before, after = (logits(space, params, arch, t) for t in (tokens, changed))
    differs = np.abs(before - after).max((0, 2)) > 1e-4
    sees_all = isinstance(space.task, HiddenTokens)
    assert differs.tolist() == [sees_all, sees_all, sees_all, True, True]
    if not sees_all:  # and so may be given beginnings alone
        np.testing.assert_allclose(
            logits(space, params, arch, tokens[:, :3]), before[:, :3], atol=1e-5
        )


def test_attention_of_grouped_queries_by_hand() -> None:
    h, g, d, c, n = 4, 2, 2, 3, 5
    module = text_transformer.CausalAttention(h, g, d, rotary=True)
    x = jax.random.normal(jax.random.key(0), (1, n, c))
    made = module.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: np.asarray(20 * p, np.float64), made)["params"]
    got = module.apply({"params": jax.tree.map(jnp.asarray, params)}, x)
    rows = np.asarray(x[0], np.float64)

    def turned(v: np.ndarray) -> np.ndarray:
        z = (v[:, 0] + 1j * v[:, 1]) * np.exp(1j * np.arange(n))  # one pair, of wavelength 2 pi
        return np.stack([z.real, z.imag], 1)

    total = np.zeros((n, c))
    for i in range(h):
        q = turned(rows @ params["query"]["kernel"][:, i])
        k = turned(rows @ params["key"]["kernel"][:, i % g])
        v = rows @ params["value"]["kernel"][:, i % g]
        for t in range(n):
            score = np.exp(q[t] @ k[: t + 1].T / math.sqrt(d))
            total[t] += score / score.sum() @ v[: t + 1] @ params["merge"]["kernel"][i]
    np.testing.assert_allclose(got[0], total, rtol=1e-4, atol=1e-4)


def test_rotary_products_depend_on_distances() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
    q, k = (text_transformer.rotated(jnp.broadcast_to(one, (1, 9, 1, 8)))[0, :, 0] for one in x)
    products = np.asarray(q @ k.T)
    for distance in range(-8, 9):
        same = np.diagonal(products, distance)
        np.testing.assert_allclose(same, same[0], rtol=1e-4, atol=1e-5)
    assert abs(products[0, 0] - products[0, 5]) > 0.01


@pytest.mark.parametrize("make", [decoding, decoding_untied, encoding])
def test_macs_and_parameters_are_those_of_the_network(make: Any) -> None:
    space = make()
    of_macs, of_parameters = costs.macs(space), costs.parameters(space)
    for arch in archs_of(space, 1):
        module = extract.module(space, arch)
        tokens = jax.ShapeDtypeStruct((1, space.task.length), jnp.int32)  # type: ignore[attr-defined]
        made = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
        own = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made))
        if space.blocks["head"].group == "embed":  # tied ones count once
            own -= math.prod(made["head"]["tokens"]["table"].shape)
        assert of_parameters(arch) == own
        assert of_macs(arch) == by_hand(space, arch)


def by_hand(space: Space, arch: Any) -> int:
    """Multiply-accumulates of an example, from the formula of a transformer."""
    task: Any = space.task
    n, total = task.length, 0
    for i in range(2):
        spec = space.blocks[f"block{i + 1}"].spec(arch)
        if spec is None:
            continue
        gated = isinstance(spec, text_transformer.DecoderSpec)
        shared = 2 * (spec.kv_heads if gated else spec.num_heads)
        total += n * spec.c_in * spec.head_dim * (2 * spec.num_heads + shared)
        total += 2 * n * n * spec.num_heads * spec.head_dim
        total += n * (3 if gated else 2) * spec.c_in * spec.hidden
    width = space.blocks["head"].spec(arch).c_in
    if "transform" in space.blocks:
        total += n * width * width
    return total + n * width * task.vocabulary


def test_a_tied_network_is_taken_out_as_it_is() -> None:
    space = decoding()
    params = random_params(space)
    arch = archs_of(space, 1)[2]
    module, variables = extract.extract(space, params, arch, None)
    tokens = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int32)
    extract.prove(space, params, arch, None, module, variables, tokens)
    apply = jax.jit(module.apply)
    shorter = apply(variables, tokens[:, :2])  # it takes any length
    whole = apply(variables, tokens)
    assert largest_difference(shorter, whole[:, :2]) < 1e-5


def test_spaces_that_cannot_be() -> None:
    for make, said in (
        (lambda: Decoder(longest=100).build(task=NextToken(256, 101)), "at most 100; lower --data"),
        (lambda: TextEncoder(longest=9).build(), "examples have 256 bytes"),
        (lambda: TextEncoder().build(task=NextToken(256, 8)), r"task=sj.tasks.HideTokens\(\)"),
        (lambda: Decoder().build(task=ImageClassification(3, 10)), "is for text, but the task"),
        (lambda: Decoder(head_dim=3).build(), "make it even"),
        (lambda: Decoder(head_dim=0).build(), "head-dim is 0, but must be at least 1"),
        (lambda: TextEncoder(head_dim=-2).build(), "head-dim is -2, but must be at least 1"),
        (lambda: Decoder(kv_heads=-1).build(), "kv-heads is -1; give a number above 0"),
        (lambda: Decoder(heads=(2, 3), kv_heads=2).build(), "must be a multiple"),
        (lambda: Decoder(widths=()).build(), r"space.widths is \(\); give numbers above 0"),
        (lambda: Decoder(drop_path=1.0).build(), "drop-path is 1.0"),
    ):
        with pytest.raises(UserError, match=said) as error:
            make()
        assert "\n" not in str(error.value)
    assert Decoder(head_dim=3, positions="learned").build().name == "decoder"
