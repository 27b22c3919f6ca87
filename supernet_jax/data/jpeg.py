"""Colour JPEGs decoded and resized in about three fifths of Pillow's time, to the same pixels.

libjpeg-turbo decodes, through simplejpeg, and a compiled kernel resizes the part that is wanted.
Both do what Pillow does, in the same integers. So nothing needs to be recorded of which of them
made an image: it is the same to the bit, and a process that has neither uses Pillow.
"""

import ctypes
import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from supernet_jax.runtime import native

try:
    import simplejpeg
except ImportError:  # there is no wheel for this platform
    simplejpeg = None

FORMATS = ("JPEG", "MPO")  # the latter begins with a JPEG, which is the one that Pillow shows
SMALLEST = 16  # pixels of a side, below which two scales of a JPEG may have the same size

Box = tuple[float, float, float, float]


def square(content: bytes, image: Image.Image, box: Box, size: int) -> np.ndarray | None:
    """A part of a JPEG as a square; None where that is left to Pillow, broken files among others.

    Args:
        content: the file.
        image: what Pillow opened of it, not yet decoded. `draft` may have made it smaller.
        box: left, upper, right, lower, in pixels of `image`, inside it.
        size: pixels of a side of the square.

    Returns:
        uint8 [size, size, 3], the pixels of `image.resize` with the bilinear filter.
    """
    if image.format not in FORMATS or image.mode != "RGB" or min(image.size) < SMALLEST:
        return None
    width, height = image.size
    # Then Pillow 13 resizes columns before rows, which rounds otherwise.
    if height - size > max(0, 2 * (width - size)):
        return None
    return _square(content, width, height, box, size) if usable() else None


@functools.cache
def usable() -> bool:
    """Whether both are there and give Pillow's pixels, which is tried once, on noise."""
    if simplejpeg is None or _kernel() is None:
        return False
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 81, 3), np.uint8))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        file = io.BytesIO()
        noise.save(file, "JPEG", quality=90, subsampling=subsampling)
        for scale, box in ((1, (3.2, 5.1, 70.4, 58.3)), (2, (0.0, 0.5, 41.0, 29.7))):
            with Image.open(file) as image:
                image.draft("RGB", (image.width // scale, image.height // scale))
                own = _square(file.getvalue(), *image.size, box, 25)
                wanted = image.resize((25, 25), Image.Resampling.BILINEAR, box=box)
            if own is None or own.tobytes() != wanted.tobytes():
                return False
    return True


def _square(content: bytes, width: int, height: int, box: Box, size: int) -> np.ndarray | None:
    """As `square`, of an image that is decoded to width x height pixels; None if it is broken."""
    kernel = _kernel()
    assert kernel is not None
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=height, min_width=width)
    except ValueError:  # also where libjpeg only warns: Pillow knows what is bearable
        return None
    if pixels.shape != (height, width, 3):
        return None
    made, edges = np.empty((size, size, 3), np.uint8), np.array(box, np.float32)
    kernel(pixels.ctypes.data, height, width, edges.ctypes.data, size, made.ctypes.data)
    return made


@functools.cache
def _kernel() -> Callable[..., int] | None:
    """`SupernetResize`; None where it was not built, or is not for this machine."""
    library = native.handle()
    if library is None or not library.SupernetCanResize():
        return None
    kernel = library.SupernetResize
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, whole, whole, pointer, whole, pointer]
    kernel.restype = None
    return kernel
