"""ONNX: one file that runs in ONNX Runtime and whatever else reads the format.

The file has opset 17 and IR version 8, of 2022, so that older runtimes read it too: ONNX Runtime
1.20 and 1.31 were run. For its input see `onnx_inputs`; its output `logits` is float32
`[batch, K]`, of text `[batch, length, V]`. The batch size is free. What the network is stands in
the file's metadata, as JSON: see `manifest.facts`.

Chains of blocks that `onnx_graph` knows are written by it, all other networks by `onnx_traced`.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.networks.formats import onnx_graph, onnx_inputs, onnx_traced
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.networks.formats.onnx_graph import LOGITS
from supernet_jax.networks.formats.onnx_inputs import BATCH, IDS, INPUTS, taken_as_it_is
from supernet_jax.networks.formats.onnx_operations import Graph, Taken
from supernet_jax.networks.manifest import Description, GeneralDescription, described, facts
from supernet_jax.networks.network import Runner
from supernet_jax.storage import files

FILE = "model.onnx"
OPSET, IR_VERSION = 17, 8


def write(folder: pathlib.Path, export: Export) -> None:
    """Writes `model.onnx`, after the checker of ONNX has found nothing wrong with it."""
    import onnx

    made = model(export, described(export.description))
    onnx.checker.check_model(made, full_check=True)
    files.write_bytes(folder / FILE, lambda file: file.write(made.SerializeToString()))


def load(folder: pathlib.Path) -> Runner:
    """What `write` wrote, in ONNX Runtime on CPU.

    Raises:
        UserError: it is missing, not readable, or nothing that this runtime can run.
    """
    import onnxruntime

    content = files.read_bytes(folder / FILE, kind="ONNX file")
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has exceptions of its own, which it does not name
        raise files.unreadable(folder / FILE, error, kind="ONNX file") from error
    [taken] = session.get_inputs()

    def run(inputs: np.ndarray) -> np.ndarray:
        given = inputs
        if taken.name == IDS:
            given = inputs.astype(np.int64)
        elif taken.name != INPUTS and taken.type != "tensor(uint8)":
            given = inputs.transpose(0, 3, 1, 2)
        logits: np.ndarray = session.run([LOGITS], {taken.name: np.ascontiguousarray(given)})[0]
        return logits

    return run


SNIPPET = """\
import onnxruntime

with open("FOLDER/model.onnx", "rb") as file:
    session = onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])
given = inputs if inputs.dtype == np.uint8 else inputs.transpose(0, 3, 1, 2)  # floats [B, C, H, W]
[logits] = session.run(None, {"images": given})"""
GENERAL_SNIPPET = """\
import onnxruntime, numpy as np

with open("FOLDER/model.onnx", "rb") as file:
    session = onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])
[logits] = session.run(None, {"ids": inputs})"""
FORMAT = Format(
    name="onnx",
    write=write,
    load=load,
    packages=("onnx>=1.19", "onnxruntime>=1.22"),
    snippet=SNIPPET,
    general_snippet=GENERAL_SNIPPET,
)


def model(export: Export, description: Description | GeneralDescription) -> Any:
    """The `onnx.ModelProto` of a network."""
    from onnx import helper

    if onnx_graph.knows(export.network):
        taken = onnx_inputs.taken(export, description)
        made = onnx_graph.of_export(export, description)
        if isinstance(description, GeneralDescription):
            logits = (*taken.shape, description.task.fields["vocabulary"])
        else:
            logits = (BATCH, len(description.classes))
    else:
        made, taken, logits = _traced(export, description)
    name = description.space.encode("utf-8", "replace").decode()
    proto = model_of(made, name, taken, logits)
    said = {taken.name: files.dumps(taken.words), **facts(export.description)}
    helper.set_model_props(proto, said)
    return proto


def _traced(
    export: Export, description: Description | GeneralDescription
) -> tuple[Graph, Taken, tuple[int | str, ...]]:
    """A network as `onnx_traced` writes it, what it takes, and the shape of its logits."""
    network, graph = export.network, Graph([], {})
    one = network.task.inputs(network.size)
    of_images = isinstance(description, Description)
    taken = onnx_inputs.taken(export, description) if of_images else taken_as_it_is(one)
    given = taken.name
    if of_images:
        images = onnx_inputs.first(graph, export, description).name
        given = graph.node("Transpose", "images_last", images, perm=[0, 2, 3, 1])
    elif given == IDS:
        given = graph.node("Cast", "ids_int32", given, to=onnx_traced.TYPES[str(one.dtype)])

    def run(inputs: jax.Array) -> jax.Array:
        return jnp.asarray(network.apply(export.variables, inputs))

    onnx_traced.add(graph, run, given, one)
    graph.nodes[-1] = graph.nodes[-1]._replace(output=LOGITS)
    return graph, taken, (BATCH, *jax.eval_shape(run, one).shape[1:])


def model_of(made: Graph, name: str, taken: Taken, logits: tuple[int | str, ...] | None) -> Any:
    """The `onnx.ModelProto` of operations.

    Args:
        made: the operations.
        name: of the whole.
        taken: its input.
        logits: shape of what is computed; None leaves it open.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node(n.kind, n.inputs, [n.output], name=n.name, **n.attributes)
        for n in made.nodes
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in made.weights.items()]
    given = helper.make_tensor_value_info(*taken[:3])
    output = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, logits)
    return helper.make_model(
        helper.make_graph(nodes, name, [given], [output], weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="supernet_jax",
    )
