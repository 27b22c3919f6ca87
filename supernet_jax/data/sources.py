"""Where datasets come from: digits, npz files, folders of images, prepared TFDS data."""

import difflib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from supernet_jax.data import folders, prepared
from supernet_jax.data.images import Found, Images
from supernet_jax.errors import UserError
from supernet_jax.storage import files, local_copy
from supernet_jax.storage.paths import expanded, joined

KINDS = (
    *("digits", "tfds:NAME", "folder:PATH", "npz:PATH"),
    *("source:stdlib", "text:PATH", "ids:PATH", "source:reversal", "pairs:FILE"),
)
KEYS = ("x_train", "y_train", "x_test", "y_test")  # of an npz file


def find(name: str, *, data_dir: str | None) -> Found:
    """A dataset as it comes, with nothing decoded.

    Raises:
        UserError: for an unknown name, or data that is missing or broken.
    """
    kind, _, rest = name.partition(":")
    # Absolute, so that an error tells where it was looked for.
    path = joined(expanded(data_dir or "."), expanded(rest))
    match kind:
        case "digits" if not rest:
            return _read_digits()
        case "tfds" if rest:
            return prepared.find(rest, data_dir=data_dir)
        case "folder" if rest:
            return folders.find(local_copy.local(path))
        case "npz" if rest:
            return read_npz(local_copy.local(path))
        case "source" | "text" | "ids" | "pairs":
            raise UserError(f"{name} is text, but images are wanted here; see docs/text.md")
    raise UserError(_unknown(name))


def _read_digits() -> Found:
    """The 1,797 digits that ship with scikit-learn, 8 x 8, grey levels 0..16 as 0..255."""
    from sklearn.datasets import load_digits  # takes a second, which only this source should pay

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    return Found([Images(pixels, data.target)], [], tuple(str(c) for c in data.target_names))


def read_npz(path: Path) -> Found:
    """The arrays x_train, y_train, x_test, y_test of a file, and class_names if it has them."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if missing := [key for key in KEYS if key not in file]:
                raise UserError(
                    f"{path} has no {', '.join(missing)}, only {', '.join(file) or 'nothing'}; it "
                    f"must have {', '.join(KEYS)}: save them under these names"
                )
            x_train, y_train, x_test, y_test = (file[key] for key in KEYS)
            names = file.get("class_names")
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # a bare .npy ends here too, as an array is no context manager
        raise files.unreadable(
            path, error, kind="npz file of plain arrays (numpy.savez)"
        ) from error
    except MemoryError as error:
        raise UserError(f"{path} does not fit in memory ({error}); use smaller images") from error
    if names is None:
        names = class_names(y_train)
    names = np.atleast_1d(names)
    if names.dtype.kind == "S":  # bytes
        names = np.strings.decode(names, "utf-8", "surrogateescape")
    parts = [Images(x_train, y_train), Images(x_test, y_test)]
    return Found(parts, [], tuple(map(str, names)))


def class_names(labels: np.ndarray) -> np.ndarray:
    """Numbers for names: as every class has an image, no more of them than there are images."""
    whole = labels.dtype.kind in "iu" and labels.size > 0
    return np.arange(np.clip(int(labels.max()) + 1, 1, labels.size) if whole else 1)


def _unknown(name: str) -> str:
    """The message for a name of no known kind."""
    kinds = {kind.partition(":")[0]: kind for kind in KINDS}
    near = difflib.get_close_matches(name.partition(":")[0].lower(), kinds, n=1)
    hint = kinds[near[0]] if near else f"tfds:{name or 'NAME'}"
    return f"there is no dataset {name!r}; allowed are {', '.join(KINDS)}: did you mean {hint}?"
