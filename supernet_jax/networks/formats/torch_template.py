"""An image classifier for PyTorch, in a file that needs nothing but torch and safetensors.

Its weights are in `model.safetensors` beside it.

    import model
    network = model.load()                           # in eval mode
    images = model.read("cat.jpg", "dog.jpg")        # needs pillow
    logits = network(images)                         # [B, classes]
    probabilities = logits.softmax(-1)

`read` crops, resizes and normalises image files as those were that the network was trained and
measured on; do the same where images come from elsewhere. `network.train()` makes it an ordinary
network to train further, with dropout and statistics of BatchNorm. `python model.py IMAGE` tells
the likeliest classes of an image.
"""

import io
import pathlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load as arrays
from torch import Tensor, nn

# PIXELS: whether images are uint8 [B, H, W, C], rather than float [B, C, H, W], normalised.
# RESOLUTION: images of any size are resized to so many pixels on each side.
# MEAN, STD: of each channel, of pixels in 0..1; the network sees `(pixel / 255 - mean) / std`.
# PREPARATION: how image files became pixels, see `prepared`; None where that is not known.
# EPSILON, LAYER_EPSILON: of BatchNorm, of LayerNorm.
# CLASSES: their names, in the order of the logits.
# BLOCKS: the name of each, its class below, and its sizes, in the order in which they run.

# ---- what this network is

PIXELS = False
RESOLUTION = 8
CHANNELS = 1
MEAN = (0.0,)
STD = (1.0,)
PREPARATION: dict[str, Any] | None = {
    "height": 8,
    "width": 8,
    "centre": None,
    "filter": "bilinear",
    "upright": False,
    "background": "none",
}
EPSILON = 1e-05
LAYER_EPSILON = 1e-05
CLASSES = ["zero", "one"]
BLOCKS: list[tuple[str, str, dict]] = [
    ("stem", "Stem", {"c_in": 1, "c_out": 8, "stride": 1}),
    ("head", "Head", {"c_in": 8, "middle": 8, "c_out": 8, "classes": 2, "dropout": 0.0}),
]

# ---- what it is made of

Activation = Callable[[Tensor], Tensor]


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that pads half its kernel."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's, with the network's epsilon."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)


class SqueezeExcite(nn.Module):
    """Weighs channels by what is in the whole image."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(squeezed))))


class DropPath(nn.Module):
    """In training, leaves a branch out for some of the images."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> the same shape."""
        if not self.training or self.rate == 0.0:
            return x
        shape = (len(x), *(1,) * (x.dim() - 1))
        keep = torch.rand(shape, device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, activation."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.conv = conv(c_in, c_out, 3, stride)
        self.norm = BatchNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H/stride, W/stride]."""
        return self.activation(self.norm(self.conv(x)))


class MBConv(nn.Module):
    """Inverted bottleneck; its shortcut averages over the stride and may change the channels."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        middle: int,
        kernel: int,
        stride: int,
        expand: bool,
        reduced: int,
        shortcut: str,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.stride, self.expands = stride, expand
        middle = middle if expand else c_in
        if expand:
            self.expand = conv(c_in, middle, 1)
            self.expand_norm = BatchNorm(middle)
        self.depthwise = conv(middle, middle, kernel, stride, groups=middle)
        self.depthwise_norm = BatchNorm(middle)
        self.squeeze = SqueezeExcite(middle, reduced) if reduced else nn.Identity()
        self.project = conv(middle, c_out, 1)
        self.project_norm = BatchNorm(c_out)
        self.drop_path = DropPath(drop_path)
        self.shortcut = conv(c_in, c_out, 1) if shortcut == "conv" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H/stride, W/stride]."""
        y = x
        if self.expands:
            y = F.silu(self.expand_norm(self.expand(y)))
        y = F.silu(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(self.squeeze(y)))
        if self.stride > 1:  # the last windows may be incomplete
            x = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        return self.drop_path(y) + self.shortcut(x)


class InvertedResidual(nn.Module):
    """Inverted bottleneck whose only shortcut is the identity, where the shape stays."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        middle: int,
        kernel: int,
        stride: int,
        expand: bool,
        reduced: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.activation = {"relu": F.relu, "hard_swish": F.hardswish}[activation]
        self.residual, self.expands = stride == 1 and c_in == c_out, expand
        middle = middle if expand else c_in
        if expand:
            self.expand = conv(c_in, middle, 1)
            self.expand_norm = BatchNorm(middle)
        self.depthwise = conv(middle, middle, kernel, stride, groups=middle)
        self.depthwise_norm = BatchNorm(middle)
        self.squeeze = SqueezeExcite(middle, reduced) if reduced else nn.Identity()
        self.project = conv(middle, c_out, 1)
        self.project_norm = BatchNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H/stride, W/stride]."""
        y = x
        if self.expands:
            y = self.activation(self.expand_norm(self.expand(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(self.squeeze(y)))
        return x + y if self.residual else y


class Head(nn.Module):
    """1x1 convolution, BatchNorm, activation, mean over the image, 1x1, activation, linear."""

    def __init__(
        self,
        c_in: int,
        middle: int,
        c_out: int,
        classes: int,
        dropout: float,
        *,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.expand = conv(c_in, middle, 1)
        self.expand_norm = BatchNorm(middle)
        self.mix = conv(middle, c_out, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(c_out, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> logits [B, classes]."""
        x = self.activation(self.expand_norm(self.expand(x)))
        x = self.activation(self.mix(x.mean((2, 3), keepdim=True)))
        return self.classifier(self.dropout(x.flatten(1)))


