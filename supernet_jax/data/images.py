"""Examples and their labels, in memory or left in their files until they are asked for."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.data import decode
from supernet_jax.data.decode import AS_THEY_LIE, Crop, Encoded, How, Part
from supernet_jax.data.text import Windows


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """Images in files. Indexed like an array of images, it decodes those that are asked for.

    Attributes:
        source: the files.
        places: int64 [N], which of them these are.
        size: pixels of the square that a part of each becomes.
        channels: 1 or 3; the others are converted.
        crop: which part. What is random is for training batches alone: indexing takes the middle.
        how: whether they are turned, and what lies behind them.
    """

    source: Encoded
    places: np.ndarray
    size: int
    channels: int
    crop: Crop
    how: How = AS_THEY_LIE

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return len(self.places), self.size, self.size, self.channels

    def __getitem__(self, key: Any) -> np.ndarray:
        """uint8 [n, H, W, C] of a slice or an array of indices.

        Raises:
            UserError: naming the images that do not decode.
        """
        chosen = select_stored(self, np.arange(len(self.places))[key])
        out = np.empty(chosen.shape, np.uint8)
        parts = decode.in_threads(chosen._read_range, len(out), f"decoding {self.source.title}")
        start, bad = 0, []
        for pixels, wrong in parts:
            out[start : start + len(pixels)] = pixels
            start += len(pixels)
            bad += wrong
        decode.refuse(bad)
        return out

    def read(
        self, indices: Sequence[int] | np.ndarray, parts: Sequence[Part]
    ) -> tuple[np.ndarray, list[str]]:
        """Decodes some images in the calling thread.

        Args:
            indices: n of 0..N-1.
            parts: of each image, which part is taken.

        Returns:
            uint8 [n, H, W, C], and what is wrong with those that do not decode, which are black.
        """
        pixels = np.zeros((len(indices), *self.shape[1:]), np.uint8)
        bad = []
        mode = "L" if self.channels == 1 else "RGB"
        items = self.source.items([int(place) for place in self.places[np.asarray(indices)]])
        for out, item, part in zip(pixels, items, parts, strict=True):
            image = decode.decode_one(item, size=self.size, box=part, mode=mode, how=self.how)
            if isinstance(image, str):
                bad.append(image)
            else:
                out[:] = image.reshape(out.shape)
        return pixels, bad

    def _read_range(self, indices: range) -> tuple[np.ndarray, list[str]]:
        return self.read(indices, [decode.fixed_part(self.crop)] * len(indices))


Pixels = np.ndarray | Stored


class Images(NamedTuple):
    """Some labelled images; or windows of text, and the bytes that follow each of theirs; or pairs
    of sentences, and the bytes of the second.
    """

    images: Pixels | Windows  # uint8 [N, H, W, C]; of text [N, T], of pairs [N, S + T]
    labels: Any  # an array, int32 [N], of pairs [N, T]; of text `Windows`, [N, T]


class Found(NamedTuple):
    """What a source has: training images and perhaps test images, as arrays or as files.

    Attributes:
        arrays: the parts, where they come as arrays.
        files: the parts, where they come as files.
        class_names: by label.
        notes: what users should be told, one line each.
    """

    arrays: list[Images]
    files: list[Encoded]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def select(images: Images, places: np.ndarray) -> Images:
    """Some of the examples, in this order; nothing is read or decoded."""
    pixels, labels = images
    own = labels.select(places) if isinstance(labels, Windows) else labels[places]
    if isinstance(pixels, Stored):
        return Images(select_stored(pixels, places), own)
    return Images(pixels.select(places) if isinstance(pixels, Windows) else pixels[places], own)


def select_stored(images: Stored, places: np.ndarray) -> Stored:
    """Some of the stored images, in this order."""
    return dataclasses.replace(images, places=images.places[places])


def leave_stored(
    part: Encoded, *, size: int, channels: int, crop: Crop, how: How = AS_THEY_LIE
) -> Images:
    """A part whose images stay in their files; its labels are read."""
    places = np.arange(part.length)
    return Images(Stored(part, places, size, channels, crop, how), part.labels())
