"""Random networks to write in a format, and their logits as Flax computes them."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.data import augment
from supernet_jax.data.preparation import Preparation
from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.networks import classifier_manifest, description_parts, extract, manifest
from supernet_jax.networks.formats.format import Export
from supernet_jax.networks.network import Block, Network
from supernet_jax.nn.blocks.mobilenet import (
    CONV,
    IDENTITY,
    RELU,
    Head,
    HeadSpec,
    MBConv,
    MBConvSpec,
    Stem,
    StemSpec,
)
from supernet_jax.nn.blocks.mobilenetv3 import InvertedResidual, InvertedResidualSpec
from supernet_jax.nn.blocks.text_transformer import (
    DecoderBlock,
    DecoderSpec,
    EncoderBlock,
    EncoderSpec,
    FinalNorm,
    LogitsSpec,
    OutputBias,
    OutputBiasSpec,
    TiedLogits,
    TokenEmbedding,
    TokenEmbeddingSpec,
    TokenLogits,
    TokenTransform,
    WidthSpec,
)
from supernet_jax.nn.blocks.vision_transformer import (
    PatchEmbedding,
    PatchEmbeddingSpec,
    TokensHead,
    TokensHeadSpec,
    TransformerBlock,
    TransformerSpec,
)
from supernet_jax.spaces import attentivenas, mobilenet, once_for_all
from supernet_jax.tasks import HiddenTokens, ImageClassification, NextToken

TOLERANCE = 1e-5  # float32 sums in another order
FAST = {"xla_backend_optimization_level": 0}  # these programs run once
BATCH = 3
CLASSES = 7


def _mbconv(c_in: int, c_out: int, middle: int, **others: Any) -> MBConvSpec:
    plain = {"kernel": 3, "stride": 1, "reduced": 0, "expand": c_in != middle}
    shortcut = IDENTITY if c_in == c_out else CONV
    return MBConvSpec(c_in, c_out, middle, **{**plain, **others}, shortcut=shortcut)


# Every kind of shortcut, with and without stride, expansion and squeeze-and-excitation. Sizes are
# 13, 7, 4, 2, 1, 1: incomplete windows in all strides.
EVERYTHING = Network(
    (
        Block("stem", Stem, StemSpec(3, 8, 2)),
        Block("plain", MBConv, _mbconv(8, 8, 16, expand=False)),  # whose middle does not count
        Block("widening", MBConv, _mbconv(8, 12, 16, kernel=5, reduced=8)),
        Block("pooled", MBConv, _mbconv(12, 12, 24, stride=2)),
        Block("pooled_widening", MBConv, _mbconv(12, 16, 12, stride=2, kernel=5, reduced=4)),
        Block("one_pixel", MBConv, _mbconv(16, 20, 32, stride=2)),
        Block("strided_pixel", MBConv, _mbconv(20, 20, 40, stride=2)),
        Block("other", InvertedResidual, InvertedResidualSpec(20, 20, 40, 3, 1, False, 0, RELU)),
        Block("head", Head, HeadSpec(20, 24, 16, CLASSES, 0.0, 32)),
    ),
    13,
    ImageClassification(3, CLASSES),
)

# With relative positions, of which some are too far apart to differ, and without.
TOKENS = Network(
    (
        Block("embed", PatchEmbedding, PatchEmbeddingSpec(3, 6, 2)),
        Block("far", TransformerBlock, TransformerSpec(6, 3, 4, 9, 3, 1, prefix_bias=True)),
        Block("plain", TransformerBlock, TransformerSpec(6, 2, 5, 12)),
        Block("head", TokensHead, TokensHeadSpec(6, CLASSES)),
    ),
    size=6,
    task=ImageClassification(3, CLASSES),
)
# Heads of queries that share those of keys and values, and as many of both; tied logits.
ROTARY = Network(
    (
        Block("embed", TokenEmbedding, TokenEmbeddingSpec(13, 6)),
        Block("grouped", DecoderBlock, DecoderSpec(6, 6, 2, 4, 9, drop_path=0.1)),
        Block("each_its_own", DecoderBlock, DecoderSpec(6, 3, 3, 6, 5)),
        Block("norm", FinalNorm, WidthSpec(6)),
        Block("head", TiedLogits, LogitsSpec(6, 13)),
    ),
    size=(),
    task=NextToken(13, 9),
)
LEARNED = Network(
    (
        Block("embed", TokenEmbedding, TokenEmbeddingSpec(13, 6, positions=12)),
        Block("one_for_all", DecoderBlock, DecoderSpec(6, 2, 1, 3, 9, False, "gelu")),
        Block("norm", FinalNorm, WidthSpec(6)),
        Block("head", TokenLogits, LogitsSpec(6, 13)),
    ),
    size=(),
    task=NextToken(13, 9),
)
HIDDEN = Network(
    (
        Block("embed", TokenEmbedding, TokenEmbeddingSpec(13, 6, 12, types=2, norm=True)),
        Block("block", EncoderBlock, EncoderSpec(6, 3, 4, 9, drop_path=0.1)),
        Block("transform", TokenTransform, WidthSpec(6)),
        Block("head", TiedLogits, LogitsSpec(6, 13)),
        Block("bias", OutputBias, OutputBiasSpec(13)),
    ),
    size=(),
    task=HiddenTokens(13, 9),
)
CLASS_TOKEN = TOKENS.clone(
    blocks=(
        *TOKENS.blocks[:-1],
        Block("head", TokensHead, TokensHeadSpec(6, CLASSES, "class_token")),
    )
)


class Case(NamedTuple):
    """A network and the size of its images; of text the tokens of an example, and no channels."""

    network: Callable[[], Network]
    channels: int
    size: int


def _of(space: Space, pick: str) -> Callable[[], Network]:
    archs = {"smallest": choices.smallest, "largest": choices.largest}

    def make() -> Network:
        if pick in archs:
            return extract.module(space, archs[pick](space.menu))
        drawn = choices.sample(space.menu, jax.random.key(int(pick)), ())
        return extract.module(space, jax.tree.map(np.asarray, drawn))

    return make


DIGITS, CIFAR = mobilenet.digits(classes=CLASSES), mobilenet.cifar(classes=CLASSES)
ATTENTIVENAS = attentivenas.attentivenas(classes=CLASSES)
OFA = once_for_all.ofa_small(classes=CLASSES)
CASES = {
    "everything": Case(lambda: EVERYTHING, 3, 22),
    "tokens": Case(lambda: TOKENS, 3, 6),
    "tokens, class token, shrunk images": Case(lambda: CLASS_TOKEN, 3, 9),
    "digits, smallest": Case(_of(DIGITS, "smallest"), 1, 8),
    "digits, largest, grown images": Case(_of(DIGITS, "largest"), 1, 5),
    "cifar, random": Case(_of(CIFAR, "1"), 3, 32),
    "ofa, largest": Case(_of(OFA, "largest"), 3, 32),
    "attentivenas, smallest, shrunk images": Case(_of(ATTENTIVENAS, "smallest"), 3, 224),
    "text, rotary": Case(lambda: ROTARY, 0, 9),
    "text, learned positions": Case(lambda: LEARNED, 0, 9),
    "text, hidden": Case(lambda: HIDDEN, 0, 9),
}
TEXTS = [case for case, at in CASES.items() if not at.channels]


def images(case: str, pixels: bool = False) -> np.ndarray:
    """Random ones, `[BATCH, size, size, C]`; of text ids `[BATCH, size]`."""
    rng, at = np.random.default_rng(9), CASES[case]
    if not at.channels:
        return rng.integers(13, size=(BATCH, at.size), dtype=np.int32)
    shape = (BATCH, at.size, at.size, at.channels)
    if pixels:
        return rng.integers(256, size=shape, dtype=np.uint8)
    return rng.normal(size=shape).astype(np.float32)


@functools.cache
def export(case: str, pixels: bool = False) -> Export:
    """The network with random variables, in which nothing is zero and no value explodes."""
    network, channels, size = CASES[case].network(), *CASES[case][1:]
    made = jax.eval_shape(network.init, jax.random.key(0), network.task.inputs(network.size))
    rng = np.random.default_rng(1)
    variables = {
        kind: jax.tree_util.tree_map_with_path(functools.partial(_random, rng), made[collection])
        for kind, collection in (("params", "params"), ("stats", "moments"))
        if collection in made
    }
    variables.setdefault("stats", {})
    if any(block.module is TiedLogits for block in network.blocks):
        variables["params"]["head"] = {"tokens": variables["params"]["embed"]["tokens"]}
    fields = {"arch": {"a": 1}, "blocks": (), "code": None, "macs": 12, "parameters": 34}
    fields |= {"source": {}, "proof": manifest.Proof(0.0, 1), "formats": {}}
    fields |= {
        "format": description_parts.FORMAT,
        "space": case,
        "dtype": "float32",
        "sha256": "56",
    }
    if not channels:
        of_task = {"type": type(network.task).__name__, "fields": dataclasses.asdict(network.task)}
        described = manifest.GeneralDescription(
            version=manifest.GENERAL_VERSION,
            task=manifest.TaskDescription(**of_task),
            size=(),
            values={"test": 9.5},
            **fields,
        )
        return Export(network, variables, _json(described), (), pixels)
    described = manifest.Description(
        version=manifest.VERSION,
        resolution=network.size,
        input_channels=channels,
        mean=(0.5, 0.25, 0.4)[:channels],
        std=(0.3, 0.2, 0.25)[:channels],
        preparation=Preparation(size, size, None),
        classes=tuple("abcdefg"),
        accuracy={"test": 0.5},
        calibration=classifier_manifest.Calibration(8, 64),
        **fields,
    )
    return Export(network, variables, _json(described), (size, size), pixels)


def _json(described: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(described)))


def _random(rng: np.random.Generator, path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    name, shape = path[-1].key, leaf.shape
    if name == "kernel":
        value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
    else:
        low = 0.5 if name in ("scale", "var") else -0.5
        value = rng.uniform(low, low + 1.0, shape)
    return value.astype(np.float32)


@functools.cache
def _program(network: Network) -> Callable[..., Any]:
    return jax.jit(network.apply, compiler_options=FAST)


@functools.cache
def logits(case: str, pixels: bool = False) -> np.ndarray:
    """Of `images`, by Flax at highest precision."""
    made, x = export(case), images(case, pixels)
    if pixels:
        d = made.description
        x = np.asarray(augment.normalise(x, mean=tuple(d["mean"]), std=tuple(d["std"])))
    return np.asarray(_program(made.network)(made.variables, x))


@functools.cache
def other_lengths(case: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fewer and shorter examples of text, more and longer ones; each with its logits."""
    made, ids = export(case), images(case)
    given = (ids[:2, :5], np.tile(ids, (2, 2))[:, :12])
    return [(x, np.asarray(_program(made.network)(made.variables, x))) for x in given]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest, relative to the largest logit."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))
