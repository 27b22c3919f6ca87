"""Networks as operations of ONNX: what is computed, in which order, with which weights.

Plain Python and NumPy; `onnx.py` makes a file of it. A block is written by one function, which
reads like the block's own `__call__`; `BLOCKS` is the table of them. Maps lie `[B, C, H, W]`,
tokens `[B, N, C]`, and all sizes are known but B and the N of text. BatchNorm is part of the
convolution before it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax
import flax.linen as nn
import numpy as np

from supernet_jax.networks.formats import onnx_inputs, onnx_text, onnx_tokens
from supernet_jax.networks.formats.format import Export
from supernet_jax.networks.formats.onnx_operations import Graph, Part, Value, Writer
from supernet_jax.networks.manifest import Description, GeneralDescription
from supernet_jax.networks.network import Block, Network, Variables
from supernet_jax.nn.batch_norm import EPSILON
from supernet_jax.nn.blocks.mobilenet import (
    IDENTITY,
    RELU,
    Head,
    HeadSpec,
    MBConv,
    MBConvSpec,
    Stem,
    StemSpec,
)
from supernet_jax.nn.blocks.mobilenetv3 import (
    HardHead,
    HardStem,
    InvertedResidual,
    InvertedResidualSpec,
)
from supernet_jax.nn.blocks.text_transformer import (
    DecoderBlock,
    EncoderBlock,
    FinalNorm,
    OutputBias,
    TiedLogits,
    TokenEmbedding,
    TokenLogits,
    TokenTransform,
)
from supernet_jax.nn.blocks.vision_transformer import (
    PatchEmbedding,
    TokensHead,
    TransformerBlock,
)

LOGITS = "logits"

Activation = Callable[[Part, str, Value], Value]


def knows(network: Network) -> bool:
    """Whether all blocks are among `BLOCKS`, with shortcuts that average no zeros, and run one
    after another under names that do.
    """
    return network.forward is None and all(
        block.module in BLOCKS
        and block.name.isidentifier()
        and not (isinstance(block.spec, MBConvSpec) and block.spec.zero_pool)
        for block in network.blocks
    )


def of_export(export: Export, description: Description | GeneralDescription) -> Graph:
    """A whole network of blocks in `BLOCKS`, from its input to `LOGITS`."""
    graph = Graph([], {})
    x = onnx_inputs.first(graph, export, description)
    add(graph, export.network.blocks, export.variables, x)
    return graph


def add(graph: Graph, blocks: Sequence[Block], variables: Variables, x: Value) -> None:
    """Adds blocks, one after another; what the last one computes is called `LOGITS`."""
    for block in blocks:
        params, stats = (variables[kind].get(block.name, {}) for kind in ("params", "stats"))
        part = Part(graph, block.name, _by_path(params), _by_path(stats))
        x = BLOCKS[block.module](part, block.spec, x)
    graph.nodes[-1] = graph.nodes[-1]._replace(output=LOGITS)


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}


# ---------------------------------------------------------------------------- blocks


def _stem(at: Part, s: StemSpec, x: Value, *, activation: Activation) -> Value:
    return _conv(at, "conv", x, stride=s.stride, norm="norm", activation=activation)


def _bottleneck(
    at: Part, s: MBConvSpec | InvertedResidualSpec, x: Value, activation: Activation
) -> Value:
    """What both families of blocks do beside the shortcut."""
    if s.expand:
        x = _conv(at, "expand", x, norm="expand_norm", activation=activation)
    x = _conv(at, "depthwise", x, stride=s.stride, norm="depthwise_norm", activation=activation)
    if s.reduced:
        x = _squeeze_excite(at, "squeeze", x)
    return _conv(at, "project", x, norm="project_norm")


def _mbconv(at: Part, s: MBConvSpec, x: Value) -> Value:
    y = _bottleneck(at, s, x, _swish)
    if s.stride > 1:
        x = _average_pool(at, "pool", x, s.stride)
    if s.shortcut != IDENTITY:
        x = _conv(at, "shortcut", x)
    return at.node("Add", "sum", y, x)


def _inverted_residual(at: Part, s: InvertedResidualSpec, x: Value) -> Value:
    y = _bottleneck(at, s, x, _relu if s.activation == RELU else _hard_swish)
    return at.node("Add", "sum", x, y) if s.residual else y


def _head(at: Part, s: HeadSpec, x: Value, *, activation: Activation) -> Value:
    x = _conv(at, "expand", x, norm="expand_norm", activation=activation)
    x = _mean(at, "pool", x)
    x = _conv(at, "mix", x, activation=activation)
    return _dense(at, "classifier", x)


# ---------------------------------------------------------------------------- layers


def _none(at: Part, name: str, x: Value) -> Value:
    return x


def _swish(at: Part, name: str, x: Value) -> Value:
    return at.node("Mul", f"{name}/swish", x, at.node("Sigmoid", f"{name}/sigmoid", x))


def _relu(at: Part, name: str, x: Value) -> Value:
    return at.node("Relu", f"{name}/relu", x)


def _hard_swish(at: Part, name: str, x: Value) -> Value:
    return at.node("HardSwish", f"{name}/hard_swish", x)


def _hard_sigmoid(at: Part, name: str, x: Value) -> Value:
    return at.node("HardSigmoid", f"{name}/hard_sigmoid", x, alpha=1 / 6, beta=0.5)


def _conv(
    at: Part,
    name: str,
    x: Value,
    *,
    stride: int = 1,
    norm: str = "",
    activation: Activation = _none,
) -> Value:
    """Any convolution: kernels are `[k, k, channels of a group, C_out]`, as in Flax."""
    kernel, bias = at.params[f"{name}/kernel"], at.params.get(f"{name}/bias")
    if norm:
        factor = at.params[f"{norm}/scale"] / np.sqrt(at.stats[f"{norm}/var"] + EPSILON)
        kernel = kernel * factor
        bias = at.params[f"{norm}/bias"] - at.stats[f"{norm}/mean"] * factor
    k, _, inputs, outputs = kernel.shape
    weights = [at.weight(f"{name}/weight", kernel.transpose(3, 2, 0, 1))]
    weights += [] if bias is None else [at.weight(f"{name}/bias", bias)]
    size = -(-x.size // stride)
    y = Value(f"{at.name}/{name}", outputs, size)
    at.graph.node(
        "Conv",
        y.name,
        x.name,
        *weights,
        kernel_shape=[k, k],
        strides=[stride, stride],
        pads=[k // 2] * 4,
        group=x.channels // inputs,
    )
    return activation(at, name, y)


def _squeeze_excite(at: Part, name: str, x: Value) -> Value:
    squeezed = _mean(at, f"{name}/mean", x)
    hidden = _conv(at, f"{name}/reduce", squeezed, activation=_relu)
    gate = _conv(at, f"{name}/expand", hidden, activation=_hard_sigmoid)
    return at.node("Mul", name, x, gate)


def _mean(at: Part, name: str, x: Value) -> Value:
    return at.node("GlobalAveragePool", name, x)._replace(size=1)


def _average_pool(at: Part, name: str, x: Value, size: int) -> Value:
    """Incomplete windows are padded, and padding is not counted: all runtimes agree on that."""
    after = -x.size % size
    sizes = {"kernel_shape": [size, size], "strides": [size, size], "pads": [0, 0, after, after]}
    y = at.node("AveragePool", name, x, count_include_pad=0, **sizes)
    return y._replace(size=-(-x.size // size))


def _dense(at: Part, name: str, x: Value) -> Value:
    """Of maps of size 1; what follows is `[B, channels]`."""
    flat = at.node("Flatten", f"{name}/flat", x, axis=1)
    weight = at.weight(f"{name}/weight", at.params[f"{name}/kernel"])
    bias = at.weight(f"{name}/bias", at.params[f"{name}/bias"])
    output = at.graph.node("Gemm", f"{at.name}/{name}", flat.name, weight, bias)
    return Value(output, at.params[f"{name}/bias"].size, 1)


BLOCKS: dict[type[nn.Module], Writer] = {
    Stem: functools.partial(_stem, activation=_swish),
    MBConv: _mbconv,
    Head: functools.partial(_head, activation=_swish),
    HardStem: functools.partial(_stem, activation=_hard_swish),
    InvertedResidual: _inverted_residual,
    HardHead: functools.partial(_head, activation=_hard_swish),
    PatchEmbedding: onnx_tokens.patch_embedding,
    TransformerBlock: onnx_tokens.transformer_block,
    TokensHead: onnx_tokens.tokens_head,
    TokenEmbedding: onnx_text.token_embedding,
    DecoderBlock: onnx_text.decoder_block,
    EncoderBlock: onnx_text.encoder_block,
    FinalNorm: onnx_text.final_norm,
    TokenTransform: onnx_text.token_transform,
    TokenLogits: onnx_text.token_logits,
    TiedLogits: onnx_text.tied_logits,
    OutputBias: onnx_text.output_bias,
}
