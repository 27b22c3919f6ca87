"""Images held in memory: reading, splitting and batching them, all in NumPy.

Shapes: N images of a part, H x W pixels, C channels (1 for grey), B images of a batch. Pixels are
uint8 in 0..255, labels int32 in 0..classes-1.

A dataset goes `read` (train and test as they come) -> `load` (a held-out part is taken out of
train) -> `batch_indices`, `padded_batches`, `calibration_subset`.
"""

import dataclasses
import difflib
import functools
import hashlib
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.augment import Encoded, Item, decode, resize
from supernet_jax.errors import UserError

KINDS = ("digits", "tfds:NAME", "folder:PATH", "npz:PATH")
ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
TEST_SEED = 0  # of the fifth set aside where a source has no test images of its own
SPLIT, ORDER, CALIBRATION = 0, 1, 2  # what a stream of random numbers is for


class Images(NamedTuple):
    """Some labelled images."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory, cut in three parts that share no image."""

    name: str  # as given to `load`
    train: Images
    held_out: Images  # taken from the training data, to search on; in random order
    test: Images  # for final figures only
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # C numbers: of the pixels of `train`, in 0..1
    std: tuple[float, ...]  # C numbers: the same, at least one grey level (1/255)
    fingerprint: str  # 16 hex digits over pixels, labels, class names and split seed


class Source(NamedTuple):
    """A dataset as read, before its training data is split."""

    train: Images
    test: Images
    class_names: tuple[str, ...]


def load(
    name: str,
    *,
    data_dir: str | None = None,
    held_out: float | int,
    seed: int,
    size: int | None = None,
) -> Dataset:
    """A dataset with its held-out part taken from the training data, stratified by class.

    Args:
        name: `digits`, `tfds:NAME`, `folder:PATH` or `npz:PATH`, see docs/data.md.
        data_dir: where TFDS has its prepared data; where a relative PATH starts.
        held_out: a fraction in (0, 1) or a number of images of the training data.
        seed: of the held-out split, at least 0. The test part does not depend on it.
        size: every image is resized to size x size.

    Raises:
        UserError: for an unknown name, data that is missing, broken or of the wrong kind, or a
            held-out part that leaves a class without a training image.
    """
    if seed < 0:
        raise UserError(f"the seed of the held-out split is {seed}; give one of at least 0")
    source = read(name, data_dir=data_dir, size=size)
    count = _count(held_out, source.train.labels, what="held_out")
    train, part = _split(source.train, count, rng=stream(seed, SPLIT))
    mean, std = _statistics(train.images)
    fingerprint = _fingerprint(train, part, source.test, about=(source.class_names, seed))
    return Dataset(name, train, part, source.test, source.class_names, mean, std, fingerprint)


def read(name: str, *, data_dir: str | None = None, size: int | None = None) -> Source:
    """A dataset as it comes, checked; where it has no test part, a fixed fifth becomes one.

    Args and errors are those of `load`.
    """
    if size is not None and size < 1:
        raise UserError(f"images cannot be resized to {size} pixels; give a size of at least 1")
    kind, _, rest = name.partition(":")
    path = Path(data_dir or ".").expanduser() / Path(rest).expanduser()
    match kind:
        case "digits" if not rest:
            train, test, class_names = _read_digits()
        case "tfds" if rest:
            train, test, class_names = _read_tfds(rest, data_dir=data_dir, size=size)
        case "folder" if rest:
            train, test, class_names = _read_folder(path, size=size)
        case "npz" if rest:
            train, test, class_names = _read_npz(path)
        case _:
            raise UserError(_unknown(name))
    train = _checked(train, f"{name}, train", classes=len(class_names))
    absent = np.flatnonzero(np.bincount(train.labels, minlength=len(class_names)) == 0)
    if absent.size:
        raise UserError(
            f"{name}: class {class_names[absent[0]]!r} (label {absent[0]}) has no training image; "
            "every class needs one: add images, or number the labels without gaps"
        )
    if test is None:
        count = _count(0.2, train.labels, what=f"the test part missing from {name}, a fraction of")
        train, test = _split(train, count, rng=stream(TEST_SEED, SPLIT))
    test = _checked(test, f"{name}, test", classes=len(class_names))
    train, test = (Images(resize(part.images, size), part.labels) for part in (train, test))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{name}: training images are {train.images.shape[1:]} and test images "
            f"{test.images.shape[1:]} (height, width, channels); they must agree: pass a size, or "
            "convert one of them"
        )
    return Source(train, test, class_names)


def pack(name: str, path: str, *, data_dir: str | None = None, size: int | None = None) -> None:
    """Write a dataset, decoded, as an npz file that `load("npz:PATH")` reads in a moment.

    The parts and the fingerprint are then the same. The file appears whole or not at all.

    Args and errors are those of `load`; also a UserError if the file cannot be written.
    """
    source = read(name, data_dir=data_dir, size=size)
    place = Path(path).expanduser()
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(
                file,
                x_train=source.train.images,
                y_train=source.train.labels,
                x_test=source.test.images,
                y_test=source.test.labels,
                class_names=np.array(source.class_names),
            )
        part.replace(place)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error}); choose another place") from error


