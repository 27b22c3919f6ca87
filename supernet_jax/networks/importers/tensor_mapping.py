"""Named tensors of another library to shared parameters, when it is known which is which."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import flax
import numpy as np

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near
from supernet_jax.networks.importers.importer import Report

Leaf = tuple[str, ...]  # path of a parameter
Shape = tuple[int, ...]
# Which axes of PyTorch's tensors are ours, by the number of axes: OIHW to HWIO, out-in to in-out.
FROM_TORCH: dict[int, tuple[int, ...]] = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias"}  # as PyTorch calls them
# What weights published for ImageNet expect: values in 0..1, normalised as (value - MEAN) / STD.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOMENTS = ("mean", "var")
CALIBRATED = "statistics are calibrated for each subnet"
NAMED = 4  # so many names a message lists at most


class Place(NamedTuple):
    """Where a tensor goes.

    Attributes:
        leaf: path of our parameter.
        shape: of our parameter.
        axes: of the tensor, in our order.
        tensor: shape of the tensor, if it is to be reshaped to that of our axes in its order.
    """

    leaf: Leaf
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    tensor: tuple[int, ...] | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """The shape that the tensor must have."""
        return self.in_its_order if self.tensor is None else self.tensor

    @property
    def in_its_order(self) -> tuple[int, ...]:
        """Our axes in the order of the tensor."""
        return tuple(self.shape[self.axes.index(i)] for i in range(len(self.axes)))


class Spare(NamedTuple):
    """A tensor that a file may have and that has no place.

    Attributes:
        shape: that it must have.
        why: it is left out.
    """

    shape: tuple[int, ...]
    why: str


def place(leaf: Leaf, shape: Sequence[int]) -> Place:
    """The place of a weight in PyTorch's usual layout."""
    return Place(leaf, tuple(shape), FROM_TORCH[len(shape)])


def as_it_is(leaf: Leaf, shape: Shape) -> Place:
    """That of a tensor that lies as our parameter does."""
    return Place(leaf, shape, tuple(range(len(shape))))


def batched(ones: int) -> Callable[[Leaf, Shape], Place]:
    """That of one with so many axes of size 1 before ours."""
    return lambda leaf, shape: as_it_is(leaf, shape)._replace(tensor=(1,) * ones + shape)


def merged_heads(leaf: Leaf, shape: Shape) -> Place:
    """`[features, H * D]` to `[H, D, features]`."""
    heads, d, features = shape
    return Place(leaf, shape, (1, 2, 0), tensor=(features, heads * d))


def stacked_heads(leaf: Leaf, shape: Shape) -> Place:
    """`[3 * H * D, C]`, all queries first, to `[C, 3, H, D]`."""
    c, kinds, heads, d = shape
    return Place(leaf, shape, (3, 0, 1, 2), tensor=(kinds * heads * d, c))


def stacked_biases(leaf: Leaf, shape: Shape) -> Place:
    """`[3 * H * D]` to `[3, H, D]`."""
    return as_it_is(leaf, shape)._replace(tensor=(int(np.prod(shape)),))


# The name of a tensor, within its block, and how it lies, by the path of our parameter.
Rule = tuple[str, Callable[[Leaf, Shape], Place]]


def by_rules(
    space: Space,
    *,
    inner: Mapping[str, Rule],
    outer: Mapping[str, Rule],
    prefix: str,
    family: str,
    numbered: str = r"block\d+",
) -> dict[str, Place]:
    """Where each tensor of a transformer goes, by its name, in the order of the space.

    Args:
        space: with blocks that are numbered there, and others.
        inner: rules for the parameters within those blocks.
        outer: for all others.
        prefix: of the names of a block's tensors, as "blocks.{}." with its number from 0.
        family: what a space must be, and what to do otherwise, for the message.
        numbered: the names of those blocks, as a regular expression.

    Raises:
        UserError: the space is not of the family: a parameter has no rule.
    """
    shapes = shared_params.parameter_shapes(space)
    flat = flax.traverse_util.flatten_dict({name: shapes[name] for name in space.blocks})
    numbers = {
        name: i for i, name in enumerate(n for n in space.blocks if re.fullmatch(numbered, n))
    }
    found = {}
    for leaf, shape in flat.items():
        inside = leaf[0] in numbers
        rule = inner.get("/".join(leaf[1:])) if inside else outer.get("/".join(leaf))
        if rule is None or space.bank is not None:
            raise UserError(f"the space {space.name} is not {family.format(leaf='/'.join(leaf))}")
        name, lies = rule
        before = prefix.format(numbers[leaf[0]]) if inside else ""
        found[before + name] = lies(leaf, tuple(shape.shape))
    return found


