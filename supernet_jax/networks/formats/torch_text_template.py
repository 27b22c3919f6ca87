"""A network on text for PyTorch, in a file that needs nothing but torch and safetensors.

Its weights are in `model.safetensors` beside it.

    import model
    network = model.load()                                # in eval mode
    ids = torch.tensor([list("def main(".encode())])      # [B, N], whole numbers: bytes
    logits = network(ids)                                 # [B, N, V]

A decoder's logits are of the byte that follows each; those of an encoder are of the byte that is
hidden behind the last id. Sequences may have any length, but where positions are learned none
beyond those. `network.train()` makes it an ordinary network to train further, with drop-connect;
logits that are tied to the table of the embedding stay so.
"""

import pathlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load as arrays
from torch import Tensor, nn

# LAYER_EPSILON, RMS_EPSILON: of the two kinds of normalisation.
# ROTARY_BASE: of the wavelengths of rotary positions.
# BLOCKS: the name of each, its class below, and its sizes, in the order in which they run.

# ---- what this network is

LAYER_EPSILON = 1e-12
RMS_EPSILON = 1e-06
ROTARY_BASE = 10000.0
BLOCKS: list[tuple[str, str, dict]] = [
    (
        "embed",
        "TokenEmbedding",
        {"vocabulary": 256, "c_out": 8, "positions": 9, "types": 0, "norm": False},
    ),
    ("head", "TiedLogits", {"c_in": 8, "vocabulary": 256}),
]

# ---- what it is made of