def batch_indices(n: int, batch: int, *, seed: int, step: int) -> np.ndarray:
    """Which examples make up the batch of a step: a pure function of (seed, step).

    Every epoch is a fresh permutation. Batches run on over the end of an epoch, so no example is
    dropped: the first `n * epochs` places of the stream hold each example `epochs` times.

    Args:
        n: number of examples, at least 1.
        batch: examples of a batch, B; it may exceed n.
        seed: at least 0.
        step: at least 0.

    Returns:
        int64 [B], in 0..n-1.
    """
    start, stop = int(step) * batch, (int(step) + 1) * batch
    epochs = range(start // n, (stop - 1) // n + 1)
    parts = [_order(n, seed, e)[max(start - e * n, 0) : stop - e * n] for e in epochs]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most, unless it exceeds an epoch
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one epoch, int64 [n]."""
    order = stream(seed, ORDER, epoch).permutation(n)
    order.setflags(write=False)  # it is shared by all who ask
    return order


def padded_batches(images: Images, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """All images in order, in chunks of one size for evaluation.

    Returns:
        Images uint8 [ceil(N / B), B, H, W, C], zero where padded, and labels int32
        [ceil(N / B), B], -1 where padded.
    """
    chunks = -(-len(images.labels) // batch)
    pixels = np.zeros((chunks * batch, *images.images.shape[1:]), np.uint8)
    labels = np.full(chunks * batch, -1, np.int32)
    pixels[: len(images.labels)] = images.images
    labels[: len(images.labels)] = images.labels
    return pixels.reshape(chunks, batch, *pixels.shape[1:]), labels.reshape(chunks, batch)


def calibration_subset(images: Images, *, batches: int, batch: int, seed: int) -> np.ndarray:
    """Images drawn without replacement, to calibrate BatchNorm on.

    Where there are too few, fewer batches come back, but at least one, which then may be smaller:
    the shape tells what was used.

    Returns:
        uint8 [batches, B, H, W, C].
    """
    n = len(images.labels)
    batch = min(batch, n)
    batches = min(batches, n // batch)
    chosen = stream(seed, CALIBRATION).permutation(n)[: batches * batch]
    return images.images[chosen].reshape(batches, batch, *images.images.shape[1:])


# --- splitting and describing ---------------------------------------------------------------


def stream(seed: int, purpose: int, *more: int) -> np.random.Generator:
    """Random numbers of their own for each purpose (a spawn key, so none can coincide)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *more)))


def _count(held_out: float | int, labels: np.ndarray, *, what: str) -> int:
    """How many images to take away, given a fraction or a number."""
    n, classes = len(labels), len(np.unique(labels))
    fraction = isinstance(held_out, float)
    if isinstance(held_out, bool) or not (0 < held_out < 1 if fraction else held_out >= 1):
        raise UserError(
            f"{what} is {held_out}; give a fraction between 0 and 1, or a whole number of images "
            "from 1"
        )
    count = max(1, round(held_out * n)) if fraction else int(held_out)
    if count > n - classes:
        raise UserError(
            f"{what} {held_out} would take {count} of {n} training images; at most {n - classes} "
            f"can go, so that each of the {classes} classes keeps one: take fewer or add images"
        )
    return count


