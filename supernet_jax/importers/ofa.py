"""Tensors of Once-for-All's MobileNetV3 supernets, by the names of the published code.

The published files spell some names longer than that code does today (`mobile_inverted_conv`); both
are read. Running statistics are not: a subnet's are calibrated, and those of the file are the
largest subnet's.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np

from supernet_jax import elastic, network
from supernet_jax.elastic import Tree
from supernet_jax.errors import UserError, near
from supernet_jax.importers.report import Report
from supernet_jax.network import Space

Path = tuple[str, ...]
BLOCK: dict[Path, str] = {
    ("expand",): "inverted_bottleneck.conv",
    ("expand_norm",): "inverted_bottleneck.bn",
    ("depthwise",): "depth_conv.conv",
    (elastic.TRANSFORMS, "depthwise/kernel"): "depth_conv.conv",
    ("depthwise_norm",): "depth_conv.bn",
    ("squeeze", "reduce"): "depth_conv.se.fc.reduce",
    ("squeeze", "expand"): "depth_conv.se.fc.expand",
    ("project",): "point_linear.conv",
    ("project_norm",): "point_linear.bn",
}
OUTER: dict[Path, str] = {
    ("stem", "conv"): "first_conv.conv",
    ("stem", "norm"): "first_conv.bn",
    ("head", "expand"): "final_expand_layer.conv",
    ("head", "expand_norm"): "final_expand_layer.bn",
    ("head", "mix"): "feature_mix_layer.conv",
    ("head", "classifier"): "classifier.linear",
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
SPELLINGS = (
    (r"^module\.", ""),
    (r"\.mobile_inverted_conv\.", ".conv."),
    (r"\.(conv|bn|linear)\.\1\.(?=\w+$)", r".\1."),
)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space out of published tensors.

    Args:
        tensors: by their published names, in PyTorch's layout.
        space: of `spaces.ofa`, with the widths and classes of the tensors.

    Returns:
        Parameters as `network.init` makes them, NumPy float32, and what became of each tensor.

    Raises:
        UserError: a tensor is missing, unknown, there twice, or of another shape; a space of
            another family.
    """
    shapes = jax.eval_shape(functools.partial(network.init, space), jax.random.key(0))
    wanted = published_names(space, shapes)
    given: dict[str, str] = {}
    left = []
    for name in tensors:
        short = _short(name)
        if short.rsplit(".", 1)[-1] in STATISTICS:
            left.append(f"{name}: running statistics; those of a subnet are calibrated")
        elif short not in wanted:
            raise UserError(
                f"the tensor {name} has no place in space {space.name}{near(short, wanted)}; is the "
                "file of another network?"
            )
        elif short in given:
            raise UserError(f"the file has both {given[short]} and {name}, which are one tensor")
        else:
            given[short] = name
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(
            f"the file lacks {len(missing)} of {len(wanted)} tensors of space {space.name}, the "
            f"first is {missing[0]}"
        )
    flat = flax.traverse_util.flatten_dict(shapes)
    found = {
        path: _ours(path, tensors[given[name]], flat[path].shape, given[name])
        for name, path in wanted.items()
    }
    mapped = tuple(given[name] for name in wanted)
    return flax.traverse_util.unflatten_dict(found), Report(mapped, tuple(left))


def published_names(space: Space, shapes: Tree) -> dict[str, Path]:
    """Where each published tensor stands in our parameters, by its name in today's spelling.

    Args:
        space: of `spaces.ofa`.
        shapes: any tree like its parameters.

    Raises:
        UserError: the space has other blocks.
    """
    middle = [name for name in space.blocks if name not in ("stem", "head")]
    places = {
        **OUTER,
        **{(b, *own): f"blocks.{i}.conv.{p}" for i, b in enumerate(middle) for own, p in BLOCK.items()},
    }
    order = {name: i for i, name in enumerate(space.blocks)}
    paths = flax.traverse_util.flatten_dict(shapes)
    found = {}
    for path in sorted(paths, key=lambda path: order[path[0]]):
        if path[:-1] not in places:
            raise UserError(
                f"space {space.name} is not of Once-for-All's MobileNetV3: it has {'/'.join(path)}"
            )
        leaf = f"{path[-1]}_matrix" if elastic.TRANSFORMS in path else LEAVES[path[-1]]
        found[f"{places[path[:-1]]}.{leaf}"] = path
    return found


def _short(name: str) -> str:
    for pattern, new in SPELLINGS:
        name = re.sub(pattern, new, name)
    return name


def _ours(path: Path, tensor: np.ndarray, shape: tuple[int, ...], name: str) -> Any:
    """PyTorch's layout to ours: OIHW to HWIO, out-in to in-out; transforms are the same in both."""
    if tensor.ndim == 4:
        made = tensor.transpose(2, 3, 1, 0)
    else:
        made = tensor.T if path[-1] == "kernel" else tensor
    if made.shape != shape:
        back = (3, 2, 0, 1) if len(shape) == 4 else range(len(shape))[:: -1 if path[-1] == "kernel" else 1]
        raise UserError(
            f"{name} is {list(tensor.shape)}, but this space needs {[shape[i] for i in back]}; "
            "has it other widths or classes?"
        )
    return np.ascontiguousarray(made, np.float32)
