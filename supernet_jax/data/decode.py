"""Image files on the host: decoded, and brought to one size, as Pillow does it.

Shapes: N images of a part, H x W pixels of C channels (1 for grey).
"""

import errno
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from supernet_jax.data import jpeg
from supernet_jax.errors import UserError

GREY, COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")  # Pillow's 8-bit modes
NAMED = 10  # how many bad files an error names
CHUNK = 64  # images that a thread takes at once
CENTRE = 0.875  # of the shorter side: 224 of 256 pixels
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the image, width by height
LOOKED_AT = 64  # images of a part whose headers are read
LARGE = 89_000_000  # pixels; decoded, such an image takes hundreds of MB
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {  # by its value: what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
REASONS = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "not readable by this user",
    errno.EPERM: "not readable by this user",
    errno.ELOOP: "a link in a circle",
}

Result = TypeVar("Result")
Crop = Literal["stretch", "centre", "random"]
Background = Literal["none", "black", "grey", "white"]
Odd = Literal["rotated", "transparent", "large"]  # what users should be told of their images
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels
Part = Callable[[int, int], Box]  # (width, height) -> which part of an image becomes the square


class Item(NamedTuple):
    """One encoded image."""

    where: str  # what an error calls it
    file: Path | io.BytesIO
    label: int


class How(NamedTuple):
    """How image files become pixels.

    Attributes:
        upright: whether an image is turned as the rotation that it notes (EXIF) says.
        background: what lies behind transparent pixels; with "none" they have the colours that
            they hide.
    """

    upright: bool = False
    background: Background = "none"


AS_THEY_LIE = How()


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    height: int
    width: int
    channels: int  # 1 or 3
    odd: tuple[Odd, ...]  # "transparent" where it has an alpha channel


class Encoded(NamedTuple):
    """A part of a dataset whose images are still to be decoded."""

    title: str
    length: int
    items: Callable[[Sequence[int]], list[Item]]  # those at some places; called by several threads
    labels: Callable[[], np.ndarray]  # int64 [N], without decoding
    identity: Callable[[], str]  # what tells it from other data, without decoding


def quiet() -> None:
    """Keeps Pillow's warnings off the screen: what they are about is counted and said once."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


quiet()  # here for processes of their own, which import this module and decode


def whole(width: int, height: int) -> Box:
    """All of an image, which is stretched."""
    return 0.0, 0.0, float(width), float(height)


def centre(width: int, height: int) -> Box:
    """The square in the middle whose side is 7/8 of the shorter side, as ImageNet is tested."""
    side = CENTRE * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """A random part of an image: 8 % to all of its area, at 3:4 to 4:3 (arXiv:1409.4842, 6).

    Ten are drawn and the first that fits is taken; where none does, the largest allowed in the
    middle.
    """
    area = width * height * rng.uniform(*AREA, 10)
    ratio = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), 10))
    places = rng.uniform(size=2)
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fitting = np.flatnonzero((widths <= width) & (heights <= height))
    if fitting.size:
        w, h = float(widths[fitting[0]]), float(heights[fitting[0]])
    else:
        nearest = float(np.clip(width / height, *RATIO))
        w, h, places = min(width, height * nearest), min(height, width / nearest), np.full(2, 0.5)
    w, h = max(w, min(1.0, width)), max(h, min(1.0, height))
    left, upper = (width - w) * float(places[0]), (height - h) * float(places[1])
    return left, upper, min(left + w, width), min(upper + h, height)


def fixed_part(crop: Crop) -> Part:
    """The part that is taken where nothing is random."""
    return whole if crop == "stretch" else centre


def decode(
    parts: list[Encoded],
    *,
    size: int | None,
    crop: Crop = "stretch",
    how: How = AS_THEY_LIE,
    seen: list[Odd] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decodes every image of every part; a part of each becomes size x size, if that is given.

    What is odd about an image is added to `seen`.

    Returns:
        Images uint8 [N, H, W, C] and labels int64 [N] of each part; C is 1 if all are grey, else 3.

    Raises:
        UserError: naming the images that do not decode, over all parts, or two of different size.
    """
    decoded, bad = [], []
    for part in parts:
        pixels, labels, wrong = _decode_part(part, size=size, crop=crop, how=how, seen=seen)
        decoded.append((pixels, labels))
        bad.extend(wrong)
    refuse(bad)
    first = decoded[0][0][0]
    for part, (pixels, _) in zip(parts, decoded, strict=True):
        for i, image in enumerate(pixels):
            if image.shape[:2] != first.shape[:2]:
                raise UserError(
                    f"{part.items([i])[0].where} is {image.shape[:2]} and "
                    f"{parts[0].items([0])[0].where} {first.shape[:2]} (height, width); all "
                    "must be of one size: pass a size to resize them to"
                )
    colour = any(image.ndim == 3 for pixels, _ in decoded for image in pixels)
    return [
        (np.stack([_channels(p, colour=colour) for p in pixels]), np.array(labels, np.int64))
        for pixels, labels in decoded
    ]