class DropPath(nn.Module):
    """In training, leaves a branch out for some of the sequences."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> the same shape."""
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand((len(x), 1, 1), device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class RMSNorm(nn.Module):
    """Divides by the root mean square of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels] -> the same shape."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPSILON) * self.weight


class LayerNorm(nn.LayerNorm):
    """PyTorch's, with the network's epsilon."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=LAYER_EPSILON)


class TokenEmbedding(nn.Module):
    """A row of a table for each id; a learned position, a type and a LayerNorm where wanted."""

    def __init__(self, vocabulary: int, c_out: int, positions: int, types: int, norm: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, c_out)
        self.positions = nn.Embedding(positions, c_out) if positions else None
        self.types = nn.Embedding(types, c_out) if types else None
        self.norm = LayerNorm(c_out) if norm else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        """[B, N] -> [B, N, c_out]."""
        y = self.tokens(ids)
        if self.positions is not None:
            y = y + self.positions(torch.arange(ids.shape[1], device=ids.device))
        if self.types is not None:
            y = y + self.types.weight[0]  # all is the first segment
        return self.norm(y)


class CausalAttention(nn.Module):
    """Self-attention of which a token sees itself and those before it.

    Head `i` of queries uses number `i mod kv_heads` of keys and values.
    """

    def __init__(
        self, channels: int, num_heads: int, kv_heads: int, head_dim: int, rotary: bool
    ) -> None:
        super().__init__()
        self.sizes = (-1, kv_heads, head_dim)
        self.query = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.key = nn.Linear(channels, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(channels, kv_heads * head_dim, bias=False)
        self.merge = nn.Linear(num_heads * head_dim, channels, bias=False)
        self.rotary = rotary
        half = head_dim // 2
        waves = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("waves", waves.float(), persistent=False)

    def heads(self, projected: Tensor) -> Tensor:
        """[B, N, heads * head_dim] -> [B, heads / kv_heads, kv_heads, N, head_dim]."""
        return projected.unflatten(2, self.sizes).permute(0, 2, 3, 1, 4)

    def rotated(self, x: Tensor) -> Tensor:
        """Pairs of channels, `i` and `i + head_dim / 2`, turned by an angle of the position."""
        place = torch.arange(x.shape[3], device=x.device, dtype=torch.float32)
        angle = place[:, None] * self.waves
        first, second = x.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, channels] -> the same shape."""
        query, key, value = (self.heads(layer(x)) for layer in (self.query, self.key, self.value))
        if self.rotary:
            query, key = self.rotated(query), self.rotated(key)
        scores = (query * self.sizes[2] ** -0.5) @ key.transpose(3, 4)
        size = scores.shape[3:]
        later = torch.ones(size, dtype=torch.bool, device=x.device).triu(1)
        shares = scores.masked_fill(later, float("-inf")).softmax(4)
        return self.merge((shares @ value).permute(0, 3, 1, 2, 4).flatten(2))


class DecoderBlock(nn.Module):
    """RMSNorm and causal attention, RMSNorm and a gated layer; each pair added to its input."""

    def __init__(
        self,
        c_in: int,
        num_heads: int,
        kv_heads: int,
        head_dim: int,
        hidden: int,
        rotary: bool,
        activation: str,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.attention_norm = RMSNorm(c_in)
        self.attention = CausalAttention(c_in, num_heads, kv_heads, head_dim, rotary)
        self.mlp_norm = RMSNorm(c_in)
        self.gate = nn.Linear(c_in, hidden, bias=False)
        self.up = nn.Linear(c_in, hidden, bias=False)
        self.down = nn.Linear(hidden, c_in, bias=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> the same shape."""
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        y = self.mlp_norm(x)
        gate = self.gate(y)
        gate = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        return x + self.drop_path(self.down(gate * self.up(y)))


class SelfAttention(nn.Module):
    """Multi-head self-attention in which each token sees all."""

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.sizes = (3, num_heads, head_dim)
        self.heads = nn.Linear(channels, 3 * num_heads * head_dim)
        self.merge = nn.Linear(num_heads * head_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, channels] -> the same shape."""
        query, key, value = self.heads(x).unflatten(2, self.sizes).permute(2, 0, 3, 1, 4)
        shares = ((query * self.sizes[2] ** -0.5) @ key.transpose(2, 3)).softmax(3)
        return self.merge((shares @ value).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Self-attention, then two linear layers; LayerNorm behind each sum with its input."""

    def __init__(
        self, c_in: int, num_heads: int, head_dim: int, hidden: int, drop_path: float
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(c_in, num_heads, head_dim)
        self.attention_norm = LayerNorm(c_in)
        self.expand = nn.Linear(c_in, hidden)
        self.project = nn.Linear(hidden, c_in)
        self.mlp_norm = LayerNorm(c_in)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> the same shape."""
        x = self.attention_norm(x + self.drop_path(self.attention(x)))
        return self.mlp_norm(x + self.drop_path(self.project(F.gelu(self.expand(x)))))


class FinalNorm(nn.Module):
    """The RMSNorm before the logits of a decoder."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.norm = RMSNorm(c_in)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> the same shape."""
        return self.norm(x)


class TokenTransform(nn.Module):
    """A linear layer, GELU and LayerNorm before the logits of an encoder."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.dense = nn.Linear(c_in, c_in)
        self.norm = LayerNorm(c_in)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> the same shape."""
        return self.norm(F.gelu(self.dense(x)))


class TokenLogits(nn.Module):
    """A linear layer without bias."""

    def __init__(self, c_in: int, vocabulary: int) -> None:
        super().__init__()
        self.logits = nn.Linear(c_in, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> logits [B, N, vocabulary]."""
        return self.logits(x)


class TiedLogits(nn.Module):
    """Products with the rows of the table of the embedding."""

    def __init__(self, c_in: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(c_in, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> logits [B, N, vocabulary]."""
        return self.tokens(x)


class OutputBias(nn.Module):
    """A bias of the logits."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, vocabulary] -> the same shape."""
        return x + self.bias


KINDS: dict[str, Callable[..., nn.Module]] = {
    "TokenEmbedding": TokenEmbedding,
    "DecoderBlock": DecoderBlock,
    "EncoderBlock": EncoderBlock,
    "FinalNorm": FinalNorm,
    "TokenTransform": TokenTransform,
    "TokenLogits": TokenLogits,
    "TiedLogits": TiedLogits,
    "OutputBias": OutputBias,
}


class Network(nn.Sequential):
    """The blocks, one after another."""

    def __init__(self) -> None:
        blocks = [(name, KINDS[kind](**sizes)) for name, kind, sizes in BLOCKS]
        super().__init__(OrderedDict(blocks))
        made: list[Any] = [block for _, block in blocks]
        for block in made:
            if isinstance(block, TiedLogits):
                block.tokens.weight = made[0].tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [B, N] -> logits [B, N, V]."""
        return super().forward(ids)


def load() -> Network:
    """The network with its weights, in eval mode."""
    network = Network()
    weights = pathlib.Path(__file__).with_name("model.safetensors")
    network.load_state_dict(arrays(weights.read_bytes()))
    return network.eval()
