"""Where datasets come from: digits, npz files, folders of images, prepared TFDS data."""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.data.decode import Encoded, Item, in_threads
from supernet_jax.data.images import Images
from supernet_jax.errors import UserError
from supernet_jax.storage.paths import expanded

KINDS = ("digits", "tfds:NAME", "folder:PATH", "npz:PATH")
ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")


class Found(NamedTuple):
    """What a source has: training images and perhaps test images, as arrays or as files."""

    arrays: list[Images]
    files: list[Encoded]
    class_names: tuple[str, ...]


def find(name: str, *, data_dir: str | None) -> Found:
    """A dataset as it comes, with nothing decoded.

    Raises:
        UserError: for an unknown name, or data that is missing or broken.
    """
    kind, _, rest = name.partition(":")
    path = expanded(data_dir or ".") / expanded(rest)
    match kind:
        case "digits" if not rest:
            return _read_digits()
        case "tfds" if rest:
            return _find_tfds(rest, data_dir=data_dir)
        case "folder" if rest:
            return _find_folder(path)
        case "npz" if rest:
            return _read_npz(path)
    raise UserError(_unknown(name))


def _read_digits() -> Found:
    """The 1,797 digits that ship with scikit-learn, 8 x 8, grey levels 0..16 as 0..255."""
    from sklearn.datasets import load_digits  # takes a second, which only this source should pay

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    return Found([Images(pixels, data.target)], [], tuple(str(c) for c in data.target_names))


