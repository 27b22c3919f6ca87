"""The blocks of vision transformers as operations of ONNX; see `onnx_graph`.

Shape letters: `B` examples, `N` tokens, `C` channels, `H` heads, `D` channels of each, `R x R`
patches.
"""

import math

import numpy as np

from supernet_jax.networks.formats.onnx_operations import Part, Value
from supernet_jax.nn.attention import offset_rows
from supernet_jax.nn.blocks.text_transformer import EncoderSpec
from supernet_jax.nn.blocks.vision_transformer import (
    PatchEmbeddingSpec,
    TokensHeadSpec,
    TransformerSpec,
)
from supernet_jax.nn.layers import LayerNorm

END = 2**31 - 1  # of an axis, however long
AFFINE = ("scale", "bias")
ROOT_HALF = np.full((), math.sqrt(0.5))
# Axes of `[B, N, H, D]` for products of queries and keys, and of their shares and values.
HEADS = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}


def patch_embedding(at: Part, s: PatchEmbeddingSpec, x: Value) -> Value:
    """Maps -> tokens."""
    p, side, c = s.patch, x.size // s.patch, s.c_out
    kernel = at.weight("patches/weight", at.params["patches/kernel"].transpose(3, 2, 0, 1))
    bias = at.weight("patches/bias", at.params["patches/bias"])
    y = at.made("Conv", "patches", x.name, kernel, bias, kernel_shape=[p, p], strides=[p, p])
    y = at.made("Reshape", "row", y, at.sizes("row/shape", 0, c, side**2))
    y = at.made("Transpose", "tokens", y, perm=[0, 2, 1])
    # Nothing in the place of the class token, which is added with the positions.
    y = at.made("Pad", "class_token", y, at.sizes("class_token/pads", 0, 1, 0, 0, 0, 0))
    added = at.params["position"].copy()
    added[0] += at.params["class_token"]
    return Value(at.made("Add", "position", y, at.weight("position/weight", added)), c, side**2 + 1)


def transformer_block(at: Part, s: TransformerSpec, x: Value) -> Value:
    """Tokens -> tokens."""
    y = attention(at, "attention", s, layer_norm(at, "attention_norm", x, 10.0**-s.norm_digits))
    x = at.node("Add", "attention_sum", x, y)
    y = linear(at, "expand", layer_norm(at, "mlp_norm", x, 10.0**-s.norm_digits))
    y = linear(at, "project", gelu(at, "expand", y))
    return at.node("Add", "mlp_sum", x, y)


def tokens_head(at: Part, s: TokensHeadSpec, x: Value) -> Value:
    """Tokens -> logits."""
    x = layer_norm(at, "norm", x, 10.0**-s.norm_digits)
    if s.pool == "patches":
        part = _from(at, "patches", x.name, 1, 1)
        pooled = at.made("ReduceMean", "pool", part, axes=[1], keepdims=0)
    else:
        cut = (at.sizes(f"first/{k}", v) for k, v in (("start", 0), ("end", 1), ("axes", 1)))
        part = at.made("Slice", "first", x.name, *cut)
        pooled = at.made("Flatten", "pool", part, axis=1)
    weight = at.weight("classifier/weight", at.params["classifier/kernel"])
    bias = at.weight("classifier/bias", at.params["classifier/bias"])
    return Value(at.made("Gemm", "classifier", pooled, weight, bias), s.classes, 1)


def layer_norm(at: Part, name: str, x: Value, epsilon: float = LayerNorm.epsilon) -> Value:
    """Over the last axis."""
    scale, bias = (at.weight(f"{name}/{leaf}", at.params[f"{name}/{leaf}"]) for leaf in AFFINE)
    how = {"axis": -1, "epsilon": epsilon}
    return x._replace(name=at.made("LayerNormalization", name, x.name, scale, bias, **how))


def linear(at: Part, name: str, x: Value) -> Value:
    """Of the last axis, with a bias where there is one."""
    kernel, bias = at.params[f"{name}/kernel"], at.params.get(f"{name}/bias")
    last = name if bias is None else f"{name}/product"
    y = at.made("MatMul", last, x.name, at.weight(f"{name}/weight", kernel))
    if bias is not None:
        y = at.made("Add", name, y, at.weight(f"{name}/bias", bias))
    return Value(y, kernel.shape[1], x.size)


