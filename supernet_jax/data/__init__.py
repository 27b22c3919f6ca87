"""Labelled images, speech and text: reading, splitting and batching them, all on the host.

Shapes: N images of a part, H x W pixels, C channels (1 for grey), B images of a batch. Pixels are
uint8 in 0..255, labels int32 in 0..classes-1.

A dataset goes `read` (train and test as they come) -> `load` (a held-out part is taken out of
train) -> `feed` (batches of training images), `padded_batches`, `calibration_subset`. Small sets
are held in memory, decoded; of large ones only names and labels are, see `Storage`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from supernet_jax.data import decode, notes, pairs, sources, speech, splits, text, token_ids
from supernet_jax.data.batches import batch_indices, calibration_subset, padded_batches, shuffled
from supernet_jax.data.dataset import Dataset, Source, Tokens
from supernet_jax.data.decode import Background, Crop, Encoded, Header, How, Odd
from supernet_jax.data.feeding import Examples, Reading, feed
from supernet_jax.data.images import Found, Images, Stored, leave_stored, select
from supernet_jax.data.pairs import Pairs
from supernet_jax.data.settings import Data
from supernet_jax.data.speech import Speech
from supernet_jax.data.splits import SPLIT, random_stream, second_part
from supernet_jax.data.survey import Survey, survey
from supernet_jax.errors import UserError, near
from supernet_jax.storage import arrays as archive
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded

__all__ = [
    "Background",
    "Crop",
    "Data",
    "Dataset",
    "Examples",
    "Images",
    "Pairs",
    "Reading",
    "Source",
    "Speech",
    "Storage",
    "Stored",
    "Survey",
    "Tokens",
    "arrays",
    "batch_indices",
    "calibration_subset",
    "feed",
    "kind",
    "load",
    "pack",
    "padded_batches",
    "read",
    "second_part",
    "shuffled",
    "survey",
]

Storage = Literal["auto", "memory", "stream"]
Kind = Literal["images", "speech", "text", "ids of tokens"]
MEMORY = 4 * 2**30  # bytes of decoded images above which `auto` leaves them in their files
TEST_SEED = 0  # of the fifth set aside where a source has no test images of its own


def kind(name: str, *, data_dir: str | None = None) -> Kind:
    """What the examples of a dataset are, by its name, or by what its files are."""
    if text.is_text(name):
        return "text"
    if name.partition(":")[0] == "ids":
        return "ids of tokens"
    return "speech" if speech.is_speech(name, data_dir=data_dir) else "images"


def load(
    name: str,
    *,
    data_dir: str | None = None,
    held_out: float | int,
    seed: int,
    length: int | None = None,
    size: int | None = None,
    storage: Storage = "auto",
    crop: Crop = "stretch",
    upright: bool = False,
    background: Background = "none",
) -> Dataset:
    """A dataset with its held-out part taken from the training data, stratified by class; text by
    file.

    Args:
        name: `digits`, `tfds:NAME`, `folder:PATH` or `npz:PATH`, see docs/data.md; or
            `source:stdlib`, `text:PATH` or `ids:PATH`, see docs/text.md; or `source:reversal` or
            `pairs:FILE`, see docs/translation.md.
        data_dir: where TFDS has its prepared data; where a relative PATH starts.
        held_out: a fraction in (0, 1) or a number of images of the training data.
        seed: of the held-out split, at least 0. The test part does not depend on it.
        length: of an example: of text bytes, None for 256; of pairs those of each side with its
            end, None for 64; of speech frames, None for 300. What follows is for images alone.
        size: every image becomes size x size.
        storage: `memory` decodes everything now; `stream` leaves images in their files until they
            are needed; `auto` streams where `memory` would take more than 4 GiB, or where crops
            are random.
        crop: which part of an image becomes the square: all of it (`stretch`), the middle
            (`centre`), or, in training batches, a random part (`random`; the middle elsewhere).
        upright: whether image files are turned as the rotation noted in them (EXIF) says.
        background: what lies behind transparent pixels of image files; with `none` they have the
            colours that they hide.

    Raises:
        UserError: for an unknown name, data that is missing, broken or of the wrong kind, one
            class alone, or a held-out part that leaves a class without a training image.
    """
    if seed < 0:
        raise UserError(f"the seed of the held-out split is {seed}; give one of at least 0")
    what = kind(name, data_dir=data_dir)
    if what == "speech":
        parts = speech.load(name, data_dir=data_dir, held_out=held_out, seed=seed, length=length)
        return Dataset(name, mean=(), std=(), **parts._asdict())
    if pairs.is_pairs(name):
        return _pairs(name, data_dir, held_out, seed, pairs.LENGTH if length is None else length)
    if what == "text":
        return _text(name, data_dir, held_out, seed, text.LENGTH if length is None else length)
    if what == "ids of tokens":
        return _sequences(name, data_dir, held_out, seed)
    source = read(
        name,
        data_dir=data_dir,
        size=size,
        storage=storage,
        crop=crop,
        upright=upright,
        background=background,
    )
    count = splits.count(held_out, source.train.labels, what="held_out")
    train, part = splits.split(source.train, count, rng=random_stream(seed, SPLIT))
    mean, std = splits.statistics(splits.sample(train))
    about = (source.class_names, seed)
    fingerprint = splits.fingerprint(train, part, source.test, about=about)
    labels = (train.labels, part.labels, source.test.labels)
    return Dataset(
        name,
        train,
        part,
        source.test,
        source.class_names,
        mean,
        std,
        fingerprint,
        (*source.notes, *notes.thin(name, source.class_names, *labels)),
    )


def _text(name: str, data_dir: str | None, held_out: float, seed: int, length: int) -> Dataset:
    """Text, split by file; its held-out windows are in random order."""
    if length < 1:
        raise UserError(f"an example has {length} bytes; give a length of at least 1")
    found = text.find(name, data_dir=data_dir, held_out=held_out, seed=seed)
    train, part, test = (
        Images(*text.windows(own, length, what=f"the {which} part of {name}"))
        for which, own in found.parts.items()
    )
    order = random_stream(seed, SPLIT).permutation(len(part.labels))
    about = repr((found.digest, held_out, seed, length)).encode()
    return Dataset(
        name,
        train,
        select(part, order),
        test,
        class_names=(),
        mean=(),
        std=(),
        fingerprint=hashlib.sha256(about).hexdigest()[:16],
        tokens=Tokens(text.VOCABULARY, length),
    )


def _sequences(name: str, data_dir: str | None, held_out: float | int, seed: int) -> Dataset:
    """Sequences of tokens with labels, split as images are."""
    whole, test, classes = token_ids.find(name, data_dir=data_dir)
    count = splits.count(held_out, whole.labels, what="held_out", things="sequences")
    train, part = splits.split(whole, count, rng=random_stream(seed, SPLIT))
    return Dataset(
        name,
        train,
        part,
        test,
        classes,
        mean=(),
        std=(),
        fingerprint=splits.fingerprint(train, part, test, about=(classes, seed)),
        tokens=Tokens(token_ids.vocabulary(whole, test), whole.images.shape[1]),
    )


def _pairs(name: str, data_dir: str | None, held_out: float, seed: int, length: int) -> Dataset:
    """Pairs of sentences, split by their sources; those held out are in random order."""
    found = pairs.find(name, data_dir=data_dir, held_out=held_out, seed=seed, length=length)
    part = found.parts["held-out"]
    about = repr((found.digest, held_out, seed, length)).encode()
    return Dataset(
        name,
        found.parts["train"],
        select(part, random_stream(seed, SPLIT).permutation(len(part.labels))),
        found.parts["test"],
        class_names=(),
        mean=(),
        std=(),
        fingerprint=hashlib.sha256(about).hexdigest()[:16],
        tokens=Pairs(text.VOCABULARY, length, length),
    )


def read(
    name: str,
    *,
    data_dir: str | None = None,
    size: int | None = None,
    storage: Storage = "auto",
    crop: Crop = "stretch",
    upright: bool = False,
    background: Background = "none",
) -> Source:
    """A dataset as it comes, checked; where it has no test part, a fixed fifth becomes one.

    Args and errors are those of `load`.
    """
    if size is not None and size < 1:
        raise UserError(f"images cannot be resized to {size} pixels; give a size of at least 1")
    if size is None and crop != "stretch":
        raise UserError(f"a {crop} crop needs a size to bring it to; give one, as size=224")
    decode.quiet()
    found = sources.find(name, data_dir=data_dir)
    how = How(upright, background)
    return _read_found(name, found, size=size, storage=storage, crop=crop, how=how)


def _read_found(
    name: str, found: Found, *, size: int | None, storage: Storage, crop: Crop, how: How
) -> Source:
    class_names = found.class_names
    told: list[str] = []
    if found.files:
        notes.check_classes(name, class_names)
        parts, told = _from_files(name, found.files, size=size, storage=storage, crop=crop, how=how)
    else:
        if how.upright or how.background != "none":
            asked = "upright" if how.upright else f"background {how.background}"
            raise UserError(
                f"{name} comes as an array of pixels, without the notes of image files, so "
                f"`{asked}` is not possible; it is for tfds:NAME and folder:PATH"
            )
        parts = _from_arrays(name, found.arrays, storage=storage, crop=crop)
    train = _checked(parts[0], f"{name}, train", classes=len(class_names))
    notes.check_classes(name, class_names)
    absent = np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0)
    if absent.size:
        raise UserError(
            f"{name}: class {class_names[absent[0]]!r} (label {absent[0]}) has no training image; "
            "every class needs one: add images, or number the labels without gaps"
        )
    if len(parts) == 1:
        count = splits.count(
            0.2,
            train.labels,
            what=f"{name} has no test part, and the fifth of its images that becomes one,",
            remedy="add images, or a test part of your own",
        )
        train, test = splits.split(train, count, rng=random_stream(TEST_SEED, SPLIT))
    else:
        test = parts[1]
    test = _checked(test, f"{name}, test", classes=len(class_names))
    if found.arrays:
        train, test = (_resized(part, size, crop) for part in (train, test))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{name}: training images are {train.images.shape[1:]} and test images "
            f"{test.images.shape[1:]} (height, width, channels); they must agree: pass a size, or "
            "convert one of them"
        )
    return Source(train, test, class_names, (*found.notes, *told))


def pack(
    name: str,
    path: str,
    *,
    data_dir: str | None = None,
    size: int | None = None,
    upright: bool = False,
    background: Background = "none",
) -> None:
    """Write a dataset, decoded, as an npz file that `load("npz:PATH")` reads in a moment.

    The parts and the fingerprint are then the same. The file appears whole or not at all.

    Args and errors are those of `load`; also a UserError if there is such a file already, or it
    cannot be written.
    """
    place = expanded(path)
    if place.exists():
        raise UserError(f"{path} exists already; choose another place for the decoded copy")
    if not files.may_hold(place.absolute().parent):
        raise UserError(f"there is no folder {place.parent}; make it or choose another place")
    source = read(
        name,
        data_dir=data_dir,
        size=size,
        storage="memory",
        upright=upright,
        background=background,
    )
    archive.write(place, _content(source))


def arrays(
    images: Any,
    labels: Any,
    *,
    test: tuple[Any, Any] | None = None,
    class_names: Sequence[str] | None = None,
    folder: str | os.PathLike[str] = "data",
    **fields: Any,
) -> Data:
    """The `data` of a configuration that are arrays in memory.

    They are written whole into one file, named by what they hold, which the configuration names: a
    run that was trained on them needs it to be opened again.

    Args:
        images: uint8 `[N, H, W]` or `[N, H, W, C]`, 0..255.
        labels: integers `[N]`, 0..classes-1; every class has a training image.
        test: images and labels for final figures. Without, a fifth of each class is set aside.
        class_names: one for each label; without, they are numbers.
        folder: where the file is written; made if need be.
        **fields: further fields of `Data`, as `held_out=0.2` or `flip=True`.

    Raises:
        UserError: arrays of another kind, labels without an image, or a folder that cannot be
            written to.
    """
    if test is not None and not (isinstance(test, tuple | list) and len(test) == 2):
        raise UserError("test must be (images, labels), for final figures, or None")
    if class_names is not None:
        _check_class_names(class_names)
    known = {field.name for field in dataclasses.fields(Data)} - {"name"}
    for unknown in fields.keys() - known:
        raise UserError(f"{unknown} is no field of Data{near(unknown, known)}")
    given = [(images, labels)] if test is None else [(images, labels), test]
    try:
        given = [(np.asarray(pixels), np.asarray(numbers)) for pixels, numbers in given]
    except ValueError as error:  # images of several sizes
        raise UserError(
            f"the given images are no array [N, H, W, C]: {error}; bring them to one size"
        ) from None
    parts = [Images(pixels, numbers) for pixels, numbers in given]
    names = sources.class_names(parts[0].labels) if class_names is None else tuple(class_names)
    how = How(upright=False, background="none")
    found = Found(parts, [], tuple(map(str, names)))
    content = _content(
        _read_found("the given arrays", found, size=None, storage="memory", crop="stretch", how=how)
    )
    digest = hashlib.sha256()
    for name, array in content.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    path = expanded(folder).absolute() / f"{digest.hexdigest()[:16]}.npz"
    files.make_folder(path.parent)
    if not path.exists():
        archive.write(path, content)
    return Data(name=f"npz:{path}", **fields)


def _check_class_names(names: Any) -> None:
    """Raises a `UserError` unless they are a sequence of different texts."""
    is_list = isinstance(names, Sequence) and not isinstance(names, str | bytes)
    if not is_list or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(
            f"class_names is {names!r}, but must be a list of texts, one for each label"
        )
    if len(set(names)) < len(names):
        raise UserError(f"class_names has a name twice: {list(names)}")


def _content(source: Source) -> dict[str, np.ndarray]:
    """What an npz file of the whole source holds."""
    return {
        "x_train": source.train.images[:],
        "y_train": source.train.labels,
        "x_test": source.test.images[:],
        "y_test": source.test.labels,
        "class_names": np.array(source.class_names),
    }


# --- in memory or not -----------------------------------------------------------------------


def _from_files(
    name: str, parts: list[Encoded], *, size: int | None, storage: Storage, crop: Crop, how: How
) -> tuple[list[Images], list[str]]:
    """The parts, and what users should be told of them."""
    for part in parts:
        if not part.length:
            raise UserError(f"{part.title} has no image; every part needs some: add images")
    if not _left_in_files(name, parts, size=size, storage=storage, crop=crop):
        odd: list[Odd] = []
        decoded = decode.decode(parts, size=size, crop=crop, how=how, seen=odd)
        total = sum(part.length for part in parts)
        return [Images(*part) for part in decoded], notes.odd(name, odd, total, total, how)
    if size is None:
        raise UserError(
            f"{name} is to be streamed, for which all images must be of one size; give it, as "
            "--data.size 224"
        )
    seen = [header for part in parts for header in decode.headers(part)]
    channels = max((header.channels for header in seen), default=3)
    stored = [
        leave_stored(part, size=size, channels=channels, crop=crop, how=how) for part in parts
    ]
    odd = [one for header in seen for one in header.odd]
    return stored, notes.odd(name, odd, len(seen), sum(part.length for part in parts), how)


def _left_in_files(
    name: str, parts: list[Encoded], *, size: int | None, storage: Storage, crop: Crop
) -> bool:
    if storage == "memory" and crop == "random":
        raise UserError(
            f"{name} cannot be held in memory with random crops, which need the whole files; use "
            "storage `stream` or `auto`, or crop `centre`"
        )
    if storage != "auto":
        return storage == "stream"
    height, width, channels, _ = next(iter(decode.headers(parts[0])), Header(1, 1, 3, ()))
    pixels = size * size if size is not None else height * width
    total = sum(part.length for part in parts) * pixels * channels
    if crop != "random" and total > MEMORY and size is None:
        raise UserError(
            f"{name} would take {total / 2**30:.1f} GiB decoded; above {MEMORY / 2**30:.0f} GiB "
            "images are streamed, for which they must be of one size: give it, as --data.size 224, "
            "or have them all in memory with --data.storage memory"
        )
    return crop == "random" or total > MEMORY


def _from_arrays(name: str, parts: list[Images], *, storage: Storage, crop: Crop) -> list[Images]:
    if storage == "stream" or crop == "random":
        asked = "storage `stream`" if storage == "stream" else "crop `random`"
        raise UserError(
            f"{name} comes as one array in memory, so {asked} is not possible; it is for "
            "tfds:NAME and folder:PATH: use storage `auto` and crop `stretch` or `centre`"
        )
    return parts


def _resized(part: Images, size: int | None, crop: Crop) -> Images:
    assert isinstance(part.images, np.ndarray)
    return Images(decode.resize(part.images, size, crop=crop), part.labels)


def _checked(part: Images, where: str, *, classes: int) -> Images:
    """The part with int32 labels and a channel axis, or a UserError naming what is wrong."""
    pixels, labels = part
    if isinstance(pixels, np.ndarray) and (
        pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or 0 in pixels.shape
    ):
        raise UserError(
            f"{where}: images are {pixels.dtype} {list(pixels.shape)}; they must be uint8 (0 to "
            "255) [N, H, W] or [N, H, W, C] and not empty: convert them"
        )
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)} for {pixels.shape[0]} "
            f"images; they must be integers of shape [{pixels.shape[0]}]: convert them"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if bad.size:
        raise UserError(
            f"{where}: the label at index {bad[0]} is {labels[bad[0]]} ({bad.size} such); allowed "
            f"are 0 to {classes - 1}: correct it"
        )
    if isinstance(pixels, np.ndarray):
        pixels = pixels.reshape(*pixels.shape[:3], -1)
    return Images(pixels, labels.astype(np.int32))