def refuse(bad: list[str]) -> None:
    """Raises a `UserError` that names the images that do not decode, if there are any."""
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(
            f"{len(bad)} images do not decode: {'; '.join(bad[:NAMED])}{more}; every one must be a "
            "whole 8-bit image that this user may read: mend or replace them"
        )


def _channels(image: np.ndarray, *, colour: bool) -> np.ndarray:
    """[H, W] or [H, W, 3] as [H, W, 3] if anything has colour, else [H, W, 1]."""
    if image.ndim == 3:
        return image
    return np.repeat(image[:, :, None], 3 if colour else 1, axis=2)


def _decode_part(
    part: Encoded, *, size: int | None, crop: Crop, how: How, seen: list[Odd] | None
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Pixels and labels of the images that decode, and what is wrong with the others."""
    box = fixed_part(crop)

    def work(at: range) -> list[tuple[np.ndarray | str, int]]:
        return [
            (decode_one(item, size=size, box=box, how=how, seen=seen), item.label)
            for item in part.items(at)
        ]

    results = [
        one for some in in_threads(work, part.length, f"decoding {part.title}") for one in some
    ]
    good = [(pixels, label) for pixels, label in results if not isinstance(pixels, str)]
    wrong = [pixels for pixels, _ in results if isinstance(pixels, str)]
    return [pixels for pixels, _ in good], [label for _, label in good], wrong


def in_threads(work: Callable[[range], Result], length: int, what: str) -> Iterator[Result]:
    """The results of `work` on chunks of 0..length-1, in order; with a bar if there are many."""
    chunks = [range(i, min(i + CHUNK, length)) for i in range(0, length, CHUNK)]
    console = Console(stderr=True)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        yield from track(
            pool.map(work, chunks),
            description=what,
            total=len(chunks),
            console=console,
            transient=True,
            disable=length < 5000 or not console.is_terminal,
        )


def decode_one(
    item: Item,
    *,
    size: int | None,
    box: Part = whole,
    mode: str | None = None,
    how: How = AS_THEY_LIE,
    seen: list[Odd] | None = None,
) -> np.ndarray | str:
    """One image, or in one line why not.

    Args:
        item: the image.
        size: pixels of the square that a part of it becomes; None leaves it as it is.
        box: which part that is.
        mode: "L" or "RGB"; None takes the image's own.
        how: whether it is turned, and what lies behind it.
        seen: what is odd about it is added; "rotated" also where it is turned.

    Returns:
        uint8 [H, W] or [H, W, 3].
    """
    try:
        content = item.file.read_bytes() if isinstance(item.file, Path) else item.file.getvalue()
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in GREY + COLOUR:
                return f"{item.where} (pixels of mode {image.mode}, not of 8 bits)"
            mode = mode or ("L" if image.mode in GREY else "RGB")
            odd: list[Odd] = ["large"] * (image.width * image.height > LARGE)
            noted = _orientation(image) if how.upright or seen is not None else 1
            odd += ["rotated"] * (noted != 1)
            turn = TURNS.get(noted) if how.upright else None
            sides = image.size[::-1] if how.upright and noted >= 5 else image.size
            place = None if size is None else _shrink(image, box(*sides), size)
            if size is not None and place is not None and mode == "RGB" and turn is None:
                square = jpeg.square(content, image, place, size)
                if square is not None:
                    if seen is not None:
                        seen += odd
                    return square
            if _has_transparency(image):
                plain, through = _laid_over(image, how.background)
                odd += ["transparent"] * through
            else:
                plain = image
            plain = plain if plain.mode == mode else plain.convert(mode)
            plain = plain if turn is None else plain.transpose(turn)
            if size is not None:
                plain = plain.resize((size, size), Image.Resampling.BILINEAR, box=place)
            shape = (plain.height, plain.width) + ((3,) if mode == "RGB" else ())
            # twice as fast as np.asarray(image) on small images
            pixels = np.frombuffer(plain.tobytes(), np.uint8).reshape(shape)
            if seen is not None:
                seen += odd
            return pixels
    except UnidentifiedImageError:
        empty = isinstance(item.file, Path) and item.file.stat().st_size == 0
        return f"{item.where} ({'empty, so it was cut short' if empty else 'not an image'})"
    except Exception as error:  # Pillow's decoders raise all sorts; the file is at fault anyway
        return f"{item.where} ({_reason(error)})"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return REASONS.get(error.errno, f"could not be read: {error.strerror}")
    return str(error).partition("\n")[0] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """Which rotation an image notes: 2 to 8 as in EXIF, 1 for none."""
    # Pillow would decode all of a PNG to look for notes behind its pixels.
    if image.format == "PNG" and not {"exif", "xmp", "Raw profile type exif"} & image.info.keys():
        return 1
    try:
        noted = image.getexif().get(ORIENTATION)
    except Exception:  # a broken note raises all sorts, and says nothing about the pixels
        return 1
    return noted if isinstance(noted, int) and noted in TURNS else 1


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("LA", "RGBA") or "transparency" in image.info


def _laid_over(image: Image.Image, background: Background) -> tuple[Image.Image, bool]:
    """An image over a background, and whether that shows through anywhere."""
    layered = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    through = layered.getchannel("A").getextrema()[0] != 255
    if background == "none" or not through:
        return image, through
    below = Image.new("RGBA", image.size, background)
    below.alpha_composite(layered.convert("RGBA"))
    return below, through


def _shrink(image: Image.Image, box: Box, size: int) -> Box:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8 where the box keeps `size` pixels. Returns the box."""
    spare = min(box[2] - box[0], box[3] - box[1]) / size
    factor = max((f for f in (2, 4, 8) if f <= spare), default=1)
    if factor == 1 or not image.draft(image.mode, (image.width // factor, image.height // factor)):
        return box
    left, upper, right, lower = (edge / factor for edge in box)
    return left, upper, right, lower


def resize(images: np.ndarray, size: int | None, *, crop: Crop = "stretch") -> np.ndarray:
    """A part of every image of [N, H, W, C] stretched to size x size, channel by channel."""
    height, width = images.shape[1:3]
    box = fixed_part(crop)(width, height)
    if size is None or ((height, width) == (size, size) and crop == "stretch"):
        return images
    out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for i, c in np.ndindex(len(images), images.shape[3]):
        image = Image.fromarray(np.ascontiguousarray(images[i, :, :, c]))
        small = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        out[i, :, :, c] = np.asarray(small)
    return out


def header(item: Item) -> Header | None:
    """What a file says of its image, undecoded; None where it cannot be told."""
    try:
        with Image.open(item.file) as image:
            odd: list[Odd] = ["rotated"] * (_orientation(image) != 1)
            odd += ["transparent"] * _has_transparency(image)
            odd += ["large"] * (image.width * image.height > LARGE)
            channels = 1 if image.mode in GREY else 3
            return Header(image.height, image.width, channels, tuple(odd))
    except Exception:  # it will be named when it is decoded
        return None


def headers(part: Encoded) -> list[Header]:
    """Headers of some images, evenly spread, of those that can be told."""
    places = np.linspace(0, part.length - 1, min(part.length, LOOKED_AT)).astype(int)
    found = [header(item) for item in part.items(places.tolist())]
    return [one for one in found if one is not None]