def gelu(at: Part, name: str, x: Value) -> Value:
    """The exact one."""
    scaled = at.made("Mul", f"{name}/scaled", x.name, at.weight(f"{name}/root", ROOT_HALF))
    share = at.made("Erf", f"{name}/erf", scaled)
    share = at.made("Add", f"{name}/shifted", share, at.weight(f"{name}/one", np.ones(())))
    half = at.made("Mul", f"{name}/half", x.name, at.weight(f"{name}/two", np.full((), 0.5)))
    return x._replace(name=at.graph.node("Mul", f"{at.name}/{name}/gelu", half, share))


def attention(at: Part, name: str, s: TransformerSpec | EncoderSpec, x: Value) -> Value:
    """As `nn.attention.SelfAttention`; without relative positions, of any number of tokens."""
    h, d = s.num_heads, s.head_dim
    relative = s if isinstance(s, TransformerSpec) and s.grid else None
    kernel = at.params[f"{name}/heads/kernel"].reshape(x.channels, 3, h * d)
    bias = at.params[f"{name}/heads/bias"].reshape(3, h * d)
    found = {}
    for i, (kind, order) in enumerate(HEADS.items()):
        scale = d**-0.5 if kind == "query" else 1.0
        own = f"{name}/{kind}"
        y = at.made(
            "MatMul", f"{own}/product", x.name, at.weight(f"{own}/weight", kernel[:, i] * scale)
        )
        y = at.made("Add", f"{own}/sum", y, at.weight(f"{own}/bias", bias[i] * scale))
        y = at.made("Reshape", f"{own}/heads", y, at.sizes(f"{own}/shape", 0, 0, h, d))
        found[kind] = at.made("Transpose", own, y, perm=order)
    scores = at.graph.node("MatMul", f"{at.name}/{name}/scores", found["query"], found["key"])
    if relative is not None:
        more = _position_scores(at, f"{name}/key_positions", relative, found["query"], x.size)
        scores = at.graph.node("Add", f"{at.name}/{name}/all_scores", scores, more)
    shares = at.made("Softmax", f"{name}/shares", scores, axis=-1)
    y = at.graph.node("MatMul", f"{at.name}/{name}/values", shares, found["value"])
    if relative is not None:
        more = _position_values(at, f"{name}/value_positions", relative, shares)
        y = at.graph.node("Add", f"{at.name}/{name}/all_values", y, more)
    y = at.made("Transpose", f"{name}/together", y, perm=[0, 2, 1, 3])
    y = at.made("Reshape", f"{name}/flat", y, at.sizes(f"{name}/flat/shape", 0, 0, h * d))
    merge = at.params[f"{name}/merge/kernel"].reshape(h * d, -1)
    y = at.made("MatMul", f"{name}/merge/product", y, at.weight(f"{name}/merge/weight", merge))
    added = at.weight(f"{name}/merge/bias", at.params[f"{name}/merge/bias"])
    return x._replace(name=at.made("Add", f"{name}/merge", y, added))


def _offsets(at: Part, name: str, s: TransformerSpec) -> tuple[np.ndarray, ...]:
    """Embeddings of the class token `[D]`, of rows and of columns `[R, R, D]`."""
    vertical, horizontal = (at.params[f"{name}/{leaf}"] for leaf in ("vertical", "horizontal"))
    rows = offset_rows(s.grid, s.distance)
    return vertical[0] + horizontal[0], vertical[rows], horizontal[rows]


