"""Folders of images or recordings, one folder per class: what is in them, with nothing decoded."""

import collections
import dataclasses
import functools
import hashlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from supernet_jax.data.decode import NAMED, REASONS, Encoded, Item
from supernet_jax.data.images import Found
from supernet_jax.errors import UserError
from supernet_jax.storage import files

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
# Files with these are images too, but not read; whoever has some should know.
OTHER_ENDINGS = (
    *(".avif", ".cr2", ".dng", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl"),
    *(".nef", ".tga", ".tif", ".tiff"),
)
SOUNDS = (".wav",)
OTHER_SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wma")


class Kind(NamedTuple):
    """What files of a folder are looked for.

    Attributes:
        noun: one of them.
        endings: of their names.
        unread: of files that are of this kind too, but not read.
        foreign: of files of another kind, which must not lie among them.
        is_open: whether the parts may have other classes.
    """

    noun: str
    endings: tuple[str, ...]
    unread: tuple[str, ...]
    foreign: tuple[str, ...]
    is_open: bool = False


IMAGES = Kind("image", ENDINGS, OTHER_ENDINGS, SOUNDS)
RECORDINGS = Kind("recording", SOUNDS, OTHER_SOUNDS, ENDINGS, is_open=True)
ALLOWED = "allowed are PATH/train/CLASS/* with PATH/test/CLASS/*, or PATH/CLASS/*"


@dataclasses.dataclass(frozen=True)
class _Files:
    """Files of a folder: names take a tenth of the memory that paths do."""

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
            path = os.path.join(self.root, name)
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise files.unreadable(path, error) from error
            digest.update(os.fsencode(f"{name} {size}\n"))
        return digest.hexdigest()


class _Listed(NamedTuple):
    """What is in the class folders of a part.

    Attributes:
        classes: names of files by the name of their class folder.
        unread: how many other files of the kind there are, by their ending.
        deeper: number of folders inside of class folders.
        beside: number of files of the kind in no class folder.
    """

    classes: dict[str, list[str]]
    unread: collections.Counter[str]
    deeper: int
    beside: int


def find(path: Path, kind: Kind = IMAGES) -> Found:
    """PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/* without a test part.

    The class names are those of the training part. Of a kind that is open, classes of the test part
    that are not among them have the labels after theirs.

    Raises:
        UserError: there is no such folder; something in it cannot be reached or read; a class has
            no file, or a name that is not UTF-8; the classes of the parts differ; there are files
            of another kind.
    """
    try:
        _check_there(path)
        there = [part for part in ("train", "test") if (path / part).is_dir()]
        if len(there) == 1:
            raise UserError(
                f"the folder {path} has a folder {there[0]} alone; {ALLOWED}: add or rename one"
            )
        listed = {part: _list(path / part, kind) for part in there or ["."]}
    except OSError as error:
        raise files.unreadable(error.filename or path, error, kind="folder") from error
    first, *others = [part.classes for part in listed.values()]
    if others and first.keys() != others[0].keys() and not kind.is_open:
        differing = sorted(first.keys() ^ others[0].keys())
        alike = len({unicodedata.normalize("NFC", name) for name in differing}) < len(differing)
        shown = ", ".join(map(ascii, differing) if alike else differing)
        raise UserError(
            f"{path}: the classes of train and test differ in {shown}; they must be the same: add "
            "or rename class folders"
        )
    names = sorted(first)
    names += sorted({name for other in others for name in other} - first.keys())
    parts = [_encoded(path / part, found.classes, names) for part, found in listed.items()]
    # As they are on the disk, whatever the locale makes of them.
    class_names = tuple(os.fsencode(name).decode("utf-8") for name in sorted(first))
    return Found([], parts, class_names, _notes(path, list(listed.values()), kind))


def of_recordings(path: Path) -> bool:
    """Whether the first file in a class folder that is of a known kind is a recording."""
    root = path / "train" if (path / "train").is_dir() else path
    try:
        for folder in sorted(place for place in root.iterdir() if place.is_dir()):
            for file in sorted(folder.iterdir()):
                if file.suffix.lower() in (*SOUNDS, *ENDINGS):
                    return file.suffix.lower() in SOUNDS
    except OSError:  # whoever reads it says what is wrong
        return False
    return False


def _check_there(path: Path) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{path} is a file, not a folder; {ALLOWED}, or npz:{path} for a npz file")
    if path.is_symlink():
        raise UserError(f"the folder {path} is a link that leads nowhere; mend the link")
    raise UserError(f"the folder {path} does not exist; check the path and data_dir")


def _encoded(path: Path, classes: dict[str, list[str]], every: list[str]) -> Encoded:
    own = [every.index(name) for name in sorted(classes)]
    numbers = np.repeat(np.asarray(own, int), [len(classes[name]) for name in sorted(classes)])
    names = [f"{name}/{file}" for name in sorted(classes) for file in classes[name]]
    found = _Files(str(path), names, numbers)
    return Encoded(path.name, len(names), found.items, found.labels, found.identity)


def _list(path: Path, kind: Kind) -> _Listed:
    """The files of each class folder, sorted, so that no file system changes the order."""
    lost: list[str] = []
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    folders = [entry for entry in shown if _leads_to(entry, lost) == "dir"]
    names = {folder.name for folder in folders}
    _check_names(path, sorted(names))
    beside = sum(entry.name not in names and _ending(entry.name) in kind.endings for entry in shown)
    classes: dict[str, list[str]] = {}
    unread: collections.Counter[str] = collections.Counter()
    deeper, foreign = 0, list[str]()
    for folder in sorted(folders, key=lambda entry: entry.name):
        own: list[str] = []
        with os.scandir(folder.path) as entries:
            for entry in entries:
                ending = _ending(entry.name)
                if entry.name.startswith("."):
                    continue
                if ending in kind.endings:
                    own += [entry.name] * (_leads_to(entry, lost) == "file")
                elif ending in kind.unread:
                    unread[ending] += 1
                elif ending in kind.foreign and entry.is_file():
                    foreign.append(entry.path)
                else:
                    deeper += entry.is_dir(follow_symlinks=False)
        classes[folder.name] = sorted(own)
    if foreign:
        raise UserError(
            f"{len(foreign)} files in the class folders of {path} are no {kind.noun}s, as "
            f"{min(foreign)}; a data set is of images or of recordings: move the others elsewhere"
        )
    if lost:
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        raise UserError(
            f"{len(lost)} {kind.noun}s or class folders cannot be reached: "
            f"{'; '.join(lost[:NAMED])}{more}; none is left out silently: mend them, or move them "
            f"out of {path}"
        )
    empty = [str(path / name) for name, own in classes.items() if not own]
    if empty or not classes:
        named = ", ".join(empty[:NAMED]) or path
        raise UserError(
            f"no {kind.noun} in {named}{_others(unread)}; every class needs a folder with "
            f"{kind.noun}s in it ({', '.join(kind.endings)}): add or convert some, or move the "
            "folder elsewhere"
        )
    return _Listed(classes, unread, deeper, beside)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _leads_to(entry: os.DirEntry[str], lost: list[str]) -> str:
    """What an entry is, links followed: "file", "dir" or ""; a link to nowhere is added to `lost`.

    Which some functions of Python pass over without a word.
    """
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "dir"
        if entry.is_symlink() and not os.path.exists(entry.path):
            lost.append(f"{entry.path} (a link that leads nowhere)")
    except OSError as error:
        lost.append(f"{entry.path} ({REASONS.get(error.errno or 0, error.strerror)})")
    return ""


def _check_names(path: Path, names: list[str]) -> None:
    for name in names:
        raw = os.fsencode(name)
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"the class folder {raw!r} in {path} has a name that is not UTF-8, which no format "
                f"of networks can hold; rename it, perhaps to {raw.decode('latin-1')!r}"
            ) from None


def _notes(path: Path, parts: list[_Listed], kind: Kind) -> tuple[str, ...]:
    things = f"{kind.noun}s"
    unread = sum((part.unread for part in parts), collections.Counter())
    deeper = sum(part.deeper for part in parts)
    beside = sum(part.beside for part in parts)
    notes = []
    if unread:
        notes.append(
            f"{path} has {unread.total()} files that are not read{_others(unread)}; convert "
            f"them to one of {', '.join(kind.endings)}, or leave them aside"
        )
    if deeper:
        notes.append(
            f"{path} has {deeper} folders inside of class folders, whose {things} are not read; "
            f"{things} must lie in the class folders themselves"
        )
    if beside:
        notes.append(
            f"{path} has {beside} {things} in no class folder, which are not read; every "
            f"{kind.noun} must lie in the folder of its class"
        )
    return tuple(notes)


def _others(unread: collections.Counter[str]) -> str:
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(unread.items()))
    return f" (there are {counts})" if counts else ""
