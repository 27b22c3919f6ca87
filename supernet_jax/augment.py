"""Pixels: decoded from files, then normalised, cropped and mirrored on the device.

The first half is NumPy and Pillow on the host, the second JAX inside jit. Shapes: N images of a
part, B of a batch, H x W pixels of C channels (1 for grey).
"""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from supernet_jax.errors import UserError

Array = jax.Array

GREY, COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")  # Pillow's 8-bit modes
NAMED = 10  # how many bad files an error names


class Item(NamedTuple):
    """One encoded image."""

    where: str  # what an error calls it
    file: Path | io.BytesIO
    label: int


class Encoded(NamedTuple):
    """A part whose images are still to be decoded."""

    title: str
    length: int
    items: Callable[[range], list[Item]]  # those at some places; called from several threads


def decode(parts: list[Encoded], *, size: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decode every image of every part; each is stretched to size x size, if that is given.

    Returns:
        Images uint8 [N, H, W, C] and labels int64 [N] of each part; C is 1 if all are grey, else 3.

    Raises:
        UserError: naming the images that do not decode, over all parts, or two of different size.
    """
    decoded, bad = [], []
    for part in parts:
        if not part.length:
            raise UserError(f"{part.title} has no image; every part needs some: add images")
        pixels, labels, wrong = _decode_part(part, size=size)
        decoded.append((pixels, labels))
        bad.extend(wrong)
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(
            f"{len(bad)} images do not decode: {'; '.join(bad[:NAMED])}{more}; every one must be a "
            "whole 8-bit image: replace or remove them"
        )
    first = decoded[0][0][0]
    for part, (pixels, _) in zip(parts, decoded, strict=True):
        for i, image in enumerate(pixels):
            if image.shape[:2] != first.shape[:2]:
                raise UserError(
                    f"{part.items(range(i, i + 1))[0].where} is {image.shape[:2]} and "
                    f"{parts[0].items(range(1))[0].where} {first.shape[:2]} (height, width); all "
                    "must be of one size: pass a size to resize them to"
                )
    colour = any(image.ndim == 3 for pixels, _ in decoded for image in pixels)
    return [
        (np.stack([_channels(p, colour=colour) for p in pixels]), np.array(labels, np.int64))
        for pixels, labels in decoded
    ]


def _channels(image: np.ndarray, *, colour: bool) -> np.ndarray:
    """[H, W] or [H, W, 3] as [H, W, 3] if anything has colour, else [H, W, 1]."""
    if image.ndim == 3:
        return image
    return np.repeat(image[:, :, None], 3 if colour else 1, axis=2)


def _decode_part(
    part: Encoded, *, size: int | None
) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Pixels and labels of the images that decode, and what is wrong with the others."""

    def work(at: range) -> list[tuple[np.ndarray | str, int]]:
        return [(_decode_one(item, size=size), item.label) for item in part.items(at)]

    chunk = 64
    chunks = [range(i, min(i + chunk, part.length)) for i in range(0, part.length, chunk)]
    console = Console(stderr=True)
    quiet = part.length < 5000 or not console.is_terminal
    results: list[tuple[np.ndarray | str, int]] = []
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for done in track(
            pool.map(work, chunks),
            description=f"decoding {part.title}",
            total=len(chunks),
            console=console,
            transient=True,
            disable=quiet,
        ):
            results.extend(done)
    good = [(pixels, label) for pixels, label in results if not isinstance(pixels, str)]
    wrong = [pixels for pixels, _ in results if isinstance(pixels, str)]
    return [pixels for pixels, _ in good], [label for _, label in good], wrong


def _decode_one(item: Item, *, size: int | None) -> np.ndarray | str:
    """uint8 [H, W] or [H, W, 3], or in one line why not."""
    try:
        with Image.open(item.file) as image:
            if image.mode not in GREY + COLOUR:
                return f"{item.where} (pixels of mode {image.mode}, not of 8 bits)"
            mode = "L" if image.mode in GREY else "RGB"
            plain = image if image.mode == mode else image.convert(mode)
            if size is not None and plain.size != (size, size):
                plain = plain.resize((size, size), Image.Resampling.BILINEAR)
            shape = (plain.height, plain.width) + ((3,) if mode == "RGB" else ())
            # twice as fast as np.asarray(image) on small images
            return np.frombuffer(plain.tobytes(), np.uint8).reshape(shape)
    except UnidentifiedImageError:
        return f"{item.where} (not an image)"
    except Exception as error:  # Pillow's decoders raise all sorts; the file is at fault anyway
        return f"{item.where} ({str(error).partition(chr(10))[0] or type(error).__name__})"


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """Every image of [N, H, W, C] stretched to size x size, channel by channel."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for i, c in np.ndindex(len(images), images.shape[3]):
        image = Image.fromarray(np.ascontiguousarray(images[i, :, :, c]))
        out[i, :, :, c] = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return out


def normalise(
    images: Array, *, mean: tuple[float, ...], std: tuple[float, ...], dtype: Any = jnp.float32
) -> Array:
    """Pixels as numbers around zero: `(image / 255 - mean) / std`, computed in float32.

    Args:
        images: uint8 [..., H, W, C].
        mean: C numbers, of pixels in 0..1.
        std: C numbers, of pixels in 0..1, above 0.
        dtype: of the result.

    Returns:
        [..., H, W, C] of `dtype`.
    """
    chex.assert_axis_dimension(images, -1, len(mean))
    shape = (1,) * (images.ndim - 1) + (len(mean),)
    scale = (1 / (255 * np.array(std))).astype(np.float32).reshape(shape)
    shift = (-np.array(mean) / np.array(std)).astype(np.float32).reshape(shape)
    return (images.astype(jnp.float32) * scale + shift).astype(dtype)


def augment(images: Array, key: Array, example_ids: Array, *, pad: int, flip: bool) -> Array:
    """Crop each image at random out of itself with a border of zeros, then maybe mirror it.

    The crop and the flip of an example depend on `key` and its id alone: not on its place in the
    batch, the rest of the batch or the number of devices. A key made from (seed, step) makes them
    a function of (seed, step, example).

    Args:
        images: uint8 [B, H, W, C].
        key: one typed key, consumed here.
        example_ids: int32 [B], for instance each image's index in the training data. Two copies
            of an id in one batch are treated alike.
        pad: width of the border; the crop moves by -pad..pad pixels on each axis, uniformly.
        flip: whether to mirror left and right with probability 1/2.

    Returns:
        uint8 [B, H, W, C].

    Raises:
        UserError: if the border is negative, or wide enough for a crop without any image in it.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    _, height, width, _ = images.shape
    if not 0 <= pad < min(height, width):
        raise UserError(
            f"crops with pad={pad} were asked of {height} x {width} images; allowed are 0 to "
            f"{min(height, width) - 1}: lower pad"
        )

    def draw(example_id: Array) -> Array:
        # bits modulo 2 pad + 1 are uniform to one part in 1e8, and cheaper than `randint`
        bits = jax.random.bits(jax.random.fold_in(key, example_id), (3,), jnp.uint32)
        return (bits % np.array([2 * pad + 1, 2 * pad + 1, 2], np.uint32)).astype(jnp.int32)

    down, right, coin = jax.vmap(draw)(example_ids).T
    rows = jnp.arange(height)[None, :] + (down - pad)[:, None]
    columns = jnp.arange(width)[None, :]
    if flip:
        columns = jnp.where(coin[:, None] == 1, width - 1 - columns, columns)
    columns = columns + (right - pad)[:, None]
    return _pixels_at(images, rows, columns)


def _pixels_at(images: Array, rows: Array, columns: Array) -> Array:
    """Each image at its own rows and columns, 0 where they lie outside it.

    One gather per axis and one mask for both: on a CPU faster than `vmap` of `dynamic_slice`, a
    mask per gather, one-hot products, or selecting among shifted images (by far the slowest).

    Args:
        images: [B, H, W, C].
        rows: int [B, H].
        columns: int [B, W].
    """
    _, height, width, _ = images.shape
    taken = jnp.take_along_axis(images, jnp.clip(rows, 0, height - 1)[:, :, None, None], axis=1)
    taken = jnp.take_along_axis(taken, jnp.clip(columns, 0, width - 1)[:, None, :, None], axis=2)
    rows_inside, columns_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = rows_inside[:, :, None, None] & columns_inside[:, None, :, None]
    return jnp.where(inside, taken, jnp.zeros((), images.dtype))
