"""The blocks of FBNet (arXiv 1812.03443): figure 3 of the paper.

What the paper leaves open is as in the authors' published blocks (FBNet's in maskrcnn-benchmark):
the 1x1 convolution that expands is there at expansion 1, too, channels are shuffled before the
depthwise convolution, and kernels are drawn by He's rule.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.nn import layers

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FBNetBlockSpec:
    """Sizes of an `FBNetBlock`.

    Attributes:
        c_in: channels of the input.
        c_out: channels of the output.
        middle: channels of the depthwise convolution.
        kernel: of the depthwise convolution, odd.
        stride: of the depthwise convolution.
        groups: of both 1x1 convolutions; divides all channels.
    """

    c_in: int
    c_out: int
    middle: int
    kernel: int
    stride: int
    groups: int = 1

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output: only where both have one shape."""
        return self.stride == 1 and self.c_in == self.c_out


class FBNetBlock(nn.Module):
    """1x1, norm, ReLU, [shuffle,] depthwise, norm, ReLU, 1x1, norm; plus the input where it fits.

    Of several groups, channels are shuffled, so that each group of the second 1x1 convolution reads
    from every group of the first.
    """

    spec: FBNetBlockSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s, he = self.spec, layers.HE_FAN_OUT
        y = layers.Pointwise(s.middle, start=he, groups=s.groups, name="expand")(x)
        y = nn.relu(layers.BatchNorm(name="expand_norm")(y))
        if s.groups > 1:
            y = shuffled(y, s.groups)
        y = layers.Depthwise(s.kernel, s.stride, start=he, name="depthwise")(y)
        y = nn.relu(layers.BatchNorm(name="depthwise_norm")(y))
        y = layers.Pointwise(s.c_out, start=he, groups=s.groups, name="project")(y)
        y = layers.BatchNorm(name="project_norm")(y)
        return x + y if s.residual else y


def shuffled(x: Array, groups: int) -> Array:
    """`[..., C]` with the first channels of all groups first, then the second ones, ...
    (ShuffleNet, arXiv 1707.01083, section 3.1).
    """
    parts = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(parts, -1, -2).reshape(x.shape)
