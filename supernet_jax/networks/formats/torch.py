"""PyTorch: a module in a short file of its own, and its weights.

`torch/model.py` is the text of `torch_template.py`, or of `torch_text_template.py`, with this
network's constants in place of those there; it needs no part of this library.
`torch/model.safetensors` is its state dict. The layers of both are called as those of the Flax
modules, so one rule translates all weights. Writing needs no PyTorch.
"""

import ast
import dataclasses
import math
import pathlib
import pprint
from typing import Any

import flax
import numpy as np

from supernet_jax.errors import require
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.networks.manifest import Description, GeneralDescription, described, facts
from supernet_jax.networks.network import Block, Runner, Variables
from supernet_jax.nn.batch_norm import EPSILON
from supernet_jax.nn.blocks.text_transformer import BERT_EPSILON, ROTARY_BASE
from supernet_jax.nn.layers import LayerNorm, RMSNorm
from supernet_jax.storage import files, safetensors_file

TEMPLATE = pathlib.Path(__file__).with_name("torch_template.py")
TEXT_TEMPLATE = TEMPLATE.with_name("torch_text_template.py")
BEGIN, END = "# ---- what this network is\n", "# ---- what it is made of\n"
FOLDER, CODE, WEIGHTS = "torch", "model.py", "model.safetensors"
# How many leading axes of attention's kernels are inputs.
INPUTS = {
    **{("attention", name, "kernel"): 1 for name in ("heads", "query", "key", "value")},
    ("attention", "merge", "kernel"): 2,
}
HEADS_BIAS = ("attention", "heads", "bias")
LEAVES = {
    **dict.fromkeys(("kernel", "scale", "table"), "weight"),
    **{"mean": "running_mean", "var": "running_var"},
}


def write(folder: pathlib.Path, export: Export) -> None:
    """Writes `torch/model.py` and `torch/model.safetensors`."""
    description = described(export.description)
    path = folder / FOLDER
    path.mkdir()
    files.write_text(path / CODE, code(export, description))
    batches = description.calibration.batches if isinstance(description, Description) else 0
    weights = state_dict(export.variables, batches=batches)
    safetensors_file.write(
        path / WEIGHTS, weights, said={"format": "pt", **facts(export.description)}
    )


def load(folder: pathlib.Path) -> Runner:
    """What `write` wrote, in PyTorch on CPU. The file `model.py` is run."""
    import torch

    path = folder / FOLDER / CODE
    model: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(
        compile(files.read_text(path, kind="Python file"), path, "exec"), model
    )  # an import would leave __pycache__
    network = model["load"]()
    is_turned = model.get("PIXELS") is False  # text has none

    def run(inputs: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.array(inputs))  # a copy: it does not take read-only arrays
        with torch.inference_mode():
            logits = network(given.permute(0, 3, 1, 2) if is_turned else given)
        result: np.ndarray = logits.numpy()
        return result

    return run


def _blocks(template: pathlib.Path) -> frozenset[str]:
    """The keys of a template's `KINDS`; it cannot be imported without PyTorch."""
    [kinds] = [
        node.value
        for node in ast.parse(template.read_text("utf-8")).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "KINDS"
    ]
    assert isinstance(kinds, ast.Dict)
    return frozenset(ast.literal_eval(key) for key in kinds.keys if key is not None)


SNIPPET = """\
import runpy
import torch

network = runpy.run_path("FOLDER/torch/model.py")["load"]()
given = inputs if inputs.dtype == np.uint8 else inputs.transpose(0, 3, 1, 2)  # floats [B, C, H, W]
with torch.inference_mode():
    logits = network(torch.from_numpy(np.array(given))).numpy()"""
GENERAL_SNIPPET = """\
import runpy, torch, numpy as np

network = runpy.run_path("FOLDER/torch/model.py")["load"]()
logits = network(torch.from_numpy(inputs)).detach().numpy()"""
FORMAT = Format(
    name="torch",
    write=write,
    load=load,
    packages=("torch>=2.0",),
    snippet=SNIPPET,
    general_snippet=GENERAL_SNIPPET,
    blocks=_blocks(TEMPLATE) | _blocks(TEXT_TEMPLATE),
)


