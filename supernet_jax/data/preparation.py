"""From an image file to the pixels that a network was trained and measured on.

It travels with every extracted network: as data in its description, and as the text of `prepared`
in its card and its PyTorch module, which needs Pillow alone. Pixels are those of `data.decode`, to
the bit.
"""

import dataclasses
import inspect
import os
import typing
from typing import Any

import numpy as np

from supernet_jax.data import decode
from supernet_jax.storage import files

BILINEAR = "bilinear"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What part of an image becomes the network's pixels, and how large.

    Attributes:
        height: of the result, pixels.
        width: likewise.
        centre: None stretches all of an image. Otherwise the square in its middle is taken, whose
            side is this share of the shorter side, in (0, 1].
        filter: by which it is resized, as Pillow calls it: always `BILINEAR`.
        upright: whether an image is turned first, as the rotation that it notes (EXIF) says.
        background: what lies behind transparent pixels, see `decode.Background`; with "none" they
            have the colours that they hide.
    """

    height: int
    width: int
    centre: float | None
    filter: str = BILINEAR
    upright: bool = False
    background: str = "none"

    def __post_init__(self) -> None:
        if not (self.height > 0 and self.width > 0):
            raise ValueError(f"{self.width} x {self.height} pixels are no image")
        if self.centre is not None and not 0 < self.centre <= 1:
            raise ValueError(f"centre is {self.centre}, but must be null or in (0, 1]")
        if self.filter != BILINEAR:
            raise ValueError(f"filter is {self.filter!r}, but only {BILINEAR} is known")
        backgrounds = typing.get_args(decode.Background)
        if self.background not in backgrounds:
            allowed = ", ".join(backgrounds)
            raise ValueError(f"background is {self.background!r}, allowed: {allowed}")

    @property
    def words(self) -> str:
        """In a line."""
        part = "all of it, stretched to"
        if self.centre is not None:
            part = f"the square in its middle, {self.centre:g} of the shorter side, brought to"
        turned = ", upright as EXIF says" if self.upright else ""
        behind = f", over {self.background} where transparent" if self.background != "none" else ""
        return f"{part} {self.width} x {self.height} ({self.filter}){turned}{behind}"


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


def pixels(file: str | os.PathLike, how: Preparation, channels: int) -> np.ndarray:
    """An image file as `how` wants it, uint8 `[height, width, channels]`.

    Args:
        file: that Pillow reads.
        how: what part of it, and how large.
        channels: one of `MODES`.

    Raises:
        UserError: it is missing, not readable, cut short, or no 8-bit image.
    """
    given = (how.width, how.height, MODES[channels], how.centre, how.upright, how.background)
    try:
        image = prepared(file, *given)
    except Exception as error:  # Pillow's decoders raise all sorts; the file is at fault anyway
        of_system = isinstance(error, OSError) and error.errno is not None
        reason = error if of_system else ValueError(str(error))
        raise files.unreadable(file, reason, kind="whole 8-bit image") from error
    return np.asarray(image).reshape(how.height, how.width, channels)


def text() -> str:
    """The function `prepared` as Python text without types."""
    source = inspect.getsource(prepared)
    head = 'def prepared(file, width, height, mode, centre, upright=False, background="none"):\n'
    return head + source[source.index('    """') :].replace(": Any", "")