def _position_scores(at: Part, name: str, s: TransformerSpec, query: str, n: int) -> str:
    """As `attention.position_scores`; queries are `[B, H, N, D]`."""
    h, d, r = s.num_heads, s.head_dim, s.grid
    token, vertical, horizontal = _offsets(at, name, s)
    patches = _from(at, f"{name}/patches", query, 2, 1)
    grid = at.made("Reshape", f"{name}/grid", patches, at.sizes(f"{name}/grid/of", 0, h, r, r, d))
    each = at.weight(f"{name}/rows/weight", vertical.transpose(0, 2, 1))
    rows = at.made("MatMul", f"{name}/rows", grid, each)
    rows = at.made("Reshape", f"{name}/all_rows", rows, at.sizes(f"{name}/to", 0, h, r, r, r, 1))
    turned = at.made("Transpose", f"{name}/turned", grid, perm=[0, 1, 3, 2, 4])
    each = at.weight(f"{name}/columns/weight", horizontal.transpose(0, 2, 1))
    columns = at.made("MatMul", f"{name}/columns", turned, each)
    columns = at.made("Transpose", f"{name}/back", columns, perm=[0, 1, 3, 2, 4])
    shape = at.sizes(f"{name}/across", 0, h, r, r, 1, r)
    columns = at.made("Reshape", f"{name}/all_columns", columns, shape)
    both = at.graph.node("Add", f"{at.name}/{name}/both", rows, columns)
    both = at.made("Reshape", f"{name}/pairs", both, at.sizes(f"{name}/flat", 0, h, r * r, r * r))
    one = at.weight(f"{name}/token/weight", token.reshape(d, 1))
    first = at.made("MatMul", f"{name}/token", patches, one)
    below = at.graph.node("Concat", f"{at.name}/{name}/below", first, both, axis=3)
    start = (at.sizes(f"{name}/from", 0), at.sizes(f"{name}/until", 1), at.sizes(f"{name}/axis", 2))
    alone = at.made("Slice", f"{name}/alone", query, *start)
    same = at.weight(f"{name}/first/weight", np.repeat(token.reshape(d, 1), n, 1))
    above = at.made("MatMul", f"{name}/first", alone, same)
    return at.graph.node("Concat", f"{at.name}/{name}/scores", above, below, axis=2)


def _position_values(at: Part, name: str, s: TransformerSpec, shares: str) -> str:
    """As `attention.position_values`; the result is `[B, H, N, D]`."""
    h, d, r = s.num_heads, s.head_dim, s.grid
    token, vertical, horizontal = _offsets(at, name, s)
    below = _from(at, f"{name}/below", shares, 2, 1)
    pairs = _from(at, f"{name}/pairs", below, 3, 1)
    grid = at.made("Reshape", f"{name}/grid", pairs, at.sizes(f"{name}/of", 0, h, r, r, r, r))
    rows = at.made("ReduceSum", f"{name}/by_row", grid, at.sizes(f"{name}/last", 5), keepdims=0)
    rows = at.made("MatMul", f"{name}/rows", rows, at.weight(f"{name}/rows/weight", vertical))
    columns = at.made(
        "ReduceSum", f"{name}/by_column", grid, at.sizes(f"{name}/one", 4), keepdims=0
    )
    columns = at.made("Transpose", f"{name}/turned", columns, perm=[0, 1, 3, 2, 4])
    each = at.weight(f"{name}/columns/weight", horizontal)
    columns = at.made("MatMul", f"{name}/columns", columns, each)
    columns = at.made("Transpose", f"{name}/back", columns, perm=[0, 1, 3, 2, 4])
    both = at.graph.node("Add", f"{at.name}/{name}/both", rows, columns)
    both = at.made("Reshape", f"{name}/flat", both, at.sizes(f"{name}/to", 0, h, r * r, d))
    both = at.made("Pad", f"{name}/all", both, at.sizes(f"{name}/pads", 0, 0, 1, 0, 0, 0, 0, 0))
    # How much of the class token each has: itself all, since all its pairs are with that.
    cut = [at.sizes(f"{name}/{k}", v) for k, v in (("from", 0), ("until", 1), ("axis", 3))]
    own = at.made("Slice", f"{name}/first", below, *cut)
    cut[2] = at.sizes(f"{name}/rows_axis", 2)
    alone = at.made("Slice", f"{name}/alone", shares, *cut)
    total = at.made("ReduceSum", f"{name}/total", alone, at.sizes(f"{name}/sum", 3), keepdims=1)
    share = at.graph.node("Concat", f"{at.name}/{name}/share", total, own, axis=2)
    one = at.weight(f"{name}/token/weight", token.reshape(1, d))
    share = at.made("MatMul", f"{name}/token", share, one)
    return at.graph.node("Add", f"{at.name}/{name}/values", both, share)


def _from(at: Part, name: str, x: str, axis: int, start: int) -> str:
    """What is left of a value from a place of an axis on."""
    cut = (at.sizes(f"{name}/{k}", v) for k, v in (("start", start), ("end", END), ("axes", axis)))
    return at.made("Slice", name, x, *cut)
