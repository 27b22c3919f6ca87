"""ONNX: the same logits in ONNX Runtime, from a file that says what it is."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import exported
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import lax

from supernet_jax.errors import UserError
from supernet_jax.networks.formats import onnx as onnx_format
from supernet_jax.networks.formats import onnx_graph, onnx_traced, table, torch
from supernet_jax.networks.formats.onnx_operations import Graph, Taken
from supernet_jax.networks.network import Block

FORMAT = onnx_format.FORMAT


@pytest.mark.parametrize("case", exported.CASES)
def test_same_logits_at_any_batch_size(case: str, tmp_path: pathlib.Path) -> None:
    FORMAT.write(tmp_path, exported.export(case))
    run, images, wanted = FORMAT.load(tmp_path), exported.images(case), exported.logits(case)
    assert exported.difference(run(images), wanted) <= exported.TOLERANCE
    assert exported.difference(run(images[:1]), wanted[:1]) <= exported.TOLERANCE


@pytest.mark.parametrize("case", exported.TEXTS)
def test_text_of_any_length(case: str, tmp_path: pathlib.Path) -> None:
    FORMAT.write(tmp_path, exported.export(case))
    model = onnx.load(tmp_path / "model.onnx")
    [ids], [logits] = model.graph.input, model.graph.output
    assert (ids.name, sizes(ids)) == ("ids", ["batch", "length"])
    assert ids.type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert (logits.name, sizes(logits)) == ("logits", ["batch", "length", 13])
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["perplexity"] == {"test": 9.5}
    assert said["ids"] == "int64 [batch, length], ids below 13"
    run = FORMAT.load(tmp_path)
    for tokens, wanted in exported.other_lengths(case):
        assert exported.difference(run(tokens), wanted) <= exported.TOLERANCE


def test_text_of_a_length_that_was_decided(tmp_path: pathlib.Path) -> None:
    whole, (ids, wanted) = (
        exported.export("text, rotary"),
        exported.other_lengths("text, rotary")[0],
    )
    export = whole._replace(
        network=whole.network.clone(size=5), description={**whole.description, "size": [5]}
    )
    FORMAT.write(tmp_path, export)
    graph = onnx.load(tmp_path / "model.onnx").graph
    [given], [logits] = graph.input, graph.output
    assert (sizes(given), sizes(logits)) == (["batch", 5], ["batch", 5, 13])
    run = FORMAT.load(tmp_path)
    assert exported.difference(run(ids), wanted) <= exported.TOLERANCE
    with pytest.raises(Exception, match="Expected: 5"):
        run(ids[:, :4])


def test_norms_have_their_own_epsilon(tmp_path: pathlib.Path) -> None:
    whole = exported.export("tokens, class token, shrunk images")
    *first, plain, head = whole.network.blocks
    finer = (
        dataclasses.replace(block, spec=dataclasses.replace(block.spec, norm_digits=6))
        for block in (plain, head)
    )
    FORMAT.write(tmp_path, whole._replace(network=whole.network.clone(blocks=(*first, *finer))))
    found = [
        (node.name, attribute.f)
        for node in onnx.load(tmp_path / "model.onnx").graph.node
        for attribute in node.attribute
        if attribute.name == "epsilon"
    ]
    assert [name for name, _ in found] == [
        *("far/attention_norm", "far/mlp_norm", "plain/attention_norm", "plain/mlp_norm"),
        "head/norm",
    ]
    np.testing.assert_allclose([value for _, value in found], [1e-5] * 2 + [1e-6] * 3)


def test_a_tied_table_is_written_once(tmp_path: pathlib.Path) -> None:
    FORMAT.write(tmp_path, exported.export("text, rotary"))
    model = onnx.load(tmp_path / "model.onnx")
    tables = [weight.name for weight in model.graph.initializer if list(weight.dims) == [13, 6]]
    assert tables == ["embed/tokens/weight"]


def test_pixels(tmp_path: pathlib.Path) -> None:
    case = "everything"
    FORMAT.write(tmp_path, exported.export(case, pixels=True))
    logits = FORMAT.load(tmp_path)(exported.images(case, pixels=True))
    assert exported.difference(logits, exported.logits(case, pixels=True)) <= exported.TOLERANCE
    [images] = onnx.load(tmp_path / "model.onnx").graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert sizes(images) == ["batch", 22, 22, 3]


def sizes(value: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_what_the_file_says(tmp_path: pathlib.Path) -> None:
    FORMAT.write(tmp_path, exported.export("everything"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (
        8,
        [("", 17)],
    )
    [images], [logits] = model.graph.input, model.graph.output
    assert (images.name, sizes(images)) == ("images", ["batch", 3, 22, 22])
    assert (logits.name, sizes(logits)) == ("logits", ["batch", 7])
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["classes"] == list("abcdefg")
    assert (said["mean"], said["std"]) == ([0.5, 0.25, 0.4], [0.3, 0.2, 0.25])
    assert said["images"] == "float32 [batch, 3, 22, 22], (pixel / 255 - mean) / std"


def test_readable_names_and_no_norms(tmp_path: pathlib.Path) -> None:
    FORMAT.write(tmp_path, exported.export("everything"))
    model = onnx.load(tmp_path / "model.onnx")
    nodes = {node.name: node.op_type for node in model.graph.node}
    assert nodes["pooled_widening/depthwise"] == "Conv" and nodes["pooled/pool"] == "AveragePool"
    assert len(nodes) == len(model.graph.node)
    assert "BatchNormalization" not in nodes.values()
    weights = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    assert weights["widening/expand/weight"] == [16, 8, 1, 1]
    assert weights["widening/squeeze/reduce/bias"] == [8]
    assert all(weight.data_type == onnx.TensorProto.FLOAT for weight in model.graph.initializer)


class Mine(nn.Module):
    spec: Any


def test_what_only_other_formats_can() -> None:
    def told(network: Any) -> str:
        export = exported.export("everything")._replace(network=network)
        with pytest.raises(UserError) as caught:
            table.writer((torch.FORMAT,), export, exported.images("everything"))
        assert "the formats orbax, safetensors, stablehlo and onnx can" in str(caught.value)
        return str(caught.value)

    def forward(run: Any, x: Any) -> Any:
        return run("head", run("stem", x))

    first, *rest = exported.EVERYTHING.blocks
    own = exported.EVERYTHING.clone(forward=forward)
    assert re.search("a topology of its own, forward; ", told(own))
    odd = exported.EVERYTHING.clone(blocks=(first, Block("odd", Mine, np.int64(1)), *rest))
    assert re.search("block 'odd', which is a Mine, but only of Head, MBConv, .*; ", told(odd))
    named = Block('a"; import os #', first.module, first.spec)
    renamed = exported.EVERYTHING.clone(blocks=(named, *rest))
    assert re.search("a block called 'a\"; import os #', only of names made of", told(renamed))


@pytest.mark.parametrize("case", ["everything", "tokens", "digits, smallest", "text, hidden"])
def test_networks_of_unknown_blocks_are_traced(
    case: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "BLOCKS", {})
    FORMAT.write(tmp_path, exported.export(case))
    run, images, wanted = FORMAT.load(tmp_path), exported.images(case), exported.logits(case)
    assert exported.difference(run(images), wanted) <= exported.TOLERANCE
    assert exported.difference(run(images[:1]), wanted[:1]) <= exported.TOLERANCE
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sizes(graph.input[0])[0] == sizes(graph.output[0])[0] == "batch"


TABLE = jnp.asarray(np.random.default_rng(4).normal(size=(6, 7)).astype(np.float32))


def convolved(x: Any) -> Any:
    return lax.conv_general_dilated(
        x,
        jnp.arange(48.0).reshape(2, 3, 2, 4),
        (2, 1),
        ((1, 0), (0, 3)),
        rhs_dilation=(1, 2),
        feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def elements(x: Any) -> Any:
    chosen = jnp.where((x != 0) & ~(x > 1), x**3, jnp.clip(x, -1, 2)) + jnp.log1p(jnp.abs(x)) % 0.7
    others = lax.erfc(x) + lax.erf(x) + jnp.exp2(x) + jnp.sign(x) + jnp.floor(x)
    return chosen + others + nn.gelu(x) + nn.softmax(x)


# Of arrays [B, 6, 5, 4], what JAX traces to operations that few blocks of the library have.
OPERATIONS: dict[str, Any] = {
    "sums": lambda x: jnp.stack([x.max((1, 2)), x.min((1, 2)), x.prod((1, 2)), x.sum((1, 2))], 1),
    "largest windows": lambda x: nn.max_pool(x, (2, 3), (2, 1), "SAME"),
    "mean windows": lambda x: nn.avg_pool(x, (2, 3), (2, 1)),
    "windows along one axis": lambda x: nn.avg_pool(x[:, 0], (2,), (2,)),
    "a convolution": convolved,
    "a kernel made of inputs": lambda x: x @ jnp.swapaxes(x, 2, 3) @ x[:, :1],
    "sums of products": lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x),
    "products with a table": lambda x: jnp.einsum("bhwc,cd->bd", x, TABLE[:4]),
    "rows of a table": lambda x: TABLE[:, :4][jnp.argmax(x, 2)] * x[:, :, :4],
    "columns of a table": lambda x: jnp.take(TABLE, jnp.argmax(x, -1), axis=1),
    "running sums": lambda x: jnp.cumsum(x[:, ::2], 1),
    "from the end": lambda x: x[:, ::-1],
    "turned round": lambda x: jnp.flip(jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)))[:, 3:], 3),
    "elements": elements,
    "parts": lambda x: sum(jnp.split(x, [1, 3], axis=2)[i].mean((1, 2)) for i in range(3)),
    "rows apart": lambda x: sum(i * row for i, row in enumerate(jnp.unstack(x, axis=1))),
    "batch in rows": lambda x: x.reshape(-1, 4).sum(1).reshape(x.shape[0], -1),
    "spread": lambda x: jnp.concatenate([x, jnp.broadcast_to(TABLE[0, :4], x.shape)], 1),
    "places": lambda x: x + lax.broadcasted_iota(jnp.float32, (1, 6, 5, 4), 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_as_they_are_traced(name: str) -> None:
    function, one = OPERATIONS[name], jax.ShapeDtypeStruct((1, 6, 5, 4), jnp.float32)
    graph = Graph([], {})
    onnx_traced.add(graph, function, "x", one)
    graph.nodes[-1] = graph.nodes[-1]._replace(output="logits")
    rank = len(jax.eval_shape(function, one).shape)
    free = tuple(f"axis{i}" for i in range(rank))
    model = onnx_format.model_of(graph, name, Taken("x", 1, ("batch", 6, 5, 4)), free)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, 6, 5, 4)).astype(np.float32)
        [found] = session.run(None, {"x": x})
        with jax.default_matmul_precision("highest"):
            assert exported.difference(found, np.asarray(function(x))) <= exported.TOLERANCE


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: jnp.sort(x, 1), "the operation sort has no counterpart"),
        (lambda x: x[:, 0, 0, 0] if x.shape[0] > 2 else x, "must work for a batch of any size"),
        (lambda x: x[: x.shape[0] - 1], "cannot be written as onnx"),
    ],
)
def test_operations_that_cannot_be_written(function: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        one = jax.ShapeDtypeStruct((1, 6, 5, 4), jnp.float32)
        onnx_traced.add(Graph([], {}), function, "x", one)
