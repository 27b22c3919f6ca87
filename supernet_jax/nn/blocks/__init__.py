"""The blocks that networks are made of, one family a file.

A block, and a topology that is no chain, is named here once. An extracted network may hold what is
named here, and the formats that are written block by block say which of it they can write
(`networks.formats.format.Format`).
"""

import dataclasses
import typing
from typing import Any

import flax.linen as nn

from supernet_jax.nn.blocks.cells import (
    AveragePool3,
    CellHead,
    Cells,
    CellStem,
    Reduction,
    ReluConv,
    Skip,
    Zero,
)
from supernet_jax.nn.blocks.darts import (
    DartsCells,
    DilatedConv,
    FactorisedReduction,
    MaxPool3,
    MeanHead,
    MeanPool3,
    ReluPointwise,
    SeparableConv,
    StridedZero,
)
from supernet_jax.nn.blocks.ensemble import Branches, Parted
from supernet_jax.nn.blocks.factored import FactoredLayer
from supernet_jax.nn.blocks.fbnet import FBNetBlock
from supernet_jax.nn.blocks.mcuformer import LowRankTransformerBlock, SizedPatchEmbedding
from supernet_jax.nn.blocks.mobilenet import Head, MBConv, Stem
from supernet_jax.nn.blocks.mobilenetv3 import HardHead, HardStem, InvertedResidual
from supernet_jax.nn.blocks.nasvit import AttentionBlock
from supernet_jax.nn.blocks.relu_ends import ReluHead, ReluStem
from supernet_jax.nn.blocks.shufflenet import ShuffleBlock, ShuffleXception
from supernet_jax.nn.blocks.text_transformer import (
    DecoderBlock,
    EncoderBlock,
    FinalNorm,
    OutputBias,
    PooledLogits,
    Pooler,
    TiedLogits,
    TokenEmbedding,
    TokenLogits,
    TokenTransform,
)
from supernet_jax.nn.blocks.time_delay import (
    AttentiveEmbedding,
    FrameLayer,
    SERes2Block,
    SpeakerCosines,
    SummedBlocks,
)
from supernet_jax.nn.blocks.translation_transformer import (
    EncoderDecoder,
    ScaledEmbedding,
    TranslationDecoder,
    TranslationEncoder,
)
from supernet_jax.nn.blocks.vision_transformer import PatchEmbedding, TokensHead, TransformerBlock
from supernet_jax.nn.blocks.vit_resnas import ConvPatchEmbedding, SpatialReduction

BLOCKS: dict[str, type[nn.Module]] = {
    name: kind
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, nn.Module)
}
# Topologies that are no chain: frozen dataclasses of plain numbers, called as `(run, inputs)`.
TOPOLOGIES: dict[str, Any] = {
    name: kind
    for name, kind in list(globals().items())
    if dataclasses.is_dataclass(kind) and name not in BLOCKS
}


def spec_type(block: type[nn.Module]) -> type:
    """The class of a block's sizes, as its field `spec` declares it."""
    return typing.get_type_hints(block)["spec"]
