"""Utterances of speakers: what tells them from images, their parts, and their checks.

Shapes: N utterances of a part, T frames, F mel bands. Features are float32, speakers int32 from 0.
A test part may have speakers whom the training part lacks, numbered after those of it.
"""

import zipfile
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.data import audio, folders, sources, splits
from supernet_jax.data.images import Images
from supernet_jax.data.splits import random_stream
from supernet_jax.errors import UserError
from supernet_jax.storage import local_copy
from supernet_jax.storage.paths import expanded, joined

TEST_SEED = 0  # of the fifth set aside where a source has no test part of its own
FEW = 10  # training utterances of a speaker, below which a note says so
MEMORY = 4 * 2**30  # bytes of features that may be held in memory


class Speech(NamedTuple):
    """What the examples of speech are made of.

    Attributes:
        bands: F.
        length: T.
        speakers: of the training data.
    """

    bands: int
    length: int
    speakers: int


class Utterances(NamedTuple):
    """A data set of speech before its training part is split.

    Attributes:
        train: features `[N, T, F]`.
        test: the same.
        speakers: names of those of the training part.
        notes: what users should be told, a line each.
    """

    train: Images
    test: Images
    speakers: tuple[str, ...]
    notes: tuple[str, ...]


class Parts(NamedTuple):
    """A data set of speech, split; as the fields of `data.Dataset`."""

    train: Images
    held_out: Images
    test: Images
    class_names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]
    speech: Speech


def load(
    name: str, *, data_dir: str | None, held_out: float | int, seed: int, length: int | None
) -> Parts:
    """A data set with a part held out of the utterances of each speaker; see `data.load`."""
    found = read(name, data_dir=data_dir, length=length)
    noun, remedy = "recordings", "take fewer, or add recordings"
    labels = found.train.labels
    count = splits.count(held_out, labels, what="held_out", remedy=remedy, things=noun)
    train, part = splits.split(found.train, count, rng=random_stream(seed, splits.SPLIT))
    fingerprint = splits.fingerprint(train, part, found.test, about=(found.speakers, seed))
    _, frames, bands = train.images.shape
    about = Speech(bands, frames, len(found.speakers))
    return Parts(train, part, found.test, found.speakers, fingerprint, found.notes, about)


def is_speech(name: str, *, data_dir: str | None) -> bool:
    """Whether a data set is of speech: a folder whose files are recordings, or an npz file of float
    features with 80 mel bands. Nothing is read but names, or the header of an array.
    """
    kind, _, rest = name.partition(":")
    if kind not in ("folder", "npz") or not rest:
        return False
    path = local_copy.local(joined(expanded(data_dir or "."), expanded(rest)))
    if kind == "folder":
        return folders.of_recordings(path)
    try:
        with zipfile.ZipFile(path) as file, file.open("x_train.npy") as array:
            read = {(1, 0): np.lib.format.read_array_header_1_0}
            version = np.lib.format.read_magic(array)
            shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(array)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return False  # whoever reads it says what is wrong
    return dtype.kind == "f" and len(shape) == 3 and shape[-1] == audio.BANDS