def _read_npz(path: Path) -> Found:
    """The arrays x_train, y_train, x_test, y_test of a file, and class_names if it has them."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [key for key in keys if key not in file]:
                raise UserError(
                    f"{path} has no {', '.join(missing)}, only {', '.join(file) or 'nothing'}; it "
                    f"must have {', '.join(keys)}: save them under these names"
                )
            x_train, y_train, x_test, y_test = (file[key] for key in keys)
            names = file.get("class_names")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; check the path and data_dir") from error
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # a bare .npy ends here too, as an array is no context manager
        raise UserError(
            f"{path} cannot be read ({_line(error)}); it must be a whole npz file of plain arrays, "
            "without pickled objects: write it anew with numpy.savez"
        ) from error
    if names is None:
        whole = y_train.dtype.kind in "iu" and y_train.size > 0
        # as every class has an image, there are no more classes than images
        names = np.arange(np.clip(int(y_train.max()) + 1, 1, y_train.size) if whole else 1)
    parts = [Images(x_train, y_train), Images(x_test, y_test)]
    return Found(parts, [], tuple(map(str, np.atleast_1d(names))))


@dataclasses.dataclass(frozen=True)
class _Files:
    """Image files of a folder: names take a tenth of the memory that paths do."""

    root: str
    names: list[str]  # CLASS/FILE
    numbers: np.ndarray  # int64 [N], the labels

    def items(self, places: Sequence[int]) -> list[Item]:
        paths = [os.path.join(self.root, self.names[i]) for i in places]
        return [Item(p, Path(p), int(self.numbers[i])) for p, i in zip(paths, places, strict=True)]

    def labels(self) -> np.ndarray:
        return self.numbers

    def identity(self) -> str:
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        """Of all names and sizes: asking a file system for so many takes a while."""
        digest = hashlib.sha256()
        for name in self.names:
            size = os.stat(os.path.join(self.root, name)).st_size
            digest.update(f"{name} {size}\n".encode())
        return digest.hexdigest()


def _find_folder(path: Path) -> Found:
    """PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/* without a test part."""
    there = [part for part in ("train", "test") if (path / part).is_dir()]
    if not path.is_dir() or len(there) == 1:
        seen = f"has a folder {there[0]} alone" if there else "does not exist"
        raise UserError(
            f"the folder {path} {seen}; allowed are PATH/train/CLASS/* with PATH/test/CLASS/*, or "
            "PATH/CLASS/*: check the path, or rename the folders"
        )
    parts = {part: _list_folder(path / part) for part in there or ["."]}
    listed = list(parts.values())
    if len(listed) == 2 and listed[0].keys() != listed[1].keys():
        raise UserError(
            f"{path}: the classes of train and test differ in "
            f"{', '.join(sorted(listed[0].keys() ^ listed[1].keys()))}; they must be the same: add "
            "or rename class folders"
        )
    class_names = tuple(sorted(listed[0]))
    files = [_encoded(path / part, classes) for part, classes in parts.items()]
    return Found([], files, class_names)


def _encoded(path: Path, classes: dict[str, list[str]]) -> Encoded:
    numbers = np.repeat(np.arange(len(classes)), [len(classes[name]) for name in sorted(classes)])
    names = [f"{name}/{file}" for name in sorted(classes) for file in classes[name]]
    files = _Files(str(path), names, numbers)
    return Encoded(path.name, len(names), files.items, files.labels, files.identity)


def _list_folder(path: Path) -> dict[str, list[str]]:
    """The image files of each class folder, sorted, so that no file system changes the order."""
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    classes = {folder.name: _list_images(folder) for folder in folders}
    empty = [str(path / name) for name, files in classes.items() if not files]
    if empty or not classes:
        raise UserError(
            f"no image in {', '.join(empty) or path}; every class needs a folder with images in it "
            f"({', '.join(ENDINGS)}): add some or remove the folder"
        )
    return classes


def _list_images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in ENDINGS
            and not entry.name.startswith(".")
            and entry.is_file()
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Records:
    """Records of a split of a TFDS dataset."""

    source: Any  # gives records by their places
    title: str
    keys: tuple[str, str]  # of the image and of the label
    about: str
    kept: Path  # where the labels are written when they have been read

    def items(self, places: Sequence[int]) -> list[Item]:
        image, label = self.keys
        return [
            Item(f"{self.title} [{i}]", io.BytesIO(record[image]), int(record[label]))
            for i, record in zip(places, self.read(places), strict=True)
        ]

    def read(self, places: Sequence[int]) -> Sequence[dict[str, Any]]:
        try:
            return self.source.__getitems__(list(places))
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            raise UserError(
                f"records {min(places)} to {max(places)} of {self.title} cannot be read "
                f"({_line(error)}); the file is broken: prepare the dataset anew"
            ) from error

    def labels(self) -> np.ndarray:
        """They lie in the records, so all of those are read, once if the folder is writable."""
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(self.kept, allow_pickle=False) as file:
                if str(file["about"]) == self.about:
                    return file["labels"]
        label = self.keys[1]
        found = in_threads(
            lambda places: [int(record[label]) for record in self.read(places)],
            len(self.source),
            f"reading labels of {self.title}",
        )
        labels = np.array([one for some in found for one in some], np.int64)
        unfinished = self.kept.with_name(f"{self.kept.name}.{os.getpid()}.npz")
        with contextlib.suppress(OSError):
            np.savez(unfinished, labels=labels, about=np.array(self.about))
            unfinished.replace(self.kept)
        return labels

    def identity(self) -> str:
        return self.about


def _find_tfds(name: str, *, data_dir: str | None) -> Found:
    """A dataset prepared by TensorFlow Datasets, without TensorFlow.

    Test images are those of the split `test`, else `validation`, else none.
    """
    import tensorflow_datasets as tfds  # takes a second, which only this source should pay

    builder = _open_tfds(name, data_dir=data_dir)
    keys = builder.info.supervised_keys
    match [builder.info.features[key] if isinstance(key, str) else None for key in keys or ()]:
        case [tfds.features.Image(), tfds.features.ClassLabel() as label]:
            class_names = tuple(label.names)
        case _:
            raise UserError(
                f"the TFDS dataset {name} gives {keys or 'no pair of image and label'}; only one "
                "image with one class label is allowed: choose another or make an npz file of it"
            )
    splits = ["train", *[s for s in ("test", "validation") if s in builder.info.splits][:1]]
    files = [_split_of(builder, name, split, keys, data_dir) for split in splits]
    return Found([], files, class_names)


def _split_of(
    builder: Any, name: str, split: str, keys: tuple[str, str], data_dir: str | None
) -> Encoded:
    import tensorflow_datasets as tfds

    try:
        source = tfds.data_source(
            name,
            split=split,
            data_dir=data_dir,
            download=False,
            decoders={keys[0]: tfds.decode.SkipDecoding()},
        )
    except (NotImplementedError, ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"the split {split} of the TFDS dataset {name} in {builder.data_path} cannot be "
            f"opened ({_line(error)}); it must be there, whole, as array_record: "
            f"{_prepare(name, data_dir)}"
        ) from error
    about = f"{builder.info.full_name} {split}: {builder.info.splits[split].shard_lengths}"
    kept = Path(str(builder.data_path)) / f"supernet-labels-{split}.npz"
    records = _Records(source, f"{name} {split}", keys, about, kept)
    return Encoded(records.title, len(source), records.items, records.labels, records.identity)


def _open_tfds(name: str, *, data_dir: str | None) -> Any:
    """The TFDS builder of a prepared dataset."""
    import tensorflow_datasets as tfds

    cause: Exception | None = None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if "train" in builder.info.splits:
            return builder
    except (AssertionError, ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        cause = error  # long and often misleading, so it is not shown
    folder = expanded(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    found = sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    near = difflib.get_close_matches(name, found, n=1)
    hint = f"did you mean tfds:{near[0]}? Else " if near else ""
    raise UserError(
        f"the TFDS dataset {name} is not prepared, with a split train, in {folder} (there: "
        f"{', '.join(found) or 'nothing'}); {hint}{_prepare(name, data_dir)}, or correct data_dir"
    ) from cause


def _prepare(name: str, data_dir: str | None) -> str:
    place = f" --data_dir={data_dir}" if data_dir else ""
    return (
        f"prepare it with `tfds build {name} --file_format=array_record{place}` where TensorFlow "
        "is installed"
    )


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _unknown(name: str) -> str:
    """The message for a name of no known kind."""
    kinds = {kind.partition(":")[0]: kind for kind in KINDS}
    near = difflib.get_close_matches(name.partition(":")[0].lower(), kinds, n=1)
    hint = kinds[near[0]] if near else f"tfds:{name or 'NAME'}"
    return f"there is no dataset {name!r}; allowed are {', '.join(KINDS)}: did you mean {hint}?"