def code(export: Export, description: Description | GeneralDescription) -> str:
    """The text of `model.py`: constants as Python writes them, nothing else differs."""
    if isinstance(description, GeneralDescription):
        template, constants = TEXT_TEMPLATE, _constants_of_text()
    else:
        template, constants = TEMPLATE, _constants(export, description)
    constants["BLOCKS: list[tuple[str, str, dict]]"] = [_block(b) for b in export.network.blocks]
    own = "".join(_constant(name, value) for name, value in constants.items())
    before, _, rest = template.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{own}\n{END}{after}"


def _constants_of_text() -> dict[str, Any]:
    return {
        "LAYER_EPSILON": BERT_EPSILON,
        "RMS_EPSILON": RMSNorm.epsilon,
        "ROTARY_BASE": ROTARY_BASE,
    }


def _constants(export: Export, description: Description) -> dict[str, Any]:
    how = description.preparation
    return {
        "PIXELS": bool(export.pixels),
        "RESOLUTION": description.resolution,
        "CHANNELS": description.input_channels,
        "MEAN": description.mean,
        "STD": description.std,
        "PREPARATION: dict[str, Any] | None": how and dataclasses.asdict(how),
        "EPSILON": EPSILON,
        "LAYER_EPSILON": LayerNorm.epsilon,
        "CLASSES": list(description.classes),
    }


def _constant(name: str, value: Any) -> str:
    """`NAME = literal`, and nothing that is not a literal."""
    text = pprint.pformat(value, width=100 - len(name), compact=True, sort_dicts=False)
    if isinstance(value, list) and any(isinstance(item, tuple) for item in value):
        text = "[\n" + "".join(f"    {item!r},\n" for item in value) + "]"  # one line for each
    if ast.literal_eval(text) != value:
        raise ValueError(f"{name} cannot be written as Python text: {text}")
    return f"{name} = {text}\n"


USUAL = {"zero_pool": False, "norm_digits": 5}  # sizes of which only these values are written


def _block(block: Block) -> tuple[str, str, dict[str, Any]]:
    sizes = dataclasses.asdict(block.spec)
    for name in ("dropout_width", "deviation"):  # which bits are drawn in a supernet; how it began
        sizes.pop(name, None)
    for name, usual in USUAL.items():
        require(
            sizes.pop(name, usual) == usual,
            f"the format torch does not write block {block.name} with {name}="
            f"{getattr(block.spec, name, usual)}; leave torch out of the formats",
        )
    return block.name, block.module.__name__, sizes


def state_dict(variables: Variables, *, batches: int) -> dict[str, np.ndarray]:
    """Weights as PyTorch names them and lays them out, float32.

    Args:
        variables: of the network.
        batches: how many the statistics of normalisations come from.
    """
    state = {}
    for kind in ("params", "stats"):
        for (*path, leaf), value in flax.traverse_util.flatten_dict(variables[kind]).items():
            laid_out = _laid_out((*path[1:], leaf), np.asarray(value))
            state[".".join([*path, LEAVES.get(leaf, leaf)])] = laid_out
            if leaf == "var":
                state[".".join([*path, "num_batches_tracked"])] = np.array(batches, np.int64)
    return state


def _laid_out(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """`[k, k, C_in, C_out]` -> `[C_out, C_in, k, k]`, `[C_in, C_out]` -> `[C_out, C_in]`; kernels
    of attention, whose heads have axes of their own, and their biases as those of linear layers.
    """
    if path in INPUTS:
        inputs = math.prod(value.shape[: INPUTS[path]])
        value = value.reshape(inputs, -1)
    elif path == HEADS_BIAS:
        value = value.reshape(-1)
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim) if path[-1] == "kernel" else None
    return np.ascontiguousarray(value if order is None else value.transpose(order), np.float32)