def _split(images: Images, count: int, *, rng: np.random.Generator) -> tuple[Images, Images]:
    """All but `count` images in the order they had, and those, in random order.

    Each class gives its exact share rounded down or up (largest remainders, ties at random), less
    only where it would lose its last image. The order is random so that the first few of a part
    stand for all of it, even where a source lists one class after the other.
    """
    labels = images.labels
    sizes = np.bincount(labels)
    take = count * sizes // len(labels)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-(count * sizes % len(labels))[order], kind="stable")]
    while missing := count - take.sum():
        room = order[take[order] < sizes[order] - 1]
        take[room[:missing]] += 1
    classes = (rng.permutation(np.flatnonzero(labels == label)) for label in range(len(sizes)))
    chosen = rng.permutation(np.concatenate([c[:k] for c, k in zip(classes, take, strict=True)]))
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return Images(*(a[rest] for a in images)), Images(*(a[chosen] for a in images))


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0..1, from exact integer sums."""
    total = squares = np.zeros(images[0].size, np.uint64)
    for start in range(0, len(images), 1024):  # sums over so many fit uint32
        chunk = images[start : start + 1024].reshape(-1, total.size)
        total = total + chunk.sum(0, dtype=np.uint32)
        squares = squares + np.square(chunk, dtype=np.uint32).sum(0, dtype=np.uint32)
    count = images[..., 0].size
    mean, squares = (v.reshape(-1, images.shape[-1]).sum(0) / count for v in (total, squares))
    variance = squares - mean**2
    std = np.sqrt(np.maximum(variance, 1))  # a constant channel must not divide by zero
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _fingerprint(*parts: Images, about: Any) -> str:
    """The first 16 hex digits of a SHA-256 over everything that tells datasets apart."""
    digest = hashlib.sha256(repr(about).encode())
    for part in parts:
        digest.update(repr(part.images.shape).encode())
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.astype("<i4").data)
    return digest.hexdigest()[:16]


# --- checks ---------------------------------------------------------------------------------


def _unknown(name: str) -> str:
    """The message for a name of no known kind."""
    kinds = {kind.partition(":")[0]: kind for kind in KINDS}
    near = difflib.get_close_matches(name.partition(":")[0].lower(), kinds, n=1)
    hint = kinds[near[0]] if near else f"tfds:{name or 'NAME'}"
    return f"there is no dataset {name!r}; allowed are {', '.join(KINDS)}: did you mean {hint}?"


def _checked(part: Images, where: str, *, classes: int) -> Images:
    """The part with int32 labels and a channel axis, or a UserError naming what is wrong."""
    pixels, labels = part
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise UserError(
            f"{where}: images are {pixels.dtype} {list(pixels.shape)}; they must be uint8 (0 to "
            "255) [N, H, W] or [N, H, W, C] and not empty: convert them"
        )
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)} for {len(pixels)} images; "
            f"they must be integers of shape [{len(pixels)}]: convert them"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if bad.size:
        raise UserError(
            f"{where}: the label at index {bad[0]} is {labels[bad[0]]} ({bad.size} such); allowed "
            f"are 0 to {classes - 1}: correct it"
        )
    return Images(pixels.reshape(*pixels.shape[:3], -1), labels.astype(np.int32))


# --- sources --------------------------------------------------------------------------------

Parts = tuple[Images, Images | None, tuple[str, ...]]  # train, test if there is one, class names


def _read_digits() -> Parts:
    """The 1,797 digits that ship with scikit-learn, 8 x 8, grey levels 0..16 as 0..255."""
    from sklearn.datasets import load_digits  # takes a second, which only this source should pay

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    return Images(pixels, data.target), None, tuple(str(c) for c in data.target_names)


def _read_npz(path: Path) -> Parts:
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
    return Images(x_train, y_train), Images(x_test, y_test), tuple(map(str, np.atleast_1d(names)))


def _read_folder(path: Path, *, size: int | None) -> Parts:
    """PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/* without a test part."""
    there = [part for part in ("train", "test") if (path / part).is_dir()]
    if not path.is_dir() or len(there) == 1:
        seen = f"has a folder {there[0]} alone" if there else "does not exist"
        raise UserError(
            f"the folder {path} {seen}; allowed are PATH/train/CLASS/* with PATH/test/CLASS/*, or "
            "PATH/CLASS/*: check the path, or rename the folders"
        )
    parts = [_list_folder(path / part) for part in there] or [_list_folder(path)]
    class_names = tuple(sorted(parts[0]))
    if len(parts) == 2 and parts[0].keys() != parts[1].keys():
        raise UserError(
            f"{path}: the classes of train and test differ in "
            f"{', '.join(sorted(parts[0].keys() ^ parts[1].keys()))}; they must be the same: add "
            "or rename class folders"
        )

    def encoded(title: str, files: dict[str, list[Path]]) -> Encoded:
        items = [Item(str(f), f, label) for label, c in enumerate(class_names) for f in files[c]]
        return Encoded(title, len(items), lambda places: [items[i] for i in places])

    titled = zip(there or [path.name], parts, strict=True)
    decoded = [Images(*part) for part in decode([encoded(*t) for t in titled], size=size)]
    return decoded[0], decoded[1] if there else None, class_names


def _list_folder(path: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, sorted, so that no file system changes the order."""
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    classes = {
        folder.name: sorted(
            f
            for f in folder.iterdir()
            if f.suffix.lower() in ENDINGS and f.is_file() and not f.name.startswith(".")
        )
        for folder in folders
    }
    empty = [str(path / name) for name, files in classes.items() if not files]
    if empty or not classes:
        raise UserError(
            f"no image in {', '.join(empty) or path}; every class needs a folder with images in it "
            f"({', '.join(ENDINGS)}): add some or remove the folder"
        )
    return classes


def _read_tfds(name: str, *, data_dir: str | None, size: int | None) -> Parts:
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
    encoded = []
    for split in splits:
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
        title = f"{name} {split}"
        items = functools.partial(_records_at, source, title, keys)
        encoded.append(Encoded(title, len(source), items))
    decoded = [Images(*part) for part in decode(encoded, size=size)]
    return decoded[0], decoded[1] if splits[1:] else None, class_names


def _records_at(source: Any, title: str, keys: tuple[str, str], places: range) -> list[Item]:
    try:
        records = source.__getitems__(list(places))
    except (ValueError, OSError, RuntimeError, IndexError) as error:
        raise UserError(
            f"records {places.start} to {places.stop - 1} of {title} cannot be read "
            f"({_line(error)}); the file is broken: prepare the dataset anew"
        ) from error
    image, label = keys
    return [
        Item(f"{title} [{i}]", io.BytesIO(record[image]), int(record[label]))
        for i, record in zip(places, records, strict=True)
    ]


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
    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
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
