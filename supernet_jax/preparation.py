"""From an image file to the pixels that a network was trained and measured on.

It travels with every extracted network: as data in its description, and as the text of `pixels` in
its card, which needs nothing of this library. Pixels are those of `data.decode`, to the bit.
"""

import dataclasses
import inspect
import os

import numpy as np
from PIL import Image

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
    """

    height: int
    width: int
    centre: float | None
    filter: str = BILINEAR

    def __post_init__(self) -> None:
        if not (self.height > 0 and self.width > 0):
            raise ValueError(f"{self.width} x {self.height} pixels are no image")
        if self.centre is not None and not 0 < self.centre <= 1:
            raise ValueError(f"centre is {self.centre}, but must be null or in (0, 1]")
        if self.filter != BILINEAR:
            raise ValueError(f"filter is {self.filter!r}, but only {BILINEAR} is known")

    @property
    def words(self) -> str:
        """In a line."""
        part = "all of an image, stretched to"
        if self.centre is not None:
            part = f"the square in the middle, {self.centre:g} of the shorter side, brought to"
        return f"{part} {self.width} x {self.height} ({self.filter})"


def pixels(file, width, height, mode, centre):  # type: ignore[no-untyped-def]
    """An image file -> uint8 [height, width, channels], as the network was trained and measured."""
    with Image.open(file) as image:
        if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr"):
            raise ValueError(f"{file} has pixels of mode {image.mode}, not of 8 bits")
        w, h = image.size
        left, upper, right, lower = 0.0, 0.0, float(w), float(h)
        if centre is not None:  # the square in the middle, not all of it
            side = centre * min(w, h)
            left, upper = (w - side) / 2, (h - side) / 2
            right, lower = left + side, upper + side
        spare = min((right - left) / width, (lower - upper) / height)
        factor = max((f for f in (2, 4, 8) if f <= spare), default=1)  # JPEGs are decoded smaller
        if factor == 1 or not image.draft(image.mode, (w // factor, h // factor)):
            factor = 1
        box = (left / factor, upper / factor, right / factor, lower / factor)
        bands = image.convert(mode).split()
        small = [band.resize((width, height), Image.Resampling.BILINEAR, box=box) for band in bands]
        return np.stack([np.asarray(band) for band in small], axis=-1)


def read(file: str | os.PathLike, how: Preparation, channels: int) -> np.ndarray:
    """An image file as `how` wants it, uint8 `[height, width, channels]`.

    Args:
        file: that Pillow reads.
        how: what part of it, and how large.
        channels: one of `MODES`.

    Raises:
        UserError: it is missing, not readable, cut short, or no 8-bit image.
    """
    try:
        made: np.ndarray = pixels(file, how.width, how.height, MODES[channels], how.centre)
    except Exception as error:  # Pillow's decoders raise all sorts; the file is at fault anyway
        of_system = isinstance(error, OSError) and error.errno is not None
        reason = error if of_system else ValueError(str(error))
        raise files.unreadable(file, reason, kind="whole 8-bit image") from error
    return made


def text() -> str:
    """The function `pixels` as Python text; it needs `import numpy as np` and Pillow's `Image`."""
    return inspect.getsource(pixels).replace("  # type: ignore[no-untyped-def]", "")
