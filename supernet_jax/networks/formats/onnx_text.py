"""The blocks of transformers on text as operations of ONNX; see `onnx_graph`.

B and N are free. What depends on N alone is computed once, by the first block that needs it, and
named `positions/...`.

Shape letters: `B` sequences, `N` tokens of each, `C` channels, `V` ids of the vocabulary, `H` heads
of queries, `G` heads of keys and values, `D` channels of a head.
"""

import math

import numpy as np

from supernet_jax.networks.formats.onnx_operations import Graph, Part, Value
from supernet_jax.networks.formats.onnx_tokens import attention, gelu, layer_norm, linear
from supernet_jax.nn.blocks.text_transformer import (
    BERT_EPSILON,
    DecoderSpec,
    EncoderSpec,
    LogitsSpec,
    OutputBiasSpec,
    TokenEmbeddingSpec,
    WidthSpec,
    rotary_waves,
)
from supernet_jax.nn.layers import RMSNorm

FLOAT = 1  # as ONNX numbers its types
MASKED = np.full((), np.finfo(np.float32).min)  # score of what is not seen
# Tanh GELU is `x * sigmoid(x * (a + b * x * x))` of these, since 1 + tanh(z) = 2 sigmoid(2 z).
TANH_GELU = (2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715)
# Axes of `[B, N, H / G, G, D]` for products of queries and keys, and of their shares and values.
GROUPED = {"query": [0, 2, 3, 1, 4], "key": [0, 2, 3, 4, 1], "value": [0, 2, 3, 1, 4]}


def token_embedding(at: Part, s: TokenEmbeddingSpec, x: Value) -> Value:
    """Ids `[B, N]` -> tokens."""
    table = at.weight("tokens/weight", at.params["tokens/table"])
    y = at.graph.node("Gather", f"{at.name}/tokens", table, x.name)
    if s.positions:  # the runtime refuses places beyond them
        table = at.weight("positions/weight", at.params["positions/table"])
        row = at.graph.node("Gather", f"{at.name}/positions", table, _places(at.graph, x.name))
        y = at.made("Add", "place", y, row)
    if s.types:
        y = at.made("Add", "type", y, at.weight("types/weight", at.params["types/table"][0]))
    made = Value(y, s.c_out, x.size)
    return layer_norm(at, "norm", made, BERT_EPSILON) if s.norm else made


def decoder_block(at: Part, s: DecoderSpec, x: Value) -> Value:
    """Tokens -> tokens."""
    y = _causal_attention(at, "attention", s, _rms_norm(at, "attention_norm", x))
    x = at.node("Add", "attention_sum", x, y)
    y = _rms_norm(at, "mlp_norm", x)
    gate = linear(at, "gate", y)
    gate = _silu(at, "gate", gate) if s.activation == "silu" else _tanh_gelu(at, "gate", gate)
    y = at.node("Mul", "gated", gate, linear(at, "up", y))
    return at.node("Add", "mlp_sum", x, linear(at, "down", y))


def encoder_block(at: Part, s: EncoderSpec, x: Value) -> Value:
    """Tokens -> tokens."""
    y = at.node("Add", "attention_sum", x, attention(at, "attention", s, x))
    x = layer_norm(at, "attention_norm", y, BERT_EPSILON)
    y = linear(at, "project", gelu(at, "expand", linear(at, "expand", x)))
    return layer_norm(at, "mlp_norm", at.node("Add", "mlp_sum", x, y), BERT_EPSILON)


def final_norm(at: Part, s: WidthSpec, x: Value) -> Value:
    """Tokens -> tokens."""
    return _rms_norm(at, "norm", x)


def token_transform(at: Part, s: WidthSpec, x: Value) -> Value:
    """Tokens -> tokens."""
    return layer_norm(at, "norm", gelu(at, "dense", linear(at, "dense", x)), BERT_EPSILON)


def token_logits(at: Part, s: LogitsSpec, x: Value) -> Value:
    """Tokens -> logits `[B, N, V]`."""
    return linear(at, "logits", x)


def tied_logits(at: Part, s: LogitsSpec, x: Value) -> Value:
    """Tokens -> logits `[B, N, V]`, by the constant that the embedding has, where that is there."""
    table = np.asarray(at.params["tokens/table"], np.float32)
    same = [name for name, known in at.graph.weights.items() if np.array_equal(known, table)]
    name = same[0] if same else at.weight("tokens/weight", table)
    turned = at.made("Transpose", "tokens/turned", name, perm=[1, 0])
    return Value(at.made("MatMul", "tokens", x.name, turned), s.vocabulary, x.size)


def output_bias(at: Part, s: OutputBiasSpec, x: Value) -> Value:
    """Logits -> logits."""
    return x._replace(name=at.made("Add", "sum", x.name, at.weight("bias", at.params["bias"])))


def _rms_norm(at: Part, name: str, x: Value) -> Value:
    square = at.made("Mul", f"{name}/square", x.name, x.name)
    mean = at.made("ReduceMean", f"{name}/mean", square, axes=[-1])
    least = at.weight(f"{name}/epsilon", np.full((), RMSNorm.epsilon))
    root = at.made("Sqrt", f"{name}/root", at.made("Add", f"{name}/shifted", mean, least))
    y = at.made("Div", f"{name}/divided", x.name, root)
    scale = at.weight(f"{name}/weight", at.params[f"{name}/scale"])
    return x._replace(name=at.made("Mul", name, y, scale))


def _silu(at: Part, name: str, x: Value) -> Value:
    return at.node("Mul", f"{name}/silu", x, at.node("Sigmoid", f"{name}/sigmoid", x))


