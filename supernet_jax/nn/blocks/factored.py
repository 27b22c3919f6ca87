"""A linear layer of two factors, for multi-layer perceptrons.

Shape letters: `B` examples, `I` numbers that a layer reads of each, `O` that it puts out, `r` rank.
"""

import dataclasses

import flax.linen as nn
import jax

from supernet_jax.errors import require
from supernet_jax.nn import layers
from supernet_jax.nn.attention import KEEPING

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FactoredLayerSpec:
    """Sizes of a `FactoredLayer`.

    Attributes:
        c_in: channels, the last axis, of what the layer reads: I, or those of images.
        inputs: I.
        outputs: O.
        rank: r; 0 for one matrix instead of two factors.
        relu: whether a ReLU follows.
    """

    c_in: int
    inputs: int
    outputs: int
    rank: int
    relu: bool = True


class FactoredLayer(nn.Module):
    """`x A B + b`, with A `[I, r]`, `down`, and B `[r, O]`, `up`; or `x W + b`, with W `[I, O]`,
    `up`. Images are read pixel by pixel.
    """

    spec: FactoredLayerSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, I]`, or images `[B, R, R, c_in]` of I numbers -> `[B, O]`.

        Raises:
            UserError: there are not I numbers.
        """
        s, x = self.spec, x.reshape(x.shape[0], -1)
        require(
            x.shape[1] == s.inputs, f"a layer of {s.inputs} inputs was given {x.shape[1]} of them"
        )
        if s.rank:
            x = layers.Dense(s.rank, start=KEEPING, bias=False, name="down")(x)
        x = layers.Dense(s.outputs, zero_bias=True, name="up")(x)
        return nn.relu(x) if s.relu else x
