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
        elif re.search(r"pos_embed$|cls_token|embeddings_table", name):
            u = 0.02 * u
        elif "rescale_" in name:  # of NASViT's attention, which divides it by the channels
            u = 8 * u
        elif len(shape) > 1:
            u = u * np.sqrt(6.0 / np.prod(shape[1:]))
        else:
            u = (1.0 if name.endswith(".weight") else 0.0) + 0.1 * u
        filled[name] = u.reshape(shape).astype(np.float32)
    return filled


def files(names_shapes: list) -> dict[str, np.ndarray]:
    """The same as a file holds them: with the statistics that training left, which say nothing."""
    filled = tensors(names_shapes)
    for name in [name for name in filled if name.endswith(".bn.weight")]:
        norm = name.removesuffix("weight")
        filled[f"{norm}running_mean"] = np.zeros_like(filled[name])
        filled[f"{norm}running_var"] = np.ones_like(filled[name])
        filled[f"{norm}num_batches_tracked"] = np.array(0)
    return filled
