"""What a dataset looks like, with nothing decoded."""

from typing import NamedTuple

import numpy as np

from supernet_jax.data import decode, notes, sources
from supernet_jax.data.decode import Encoded
from supernet_jax.errors import UserError


class Survey(NamedTuple):
    """What a dataset looks like.

    Attributes:
        name: of the dataset.
        class_names: by label.
        counts: images of each class, without those of a test part.
        tests: images of its test part; 0 where there is none, so that a fifth of the others is one.
        sizes: (height, width) of the images that were looked at, of arrays one for all.
        channels: 1 or 3 of files (1 if all that were looked at are grey), any number of arrays.
        in_files: whether the images are in files, so that they can be streamed.
        rotated: how many of those looked at note a rotation.
        transparent: how many of those looked at have an alpha channel.
    """

    name: str
    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    tests: int
    sizes: tuple[tuple[int, int], ...]
    channels: int
    in_files: bool
    rotated: int
    transparent: int


def survey(name: str, *, data_dir: str | None = None) -> Survey:
    """Looks at classes and labels, and at the headers of up to 64 images of each part.

    Args:
        name: as of `load`.
        data_dir: as of `load`.

    Raises:
        UserError: as of `load`, as far as that is seen without decoding.
    """
    decode.quiet()
    found = sources.find(name, data_dir=data_dir)
    notes.check_classes(name, found.class_names)
    parts = found.files or found.arrays
    headers = [header for part in found.files for header in decode.headers(part)]
    sizes: tuple[tuple[int, int], ...]
    if found.arrays:
        shape = found.arrays[0].images.shape
        if len(shape) not in (3, 4):
            raise UserError(
                f"{name}: images are {list(shape)}; they must be [N, H, W] or [N, H, W, C]"
            )
        sizes, channels = ((shape[1], shape[2]),), shape[3] if len(shape) == 4 else 1
    else:
        sizes = tuple((header.height, header.width) for header in headers)
        channels = max((header.channels for header in headers), default=3)
    labels = [part.labels() if isinstance(part, Encoded) else part.labels for part in parts]
    counts = [_count(one, len(found.class_names)) for one in labels]
    return Survey(
        name,
        found.class_names,
        tuple(counts[0].tolist()),
        sum(int(count.sum()) for count in counts[1:]),
        sizes,
        channels,
        bool(found.files),
        sum("rotated" in header.odd for header in headers),
        sum("transparent" in header.odd for header in headers),
    )


def _count(labels: np.ndarray, classes: int) -> np.ndarray:
    """Images of each class; labels that are none are refused when the images are read."""
    whole = labels if labels.dtype.kind in "iu" else np.zeros(0, int)
    return np.bincount(whole[(whole >= 0) & (whole < classes)], minlength=classes)