class PatchEmbedding(nn.Module):
    """Patches projected linearly, a class token before them, a learned position added to each."""

    def __init__(self, c_in: int, c_out: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(c_in, c_out, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(c_out))
        self.position = nn.Parameter(torch.zeros(1 + (RESOLUTION // patch) ** 2, c_out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> tokens [B, N, c_out]."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        token = self.class_token.expand(len(x), 1, -1)
        return torch.cat([token, patches], 1) + self.position


class RelativePositions(nn.Module):
    """Embeddings of vertical and horizontal distances between patches of a square grid."""

    def __init__(self, grid: int, distance: int, head_dim: int) -> None:
        super().__init__()
        self.vertical = nn.Parameter(torch.zeros(2 * distance + 2, head_dim))
        self.horizontal = nn.Parameter(torch.zeros(2 * distance + 2, head_dim))
        place = torch.arange(grid)
        steps = (place[None, :] - place[:, None]).clamp(-distance, distance) + distance + 1
        self.register_buffer("steps", steps, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of pairs with the class token [D], of rows and of columns [grid, grid, D]."""
        token = self.vertical[0] + self.horizontal[0]
        return token, self.vertical[self.steps], self.horizontal[self.steps]

    def scores(self, query: Tensor) -> Tensor:
        """Queries [B, heads, N, D] -> what their distances to all keys add, [B, heads, N, N]."""
        token, rows, columns = self()
        patches = query[:, :, 1:].unflatten(2, (len(rows), len(rows)))
        down = torch.einsum("bhrsd,rid->bhrsi", patches, rows)
        across = torch.einsum("bhrsd,sjd->bhrsj", patches, columns)
        pairs = (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)
        of_token = query @ token
        below = torch.cat([of_token[:, :, 1:, None], pairs], 3)
        above = of_token[:, :, :1, None].expand(-1, -1, 1, query.shape[2])
        return torch.cat([above, below], 2)

    def values(self, shares: Tensor) -> Tensor:
        """Shares of keys [B, heads, N, N] -> their distances' mean, [B, heads, N, D]."""
        token, rows, columns = self()
        size = (len(rows), len(rows))
        pairs = shares[:, :, 1:, 1:].unflatten(3, size).unflatten(2, size)
        y = torch.einsum("bhrsi,rid->bhrsd", pairs.sum(5), rows)
        y = y + torch.einsum("bhrsj,sjd->bhrsd", pairs.sum(4), columns)
        of_token = torch.cat([shares[:, :, :1].sum(3), shares[:, :, 1:, 0]], 2)
        return F.pad(y.flatten(2, 3), (0, 0, 1, 0)) + of_token[..., None] * token


class SelfAttention(nn.Module):
    """Multi-head self-attention, with relative positions where there is a grid."""

    def __init__(self, channels: int, heads: int, head_dim: int, grid: int, distance: int) -> None:
        super().__init__()
        self.sizes = (3, heads, head_dim)
        self.heads = nn.Linear(channels, 3 * heads * head_dim)
        self.merge = nn.Linear(heads * head_dim, channels)
        self.grid = grid
        if grid:
            self.key_positions = RelativePositions(grid, distance, head_dim)
            self.value_positions = RelativePositions(grid, distance, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, channels] -> the same shape."""
        query, key, value = self.heads(x).unflatten(2, self.sizes).permute(2, 0, 3, 1, 4)
        query = query * self.sizes[2] ** -0.5
        scores = query @ key.transpose(2, 3)
        if self.grid:
            scores = scores + self.key_positions.scores(query)
        shares = scores.softmax(3)
        y = shares @ value
        if self.grid:
            y = y + self.value_positions.values(shares)
        return self.merge(y.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """LayerNorm and self-attention, LayerNorm and two linear layers; each added to its input."""

    def __init__(
        self,
        c_in: int,
        num_heads: int,
        head_dim: int,
        hidden: int,
        grid: int,
        distance: int,
        prefix_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        del prefix_bias  # which biases fewer heads would have
        self.attention_norm = nn.LayerNorm(c_in, eps=LAYER_EPSILON)
        self.attention = SelfAttention(c_in, num_heads, head_dim, grid, distance)
        self.mlp_norm = nn.LayerNorm(c_in, eps=LAYER_EPSILON)
        self.expand = nn.Linear(c_in, hidden)
        self.project = nn.Linear(hidden, c_in)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> the same shape."""
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        return x + self.drop_path(self.project(F.gelu(self.expand(self.mlp_norm(x)))))


class TokensHead(nn.Module):
    """LayerNorm, the mean of the patches or the class token, linear."""

    def __init__(self, c_in: int, classes: int, pool: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c_in, eps=LAYER_EPSILON)
        self.pool = pool
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, c_in] -> logits [B, classes]."""
        x = self.norm(x)
        return self.classifier(x[:, 1:].mean(1) if self.pool == "patches" else x[:, 0])


KINDS: dict[str, Callable[..., nn.Module]] = {
    "Stem": partial(Stem, activation=F.silu),
    "MBConv": MBConv,
    "Head": partial(Head, activation=F.silu),
    "HardStem": partial(Stem, activation=F.hardswish),
    "InvertedResidual": InvertedResidual,
    "HardHead": partial(Head, activation=F.hardswish),
    "PatchEmbedding": PatchEmbedding,
    "TransformerBlock": TransformerBlock,
    "TokensHead": TokensHead,
}


class Network(nn.Sequential):
    """The blocks, one after another; images are resized and, if `PIXELS`, normalised before."""

    def __init__(self) -> None:
        blocks = [(name, KINDS[kind](**sizes)) for name, kind, sizes in BLOCKS]
        super().__init__(OrderedDict(blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Images as `PIXELS` says -> logits [B, classes]."""
        x = normalise(images) if PIXELS else images
        return super().forward(resize(x))


def normalise(pixels: Tensor) -> Tensor:
    """Pixels, uint8 [B, H, W, C] -> float [B, C, H, W], `(pixel / 255 - mean) / std`."""
    mean, std = (torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std


def resize(x: Tensor) -> Tensor:
    """Bicubic; in float64, because in float32 the places between pixels are inexact."""
    size = (RESOLUTION, RESOLUTION)
    if x.shape[-2:] == size:
        return x
    wide = x if x.device.type == "mps" else x.double()  # which has no float64
    return F.interpolate(wide, size, mode="bicubic", align_corners=False).to(x.dtype)


def load() -> Network:
    """The network with its weights, in eval mode."""
    network = Network()
    weights = pathlib.Path(__file__).with_name("model.safetensors")
    network.load_state_dict(arrays(weights.read_bytes()))
    return network.eval()


def read(*files: Any) -> Tensor:
    """Image files as the network takes them, prepared as for its training: a batch."""
    pixels = torch.stack([read_pixels(file) for file in files])
    return pixels if PIXELS else normalise(pixels)


def read_pixels(file: Any) -> Tensor:
    """An image file -> uint8 [H, W, C]."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(CHANNELS)
    if PREPARATION is None or mode is None:
        raise ValueError("it is not known how image files become pixels here; give it tensors")
    height, width = PREPARATION["height"], PREPARATION["width"]
    others = (PREPARATION[name] for name in ("centre", "upright", "background"))
    values = bytearray(prepared(file, width, height, mode, *others).tobytes())
    return torch.frombuffer(values, dtype=torch.uint8).view(height, width, CHANNELS)


def prepared(
    file: Any,
    width: int,
    height: int,
    mode: str,
    centre: float | None,
    upright: bool = False,
    background: str = "none",
) -> Any:
    """An image file -> what a network was trained and measured on: pixels, as an image of Pillow.

    `centre` is None for all of the image, or the side of the square in its middle, as a share of
    the shorter side; `upright` turns it as EXIF says; `background` is put behind what is
    transparent.
    """
    from PIL import Image

    with Image.open(file) as image:
        if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr"):
            raise ValueError(f"{file} has pixels of mode {image.mode}, not of 8 bits")
        noted: Any = None
        late = {"exif", "xmp", "Raw profile type exif"}.isdisjoint(image.info)
        if upright and not (image.format == "PNG" and late):
            try:
                noted = image.getexif().get(0x0112)
            except Exception:  # a broken note, of intact pixels
                noted = None
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(noted)
        w, h = image.size[::-1] if turn in (2, 4, 5, 6) else image.size
        left, upper, right, lower = 0.0, 0.0, float(w), float(h)
        if centre is not None:
            side = centre * min(w, h)
            left, upper = (w - side) / 2, (h - side) / 2
            right, lower = left + side, upper + side
        spare = min((right - left) / width, (lower - upper) / height)
        factor = max((f for f in (2, 4, 8) if f <= spare), default=1)  # JPEGs are decoded smaller
        smaller = image.width // factor, image.height // factor
        if factor == 1 or not image.draft(image.mode, smaller):
            factor = 1
        plain: Any = image
        if background != "none" and image.has_transparency_data:
            plain = Image.new("RGBA", image.size, background)
            plain.alpha_composite(image.convert("RGBA"))
        plain = plain.convert(mode)
        plain = plain if turn is None else plain.transpose(Image.Transpose(turn))
        box = (left / factor, upper / factor, right / factor, lower / factor)
        bands = [b.resize((width, height), Image.Resampling.BILINEAR, box) for b in plain.split()]
        return Image.merge(mode, bands)


def main() -> None:
    """Tells the likeliest classes of one image."""
    if len(sys.argv) != 2:
        print("usage: python model.py IMAGE   (reading images needs pillow)")
        return
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of classes may hold any letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        images = read(sys.argv[1])
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    with torch.inference_mode():
        logits = load()(images)
    shares = logits[0].softmax(0)
    for place in shares.argsort(descending=True)[:5].tolist():
        print(f"{shares[place]:6.1%}  {CLASSES[place]}")


if __name__ == "__main__":
    main()
