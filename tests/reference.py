"""Golden values of published models, and the tensors that they assume.

The numbers in `goldens/` were computed with the published PyTorch code on weights and inputs that
an integer hash fills, so no checkpoint is needed. Tensor names are those of the published model.
"""

import json
import pathlib
import re

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def golden(name: str) -> dict:
    return json.loads((GOLDENS / f"{name}.json").read_text())


def uniform(count: int, stream: int) -> np.ndarray:
    """Float64 in [0, 1) from the hash of (index, stream), all in uint32 arithmetic."""
    with np.errstate(over="ignore"):
        h = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
        h += np.uint32((stream * 40503 + 12345) % 2**32)
        h = (h ^ (h >> 16)) * np.uint32(2246822519)
        h = (h ^ (h >> 13)) * np.uint32(3266489917)
        h ^= h >> 16
    return h / 2.0**32


def images(count: int, size: int, stream: int) -> np.ndarray:
    """Input images as `[B, H, W, C]`."""
    x = 2 * (2 * uniform(count * 3 * size * size, 100_000 + stream) - 1)
    return x.reshape(count, 3, size, size).transpose(0, 2, 3, 1).astype(np.float32)


def tensors(names_shapes: list) -> dict[str, np.ndarray]:
    """The published model's hash-filled tensors, in PyTorch's layout."""
    filled = {}
    for position, (name, shape) in enumerate(names_shapes):
        u = 2 * uniform(int(np.prod(shape)), position) - 1
        if name.endswith("_matrix"):  # of Once-for-All's kernel transforms
            u = np.eye(shape[0]).reshape(-1) + 0.05 * u
        elif len(shape) > 1:
            u = u * np.sqrt(6.0 / np.prod(shape[1:]))
        else:
            u = (1.0 if name.endswith(".weight") else 0.0) + 0.1 * u
        filled[name] = u.reshape(shape).astype(np.float32)
    return filled


STAGE_DEPTHS = (2, 5, 6, 6, 8, 8, 2)
LAYERS = {
    "mobile_inverted_conv.inverted_bottleneck.conv.conv": ("expand", "kernel"),
    "mobile_inverted_conv.inverted_bottleneck.bn.bn": ("expand_norm", "scale"),
    "mobile_inverted_conv.depth_conv.conv.conv": ("depthwise", "kernel"),
    "mobile_inverted_conv.depth_conv.bn.bn": ("depthwise_norm", "scale"),
    "mobile_inverted_conv.depth_conv.se.fc.reduce": ("squeeze/reduce", "kernel"),
    "mobile_inverted_conv.depth_conv.se.fc.expand": ("squeeze/expand", "kernel"),
    "mobile_inverted_conv.point_linear.conv.conv": ("project", "kernel"),
    "mobile_inverted_conv.point_linear.bn.bn": ("project_norm", "scale"),
    "shortcut.conv.conv": ("shortcut", "kernel"),
}
OUTER = {
    "first_conv.conv.conv": ("stem/conv", "kernel"),
    "first_conv.bn.bn": ("stem/norm", "scale"),
    "last_conv.final_expand_layer.conv.conv": ("head/expand", "kernel"),
    "last_conv.final_expand_layer.bn.bn": ("head/expand_norm", "scale"),
    "last_conv.feature_mix_layer.conv.conv": ("head/mix", "kernel"),
    "classifier.linear.linear": ("head/classifier", "kernel"),
}


def our_path(name: str) -> tuple[str, ...]:
    """Where a published tensor stands in our parameters."""
    layer, kind = name.rsplit(".", 1)
    match = re.fullmatch(r"blocks\.(\d+)\.(.*)", layer)
    if match:
        where, weight = LAYERS[match[2]]
        where = f"{_block(int(match[1]))}/{where}"
    else:
        where, weight = OUTER[layer]
    return (*where.split("/"), weight if kind == "weight" else "bias")


def parameters(names_shapes: list, shapes: dict) -> tuple[dict, list[str]]:
    """Our parameter tree from hash-filled tensors, and the names that it has no place for."""
    tree: dict = {}
    dropped = []
    for name, tensor in tensors(names_shapes).items():
        path = our_path(name)
        node = shapes
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
            if node is None:
                break
        if node is None:
            dropped.append(name)
            continue
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = ours(tensor)
    return tree, dropped


def ours(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's layout to ours: OIHW to HWIO, out-in to in-out."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T


def _block(index: int) -> str:
    for stage, depth in enumerate(STAGE_DEPTHS):
        if index < depth:
            return f"stage{stage + 1}_block{index + 1}"
        index -= depth
    raise IndexError(index)