def without_absent(
    places: Mapping[str, Place], names: Sequence[str], tensors: Mapping[str, np.ndarray]
) -> dict[str, Place]:
    """The places without some, if a file has none of these tensors: what begins anew."""
    absent = () if any(name in tensors for name in names) else names
    return {name: where for name, where in places.items() if name not in absent}


def statistics(places: Mapping[str, Place]) -> dict[str, Spare]:
    """What PyTorch's BatchNorm keeps of the batches that it saw, beside each scale in `places`."""
    found: dict[str, Spare] = {}
    for name, where in places.items():
        if where.leaf[-1] == "scale":
            norm = name.removesuffix("weight")
            found |= {f"{norm}running_{kind}": Spare(where.wanted, CALIBRATED) for kind in MOMENTS}
            found[f"{norm}num_batches_tracked"] = Spare((), CALIBRATED)
    return found


def mapped(
    tensors: Mapping[str, np.ndarray],
    places: Mapping[str, Place],
    spares: Mapping[str, Spare],
    *,
    what: str,
) -> tuple[Tree, Report]:
    """The parameters, float32, and what became of each tensor.

    Args:
        tensors: as read, in the other library's layout.
        places: by name, each of which there must be.
        spares: by name, each of which there may be.
        what: the tensors should be, for messages.

    Raises:
        UserError: one is missing, unknown, not of floats or of another shape; the message names it.
    """
    _check_names(tensors, places, spares, what)
    flat: dict[Leaf, np.ndarray] = {}
    for name, where in places.items():
        _check(name, tensors[name], where.wanted, what)
        seen = tensors[name].reshape(where.in_its_order)
        flat[where.leaf] = _float32(name, seen.transpose(where.axes))
    left = [name for name in tensors if name in spares]
    for name in left:
        if tensors[name].shape != spares[name].shape:
            raise _misshapen(name, tensors[name], spares[name].shape, what)
    lines = tuple(f"{name}: {spares[name].why}" for name in left)
    return flax.traverse_util.unflatten_dict(flat), Report(tuple(places), lines)


def rescaled(params: Tree, leaf: Leaf, ratio: Sequence[float]) -> Tree:
    """The parameters, for inputs that are scaled otherwise: `ratio` times what they were made for.

    Args:
        params: NumPy.
        leaf: path of the kernel, `[height, width, C, out]`, that reads the inputs.
        ratio: C numbers, by which its weights are multiplied.
    """
    flat = dict(flax.traverse_util.flatten_dict(params))
    flat[leaf] = flat[leaf] * np.asarray(ratio, np.float32)[:, None]
    return flax.traverse_util.unflatten_dict(flat)


def with_outputs(params: Tree, layer: Leaf, rows: Sequence[int]) -> Tree:
    """The parameters with the outputs of the classifier in another order.

    Args:
        params: NumPy.
        layer: path of the classifier.
        rows: for each class of ours, which output it was.
    """
    flat = flax.traverse_util.flatten_dict(params)
    moved = {leaf: flat[leaf][..., list(rows)] for leaf in flat if leaf[: len(layer)] == layer}
    return flax.traverse_util.unflatten_dict({**flat, **moved})


def _check_names(
    tensors: Mapping[str, np.ndarray], places: Iterable[str], spares: Iterable[str], what: str
) -> None:
    known = {*places, *spares}
    missing = [name for name in places if name not in tensors]
    unknown = [name for name in tensors if name not in known]
    if missing:
        hint = near(missing[0], unknown) if len(missing) == 1 else ""
        raise UserError(
            f"this is not {what}: {_several(missing)} missing{hint}; is it another model, or is "
            "the space of --config another?"
        )
    if unknown:
        raise UserError(
            f"this is not {what}, which has no {_several(unknown, 'and')}"
            f"{near(unknown[0], known)}; is it another model, or is the space of --config another?"
        )


def _several(names: Sequence[str], verb: str = "") -> str:
    shown = ", ".join(names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    if verb:
        return shown + more
    return f"{shown}{more} {'are' if len(names) > 1 else 'is'}"


def _check(name: str, tensor: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if tensor.shape != shape:
        raise _misshapen(name, tensor, shape, what)


def _misshapen(name: str, tensor: np.ndarray, shape: tuple[int, ...], what: str) -> UserError:
    return UserError(
        f"{name} has the shape {list(tensor.shape)}, but in {what} it has {list(shape)}; is it "
        "another model, or is the space (or the number of classes) of --config another?"
    )


def _float32(name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype.kind not in "f" and tensor.dtype.name != "bfloat16":
        raise UserError(
            f"{name} is of {tensor.dtype}, but weights are floating-point numbers; quantised "
            "networks cannot be imported, take the one that was trained"
        )
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(tensor, np.float32)
    if not np.isfinite(made).all():
        raise UserError(f"{name} has numbers that are not finite, or too large for float32")
    return made
