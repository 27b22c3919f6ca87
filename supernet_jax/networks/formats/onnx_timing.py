"""ONNX Runtime as what latency tables are measured with, on the CPU."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.networks.engine import Call, Engine
from supernet_jax.networks.formats import onnx, onnx_graph, table
from supernet_jax.networks.formats.onnx_graph import LOGITS
from supernet_jax.networks.formats.onnx_operations import Graph, Taken, Value
from supernet_jax.networks.network import Block, Network

GIVEN = "given"  # what a program that is timed calls its input
IDLE = (4096,)  # shape of what an idle program adds 1 to


def engine() -> Engine:
    """ONNX Runtime with its own choice of threads; blocks and networks as the format has them."""
    import onnxruntime

    return Engine(f"onnxruntime {onnxruntime.__version__}", program, idle)


def check(network: Network) -> None:
    """Makes sure that a network's blocks can be measured.

    Raises:
        UserError: one of them is not the library's.
    """
    try:
        known = frozenset(kind.__name__ for kind in onnx_graph.BLOCKS)
        table.check_blocks(onnx.FORMAT._replace(blocks=known), network)
    except UserError as error:
        raise UserError(f"{error}; --runtime jit measures any network") from None


def program(module: nn.Module, variables: Any, inputs: Sequence[np.ndarray]) -> Call:
    """Runs a network, or a block with a spec, on inputs of its own size: `[B, H, W, C]`, tokens
    `[B, N, C]`, or ids of tokens `[B, N]`.
    """
    [given] = inputs
    if given.ndim == 2:
        given = given.astype(np.int64)
    made, x = Graph([], {}), Value(GIVEN, given.shape[-1], given.shape[1])
    first = np.ascontiguousarray(given.transpose(0, 3, 1, 2)) if given.ndim == 4 else given
    if isinstance(module, Network):
        onnx_graph.add(made, module.blocks, variables, x)
    else:
        alone = Block("block", type(module), module.spec)
        own = {kind: {alone.name: tree} for kind, tree in variables.items()}
        onnx_graph.add(made, [alone], own, x)
    return _session(made, first)


def idle(arrays: int) -> Call:
    """A program that adds 1 to an array; weights are part of a program here, so there are none."""
    made = Graph([], {})
    made.node("Add", "add", GIVEN, made.weight("one", np.ones(1)))
    made.nodes[-1] = made.nodes[-1]._replace(output=LOGITS)
    return _session(made, np.ones(IDLE, np.float32))


def _session(made: Graph, given: np.ndarray) -> Call:
    import onnxruntime
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(given.dtype)
    proto = onnx.model_of(made, "timed", Taken(GIVEN, kind, given.shape), None)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=providers)
    return lambda: session.run([LOGITS], {GIVEN: given})
