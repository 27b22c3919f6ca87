"""What TensorFlow Datasets has prepared, read without TensorFlow."""

import contextlib
import dataclasses
import difflib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supernet_jax.data.decode import Encoded, Item, in_threads
from supernet_jax.data.images import Found
from supernet_jax.errors import UserError
from supernet_jax.storage import arrays, files, local_copy
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import expanded

INFO = "dataset_info.json"  # in the folder of each prepared version
DESCRIBED = (INFO, "features.json")


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
            records = self.source.__getitems__(list(places))
        except Exception as error:  # array_record and protobuf raise all sorts
            raise self._unreadable(places, _line(error)) from error
        if any(record.get(key) is None for record in records for key in self.keys):
            raise self._unreadable(places, "some are empty")
        return records

    def _unreadable(self, places: Sequence[int], reason: str) -> UserError:
        if "Permission denied" in reason:
            remedy = "the file is not readable by this user: ask its owner for the right"
        elif "No such file" in reason:
            remedy = "the file is missing: copy it there, or prepare the dataset anew"
        else:
            remedy = (
                "the file may be cut short, or the disk failing: compare its size with where it "
                "came from, copy it again or prepare the dataset anew"
            )
        return UserError(
            f"records {min(places)} to {max(places)} of {self.title} cannot be read ({reason}); "
            f"{remedy}"
        )

    def labels(self) -> np.ndarray:
        """They lie in the records, so all of those are read, once if the folder is writable."""
        with contextlib.suppress(UserError, KeyError):
            kept = arrays.read(self.kept, kind="file of labels", damaged="they are read again")
            if str(kept["about"]) == self.about:
                return kept["labels"]
        label = self.keys[1]
        found = in_threads(
            lambda places: [int(record[label]) for record in self.read(places)],
            len(self.source),
            f"reading labels of {self.title}",
        )
        labels = np.array([one for some in found for one in some], np.int64)
        with contextlib.suppress(UserError):  # then they are read again the next time
            arrays.write(self.kept, {"labels": labels, "about": np.array(self.about)})
        return labels

    def identity(self) -> str:
        return self.about


def find(name: str, *, data_dir: str | None) -> Found:
    """A dataset prepared by TensorFlow Datasets, as NAME, NAME/CONFIG or either with :VERSION.

    Test images are those of the split `test`, else `validation`, else none.

    Raises:
        UserError: it is not prepared, not readable, or not of images with a class label each.
    """
    import tensorflow_datasets as tfds  # takes a second, which only this source should pay

    data_dir = _local(name, data_dir)
    builder = _open(name, data_dir=data_dir)
    keys = builder.info.supervised_keys
    match [builder.info.features[key] if isinstance(key, str) else None for key in keys or ()]:
        case [tfds.features.Image(), tfds.features.ClassLabel() as label]:
            named = Path(str(builder.data_path)) / f"{keys[1]}.labels.txt"
            if named.exists():
                files.read_text(named)  # TFDS makes do with numbers where it cannot
            class_names = tuple(label.names)
        case _:
            raise UserError(
                f"the TFDS dataset {name} gives {keys or 'no pair of image and label'}; only one "
                "image with one class label is allowed: choose another or make an npz file of it"
            )
    splits = ["train", *[s for s in ("test", "validation") if s in builder.info.splits][:1]]
    parts = [_split_of(builder, name, split, keys, data_dir) for split in splits]
    return Found([], parts, class_names)


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


def _open(name: str, *, data_dir: str | None) -> Any:
    """The TFDS builder of a prepared dataset."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        splits = list(builder.info.splits)
    except Exception as error:  # it raises all sorts, and often says something else
        raise _not_opened(name, data_dir, error) from error
    if not splits:  # known to TFDS, whose code is there
        raise _not_opened(name, data_dir, ValueError("it names no splits"))
    if "train" not in splits:
        raise UserError(
            f"the TFDS dataset {name} in {builder.data_path} has no split train (there: "
            f"{', '.join(splits) or 'none'}); {_prepare(name, data_dir)}"
        )
    return builder


def _local(name: str, data_dir: str | None) -> str | None:
    """The folder that is given to TFDS; of one in a bucket a copy that has this dataset."""
    folder = expanded(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    if not isinstance(folder, Bucket):
        return data_dir
    base = name.partition(":")[0].partition("/")[0]
    return str(local_copy.local(folder / base).parent)


def _not_opened(name: str, data_dir: str | None, error: Exception) -> UserError:
    """Why a dataset was not opened, found out by a look at the folders."""
    folder = expanded(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    base = name.partition(":")[0].partition("/")[0]
    try:
        versions = _versions(folder, base)
        found = sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    except OSError as refused:
        return files.unreadable(refused.filename or folder, refused, kind="folder")
    wanted = [path for path, names in versions.items() if name in names]
    if wanted:
        try:
            for file in DESCRIBED:
                files.read_json(wanted[-1] / file)
        except UserError as broken:
            return UserError(f"{broken}; copy the dataset again, or {_prepare(name, data_dir)}")
        return UserError(
            f"the TFDS dataset {name} in {wanted[-1]} cannot be opened ({_line(error)}); "
            f"{_prepare(name, data_dir)}"
        )
    if versions:
        short = [spelt[0] for spelt in versions.values()]
        names = [
            f"tfds:{spelt[':' in name or short.count(spelt[0]) > 1]}" for spelt in versions.values()
        ]
        near = difflib.get_close_matches(f"tfds:{name}", names, n=1)
        hint = near[0] if near else names[-1]
        return UserError(
            f"the TFDS dataset {name} is not prepared in {folder}, but {', '.join(names)}; "
            f"name the configuration that you want (tfds:NAME/CONFIG:VERSION), as {hint}"
        )
    near = difflib.get_close_matches(name, [one for one in found if one != base], n=1)
    hint = f"did you mean tfds:{near[0]}? Else " if near else ""
    return UserError(
        f"the TFDS dataset {name} is not prepared in {folder} (there: "
        f"{', '.join(found) or 'nothing'}); {hint}{_prepare(name, data_dir)}, or correct data_dir"
    )


def _versions(folder: Path, base: str) -> dict[Path, list[str]]:
    """Where versions of a dataset lie, and how each can be named: in short, and with version."""
    home = folder / base
    if not base or ".." in base or not home.is_dir():
        return {}
    found = {}
    for info in sorted([*home.glob(f"*/{INFO}"), *home.glob(f"*/*/{INFO}")]):
        *configuration, version = info.parent.relative_to(home).parts
        short = "/".join([base, *configuration])
        found[info.parent] = [short, f"{short}:{version}"]
    return found


def _prepare(name: str, data_dir: str | None) -> str:
    place = f" --data_dir={data_dir}" if data_dir else ""
    return (
        f"prepare it with `tfds build {name} --file_format=array_record{place}` where TensorFlow "
        "is installed"
    )


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