def _tanh_gelu(at: Part, name: str, x: Value) -> Value:
    one, cube = (np.full((), factor) for factor in TANH_GELU)
    y = at.made("Mul", f"{name}/square", x.name, x.name)
    y = at.made("Mul", f"{name}/scaled", y, at.weight(f"{name}/cube", cube))
    y = at.made("Add", f"{name}/shifted", y, at.weight(f"{name}/one", one))
    y = at.made("Mul", f"{name}/argument", y, x.name)
    y = at.made("Sigmoid", f"{name}/sigmoid", y)
    return x._replace(name=at.made("Mul", f"{name}/gelu", x.name, y))


def _causal_attention(at: Part, name: str, s: DecoderSpec, x: Value) -> Value:
    """As `CausalAttention`: head `i` of queries uses number `i mod G` of keys and values."""
    h, g, d = s.num_heads, s.kv_heads, s.head_dim
    found = {}
    for kind, order in GROUPED.items():
        own, heads = f"{name}/{kind}", h if kind == "query" else g
        kernel = at.params[f"{own}/kernel"].reshape(x.channels, heads * d)
        kernel = kernel * (d**-0.5 if kind == "query" else 1.0)
        y = at.made("MatMul", f"{own}/product", x.name, at.weight(f"{own}/weight", kernel))
        shape = at.sizes(f"{own}/shape", 0, 0, heads // g, g, d)
        y = at.made("Reshape", f"{own}/heads", y, shape)
        if s.rotary and kind != "value":
            y = _rotated(at, own, d, y, x.name)
        found[kind] = at.made("Transpose", own, y, perm=order)
    scores = at.made("MatMul", f"{name}/scores", found["query"], found["key"])
    masked = at.weight(f"{name}/masked", MASKED)
    scores = at.made("Where", f"{name}/seen", _seen(at.graph, x.name), scores, masked)
    shares = at.made("Softmax", f"{name}/shares", scores, axis=-1)
    y = at.made("MatMul", f"{name}/values", shares, found["value"])
    y = at.made("Transpose", f"{name}/together", y, perm=[0, 3, 1, 2, 4])
    y = at.made("Reshape", f"{name}/flat", y, at.sizes(f"{name}/flat/shape", 0, 0, h * d))
    merge = at.weight(f"{name}/merge/weight", at.params[f"{name}/merge/kernel"].reshape(h * d, -1))
    return x._replace(name=at.made("MatMul", f"{name}/merge", y, merge))


# ---------------------------------------------------------------------------- positions


def _rotated(at: Part, name: str, d: int, y: str, tokens: str) -> str:
    """As `text_transformer.rotated`: `[B, N, H / G, G, D]` -> the same shape."""
    cos, sin = (_wave(at.graph, kind, d, tokens) for kind in ("Cos", "Sin"))
    axis = at.sizes(f"{name}/axis", -1)
    half, whole = at.sizes(f"{name}/half", d // 2), at.sizes(f"{name}/whole", d)
    first = at.made("Slice", f"{name}/first", y, at.sizes(f"{name}/zero", 0), half, axis)
    second = at.made("Slice", f"{name}/second", y, half, whole, axis)
    parts = [at.made("Mul", f"{name}/{i}_cos", v, cos) for i, v in enumerate((first, second))]
    others = [at.made("Mul", f"{name}/{i}_sin", v, sin) for i, v in enumerate((second, first))]
    left = at.made("Sub", f"{name}/left", parts[0], others[0])
    right = at.made("Add", f"{name}/right", parts[1], others[1])
    return at.made("Concat", f"{name}/turned", left, right, axis=-1)


def _known(graph: Graph, name: str) -> bool:
    return any(node.name == name for node in graph.nodes)


def _places(graph: Graph, tokens: str) -> str:
    """0 to N - 1, int64 `[N]`, of tokens `[B, N, ...]`."""
    name = "positions/places"
    if not _known(graph, name):
        shape = graph.node("Shape", "positions/shape", tokens)
        graph.weights["positions/zero"] = np.zeros((), np.int64)
        graph.weights["positions/one"] = np.ones((), np.int64)
        count = graph.node("Gather", "positions/count", shape, "positions/one")
        graph.node("Range", name, "positions/zero", count, "positions/one")
    return name


def _column(graph: Graph, tokens: str) -> str:
    """The same, `[N, 1]`."""
    name = "positions/column"
    if not _known(graph, name):
        axis = graph.sizes("positions/column/axis", 1)
        graph.node("Unsqueeze", name, _places(graph, tokens), axis)
    return name


def _seen(graph: Graph, tokens: str) -> str:
    """Which keys a query sees: itself and those before it, `[N, N]`."""
    name = "positions/seen"
    if not _known(graph, name):
        graph.node("GreaterOrEqual", name, _column(graph, tokens), _places(graph, tokens))
    return name


def _wave(graph: Graph, kind: str, d: int, tokens: str) -> str:
    """Cosine or sine of rotary angles, `[N, 1, 1, D / 2]`."""
    name = f"positions/{kind.lower()}_{d}"
    if not _known(graph, name):
        angle = f"positions/angle_{d}"
        if not _known(graph, angle):
            axes = graph.sizes(f"{angle}/axes", 1, 2, 3)
            places = graph.node("Cast", f"{angle}/places", _places(graph, tokens), to=FLOAT)
            places = graph.node("Unsqueeze", f"{angle}/column", places, axes)
            waves = graph.weight(f"{angle}/waves", rotary_waves(d))
            graph.node("Mul", angle, places, waves)
        graph.node(kind, name, angle)
    return name
