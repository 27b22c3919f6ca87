"""ONNX: the same logits in ONNX Runtime, from a file that says what it is."""

import json
import pathlib
import re
from typing import Any

import exported
import flax.linen as nn
import numpy as np
import onnx
import pytest

from supernet_jax.errors import UserError
from supernet_jax.networks.formats import onnx as onnx_format
from supernet_jax.networks.formats import table, torch
from supernet_jax.networks.formats.format import Format
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


@pytest.mark.parametrize("given", [FORMAT, torch.FORMAT], ids=["onnx", "torch"])
def test_what_only_other_formats_can(given: Format) -> None:
    def told(network: Any) -> str:
        export = exported.export("everything")._replace(network=network)
        with pytest.raises(UserError) as caught:
            table.writer((given,), export, exported.images("everything"))
        assert "the formats orbax, safetensors and stablehlo can" in str(caught.value)
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