def read(name: str, *, data_dir: str | None, length: int | None) -> Utterances:
    """The utterances of a data set, checked; where it has no test part, a fixed fifth of each
    speaker's becomes one.

    Args:
        name: `folder:PATH` or `npz:PATH`.
        data_dir: where a relative PATH starts.
        length: T; None for 300 frames of recordings, or all of features.

    Raises:
        UserError: data that is missing, broken or of the wrong kind, or of one speaker alone.
    """
    if length is not None and length < audio.LEAST:
        raise UserError(
            f"an example has {length} frames; give a length of at least {audio.LEAST} "
            f"({audio.LEAST / 100} s), commonly {audio.LENGTH}"
        )
    path = local_copy.local(joined(expanded(data_dir or "."), expanded(name.partition(":")[2])))
    if name.startswith("folder:"):
        found = folders.find(path, folders.RECORDINGS)
        parts, told = _heard(found.files, length or audio.LENGTH, name)
    else:
        found = sources.read_npz(path)
        parts, told = _cut(found.arrays, length, name), ()
    speakers = found.class_names
    if len(speakers) < 2:
        raise UserError(
            f"{name} has recordings of {len(speakers)} speaker ({', '.join(speakers)}), so there "
            "is nobody to tell apart: add recordings of others"
        )
    train = _checked(parts[0], f"{name}, train", known=len(speakers))
    counts = np.bincount(train.labels, minlength=len(speakers))
    if (absent := np.flatnonzero(counts == 0)).size:
        raise UserError(
            f"{name}: speaker {speakers[absent[0]]!r} (label {absent[0]}) has no training "
            "utterance; every one needs some: add recordings, or number the labels without gaps"
        )
    if len(parts) == 1:
        count = splits.count(
            0.2,
            train.labels,
            what=f"{name} has no test part, and the fifth of its recordings that becomes one,",
            remedy="add recordings, or a test part of your own",
            things="recordings",
        )
        train, test = splits.split(train, count, rng=random_stream(TEST_SEED, splits.SPLIT))
    else:
        test = _checked(parts[1], f"{name}, test", known=None)
    few = np.flatnonzero(np.bincount(train.labels) < FEW)
    if few.size:
        told = (
            *told,
            f"{name} is thin: of {len(speakers)} speakers {few.size} have fewer than {FEW} "
            f"training utterances, as {speakers[few[0]]}; embeddings learn little from so few",
        )
    return Utterances(train, test, speakers, (*found.notes, *told))


def _heard(files: list, length: int, name: str) -> tuple[list[Images], tuple[str, ...]]:
    """The features of recordings."""
    total = sum(part.length for part in files)
    if (size := total * length * audio.BANDS * 4) > MEMORY:
        raise UserError(
            f"{name} would take {size / 2**30:.1f} GiB as features, which are held in memory, but "
            f"at most {MEMORY / 2**30:.0f} GiB are; give fewer recordings, or shorter examples "
            "with --data.length"
        )
    results = [audio.read(part, length) for part in files]
    audio.refuse([one for _, bad, _ in results for one in bad])
    parts = [Images(made, part.labels()) for part, (made, _, _) in zip(files, results, strict=True)]
    if not (short := sum(short for _, _, short in results)):
        return parts, ()
    return parts, (
        f"{short} of {total} recordings of {name} are shorter than {length} frames "
        f"({length / 100:g} s) and repeated; --data.length gives shorter examples",
    )


def _cut(arrays: list[Images], length: int | None, name: str) -> list[Images]:
    """Features with so many frames, the middle of all that there are."""
    for part, array in zip(("train", "test"), arrays, strict=False):
        features: Any = array.images
        if features.dtype.kind != "f" or features.ndim != 3 or 0 in features.shape:
            raise UserError(
                f"{name}, {part}: features are {features.dtype} {list(features.shape)}; they must "
                f"be floats [N, T, {audio.BANDS}] and not empty, as those of training: convert them"
            )
        if not np.isfinite(features).all():
            where = int(np.argwhere(~np.isfinite(features))[0, 0])
            raise UserError(
                f"{name}, {part}: the features of the utterance at index {where} are not all "
                "numbers; mend or remove it"
            )
    frames = [part.images.shape[1] for part in arrays]
    wanted = frames[0] if length is None else length
    for there in frames:
        if there < wanted or there < audio.LEAST:
            raise UserError(
                f"{name} has utterances of {there} frames, but {max(wanted, audio.LEAST)} are "
                "wanted; give longer ones, or a smaller --data.length"
            )
    starts = [(there - wanted) // 2 for there in frames]
    return [
        Images(np.asarray(part.images[:, start : start + wanted], np.float32), part.labels)
        for part, start in zip(arrays, starts, strict=True)
    ]


def _checked(part: Images, where: str, *, known: int | None) -> Images:
    """The part with int32 labels, or a UserError that names what is wrong."""
    features, labels = part
    if labels.dtype.kind not in "iu" or labels.shape != features.shape[:1]:
        raise UserError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)} for {features.shape[0]} "
            f"utterances; they must be integers of shape [{features.shape[0]}]: convert them"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= (known or np.iinfo(np.int32).max)))
    if bad.size:
        allowed = "at least 0" if known is None else f"0 to {known - 1}"
        raise UserError(
            f"{where}: the label at index {bad[0]} is {labels[bad[0]]} ({bad.size} such); allowed "
            f"are {allowed}: correct it"
        )
    return Images(features, labels.astype(np.int32))
