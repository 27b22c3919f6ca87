"""A weight transform of one's own: a smaller kernel is the centre of the largest, scaled.

supernet train docs/examples/transform.py --out runs/scaled
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import ElasticBlock, Transform, Tree
from supernet_jax.elastic.space import Space


def scaled_taps(leaf: tuple[str, ...], sizes: tuple[int, ...]) -> Transform:
    """A kernel of size `k` is the centre of the shared one, times `k * k` learned factors.

    Once-for-All learns a matrix in the place of the factors, see `OfaMobileNetV3`.

    Args:
        leaf: which parameter, as `("depthwise", "kernel")`, `[K, K, 1, C]`.
        sizes: the sizes on offer, odd, smallest first; the largest stays as it is.
    """

    def init(key: Array, shape: tuple[int, ...]) -> Tree:
        return {f"taps{k}": jnp.ones((k, k, 1, 1)) for k in sizes[:-1]}

    def apply(params: Tree, kernel: Array, size: int) -> Array:
        border = (kernel.shape[0] - size) // 2
        if not border:
            return kernel
        factors = jnp.broadcast_to(params[f"taps{size}"], (size, size, *kernel.shape[2:]))
        return factors * kernel[border:-border, border:-border]

    return Transform(leaf, lambda spec: spec.kernel, init, apply)


def with_scaled_taps(space: Space) -> Space:
    """The space, with a transform wherever a block has several sizes of a depthwise kernel."""

    def transformed(block: ElasticBlock) -> ElasticBlock:
        sizes = tuple(sorted({getattr(spec, "kernel", 0) for spec in block.specs}))
        if len(sizes) == 1:
            return block
        transforms = (scaled_taps(("depthwise", "kernel"), sizes),)
        return dataclasses.replace(block, transforms=transforms)

    blocks = {name: transformed(block) for name, block in space.blocks.items()}
    return dataclasses.replace(space, blocks=blocks)


@dataclasses.dataclass(frozen=True)
class ScaledTaps:
    """The space of digits, whose kernels of size 3 are made of those of size 5."""

    def build(self, **data: Any) -> Space:
        """The space for data with so many classes and channels."""
        return with_scaled_taps(sj.spaces.Digits().build(**data))


config = sj.Config(space=ScaledTaps())
