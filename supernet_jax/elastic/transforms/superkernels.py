"""Superkernels: one depthwise kernel whose own weights decide how much of it is used.

Single-Path NAS (Stamoulis et al. 2019, arXiv 1904.02877): a smaller kernel is the centre of the
largest one, and a smaller expansion its leading channels, so that all options of a block are one
kernel. A part of it is used where its squares exceed a threshold, which is learned with the weights
(equations 2 to 5):

    kernel:    w_k = w_3x3 + 1(|w_5x5 without w_3x3|^2 > t_k) (w_5x5 without w_3x3)
    channels:  w   = 1(|w_k of the first|^2 > t_skip) (w_k of the first + 1(|w_k of the others|^2 >
               t_e) (w_k of the others))

Shape letters: `K` size of the largest kernel, `C` its channels, `k` and `c` numbers of options.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, slicing
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Array, Code
from supernet_jax.elastic.elastic_block import TRANSFORMS, ElasticBlock, Spec, Transform, Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError

LEAF = ("depthwise", "kernel")  # [K, K, 1, C]
KERNEL, CHANNELS, SKIP = "kernel", "channels", "skip"  # names of thresholds


class Indicators(NamedTuple):
    """What of a superkernel is used: 1 or 0, with the gradients of a sigmoid.

    Attributes:
        kernel: of each ring around the smallest kernel, the innermost first, `[k - 1]`.
        channels: of each group of channels behind the first, `[c - 1]`.
        keep: of all of it, `[]`; 1 where the block cannot be skipped.
    """

    kernel: list[Array]
    channels: list[Array]
    keep: Array


@dataclasses.dataclass(frozen=True)
class Superkernel:
    """The computation of a `Transform`; its parameters are the thresholds, 0 at first.

    Attributes:
        kernels: sizes on offer, odd, smallest first.
        channels: numbers on offer, smallest first.
        skips: whether the block may be skipped.
    """

    kernels: tuple[int, ...]
    channels: tuple[int, ...]
    skips: bool

    def init(self, key: Array, shape: tuple[int, ...]) -> Tree:
        """Thresholds of 0, at which all that is not 0 is used."""
        del key, shape
        sizes = {KERNEL: len(self.kernels) - 1, CHANNELS: len(self.channels) - 1}
        own = {name: jnp.zeros(n) for name, n in sizes.items() if n}
        return {**own, **({SKIP: jnp.zeros(())} if self.skips else {})}

    def __call__(self, params: Tree, weights: Array, size: tuple[int, int]) -> Array:
        """What is used of the largest kernel; smaller ones are plain parts of it.

        Args:
            params: thresholds.
            weights: `[K, K, 1, C]`.
            size: of the kernel, and its channels.
        """
        if size != (self.kernels[-1], self.channels[-1]):
            return weights
        return self.used(params, weights)[0]

    def used(self, params: Tree, weights: Array) -> tuple[Array, Indicators]:
        """What is used of the largest kernel, `[K, K, 1, C]`, and what decided that."""
        rings, groups = self._rings(), self._groups()
        kernel = [_indicator(weights, ring, params[KERNEL][i]) for i, ring in enumerate(rings[1:])]
        made = _nested(weights, rings, kernel)
        channels = [
            _indicator(made, group, params[CHANNELS][i]) for i, group in enumerate(groups[1:])
        ]
        keep = _indicator(made, groups[0], params[SKIP]) if self.skips else jnp.ones(())
        return keep * _nested(made, groups, channels), Indicators(kernel, channels, keep)

    def _rings(self) -> list[np.ndarray]:
        """Places of the smallest kernel, and what each further one adds: bool, of rank 4."""
        far = np.abs(np.arange(self.kernels[-1]) - self.kernels[-1] // 2)
        distance = np.maximum(far[:, None], far[None, :])[:, :, None, None]
        inside = [distance <= size // 2 for size in self.kernels]
        return [inside[0], *(b & ~a for a, b in itertools.pairwise(inside))]

    def _groups(self) -> list[np.ndarray]:
        """The first channels, and what each further number adds: bool, of rank 4."""
        place = np.arange(self.channels[-1])[None, None, None, :]
        edges = itertools.pairwise((0, *self.channels))
        return [(place >= start) & (place < stop) for start, stop in edges]


def _indicator(weights: Array, part: np.ndarray, threshold: Array) -> Array:
    """Whether the mean square of a part of the weights exceeds a threshold: 1 or 0, `[]`.

    Its gradient is that of the sigmoid of the difference. The sum of squares instead, as equation 4
    has it, is the same decision at another threshold, but of hundreds of weights it lies where a
    sigmoid is flat.
    """
    inside = np.broadcast_to(part, weights.shape)
    square = jnp.sum(jnp.where(inside, jnp.square(weights), 0)) / inside.sum()
    soft = jax.nn.sigmoid(square - threshold)
    return soft + jax.lax.stop_gradient((square > threshold).astype(soft.dtype) - soft)


def _nested(weights: Array, parts: list[np.ndarray], indicators: list[Array]) -> Array:
    """The first part, and each further one if it and all before it are used."""
    total, used = jnp.zeros_like(weights), jnp.ones((), weights.dtype)
    for part, indicator in zip(parts, [used, *indicators], strict=True):
        used = used * indicator
        total = total + used * jnp.where(np.broadcast_to(part, weights.shape), weights, 0)
    return total


def _size(spec: Spec) -> tuple[int, int]:
    return spec.kernel, spec.middle


@functools.cache
def superkernel(
    kernels: tuple[int, ...], channels: tuple[int, ...], *, skips: bool = False
) -> Transform:
    """The transform of a block with a depthwise kernel, as `MBConv` and `InvertedResidual` are.

    The block's decisions must be its own: its kernel, then its expansion, and whether it is there.

    Args:
        kernels: sizes on offer, odd, smallest first.
        channels: of the depthwise kernel, on offer, smallest first.
        skips: whether the block may be skipped.
    """
    made = Superkernel(kernels, channels, skips)
    return Transform(LEAF, _size, made.init, made, name="superkernel")


def require(space: Space) -> None:
    """Raises a `UserError` unless some block of the space has a superkernel."""
    if not any(_own(block) for block in space.blocks.values()):
        raise UserError(
            f"no block of the space {space.name} has a superkernel, whose weights decide between "
            "options; take a space of such blocks, as sj.spaces.SinglePathNAS()"
        )


def code(space: Space, params: Tree) -> Code:
    """The code that the superkernels of a space have decided: 1 or 0, with sigmoids' gradients.

    Decisions that are none of theirs take their largest option.

    Args:
        space: some of whose blocks have superkernels.
        params: shared parameters.

    Returns:
        For each decision float32 `[O]`.
    """
    found = choices.one_hot(space.menu, choices.largest(space.menu))
    for name, block in space.blocks.items():
        for transform in _own(block):
            shared = params[elastic_space.group(space, name)]
            thresholds = shared.get(TRANSFORMS, {}).get(transform.key, {})
            leaf = slicing.get_leaf(shared, transform.leaf)
            _, decided = transform.apply.used(thresholds, leaf)
            kernel, expand = block.index.paths
            found = choices.replace(found, kernel, _chain(decided.kernel))
            found = choices.replace(found, expand, _chain(decided.channels))
            if block.alive is not None:
                (there,) = block.alive.paths
                found = choices.replace(found, there, jnp.stack([1 - decided.keep, decided.keep]))
    return found


def _own(block: ElasticBlock) -> list[Any]:
    return [one for one in block.transforms if isinstance(one.apply, Superkernel)]


def _chain(indicators: list[Any]) -> Array:
    """The weight of each option where the next one is used only if all before it are."""
    used = list(itertools.accumulate([jnp.ones(()), *indicators], lambda a, b: a * b))
    return jnp.stack([a - b for a, b in itertools.pairwise([*used, jnp.zeros(())])])
