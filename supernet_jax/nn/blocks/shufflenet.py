"""The blocks that SPOS chooses from (arXiv 1904.00420), those of ShuffleNetV2 (arXiv 1807.11164).

They are as in SPOS' published code (megvii-model/SinglePathOneShot): channels are shuffled where a
block begins, not where it ends, and kernels start from a normal distribution whose deviation is one
over the number of channels that a place of the output reads.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.nn import layers

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ShuffleSpec:
    """Sizes of a `ShuffleBlock` or `ShuffleXception`.

    Attributes:
        c_in: channels of the input; even, and `c_out`, at stride 1; below `c_out` at stride 2.
        c_out: channels of the output.
        middle: channels inside the branch.
        kernel: of all depthwise convolutions, odd.
        stride: 1 or 2.
        affine: whether norms learn a scale and a bias.
    """

    c_in: int
    c_out: int
    middle: int
    kernel: int
    stride: int
    affine: bool = True


class ShuffleBlock(nn.Module):
    """A branch of 1x1, norm, ReLU, depthwise, norm, 1x1, norm, ReLU beside the input.

    At stride 1 the channels of even places stay as they are, and those of odd places go through the
    branch, so that halves change from block to block. At stride 2 the branch reads all channels,
    and beside it there is depthwise, norm, 1x1, norm, ReLU of all of them.
    """

    spec: ShuffleSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        kept, y = _parts(s, x)
        y = _pointwise(s, "expand", y, s.middle)
        y = _depthwise(s, "depthwise", y, s.stride)
        return jnp.concatenate([kept, _pointwise(s, "project", y, s.c_out - kept.shape[-1])], -1)


class ShuffleXception(nn.Module):
    """As `ShuffleBlock` with another branch: three times depthwise, norm, 1x1, norm, ReLU, as in
    Xception (arXiv 1610.02357). The first has the stride.
    """

    spec: ShuffleSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        kept, y = _parts(s, x)
        outputs = (s.middle, s.middle, s.c_out - kept.shape[-1])
        for i, features in enumerate(outputs, start=1):
            y = _depthwise(s, f"depthwise{i}", y, s.stride if i == 1 else 1)
            y = _pointwise(s, f"pointwise{i}", y, features)
        return jnp.concatenate([kept, y], -1)


# These are called within a block's compact `__call__`, whose layers they name.
def _parts(s: ShuffleSpec, x: Array) -> tuple[Array, Array]:
    """What lies beside the branch, and what the branch reads."""
    if s.stride == 1:
        return x[..., ::2], x[..., 1::2]
    kept = _depthwise(s, "beside_depthwise", x, s.stride)
    return _pointwise(s, "beside_pointwise", kept, s.c_in), x


def _pointwise(s: ShuffleSpec, name: str, x: Array, features: int) -> Array:
    """1x1, norm, ReLU."""
    start = nn.initializers.normal(1.0 / x.shape[-1])
    x = layers.Pointwise(features, start=start, name=name)(x)
    return nn.relu(layers.BatchNorm(affine=s.affine, name=f"{name}_norm")(x))


def _depthwise(s: ShuffleSpec, name: str, x: Array, stride: int) -> Array:
    """Depthwise, norm."""
    start = nn.initializers.normal(1.0)
    x = layers.Depthwise(s.kernel, stride, start=start, name=name)(x)
    return layers.BatchNorm(affine=s.affine, name=f"{name}_norm")(x)
