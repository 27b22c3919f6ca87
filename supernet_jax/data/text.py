"""Text as bytes, left in its files: windows of equal length, read when they are asked for.

The documents of a part follow one another, each with a separator (byte 0) behind it, and windows
follow one another in that stream: a window may end in another document than it began in. Which part
a document belongs to depends on its name and on the seed alone, so that text which is added later
moves nothing that was there.

Shape letters: `N` windows of a part, `T` bytes of each, `n` windows that are asked for.
"""

import bisect
import codecs
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.storage import files, local_copy
from supernet_jax.storage.paths import expanded, joined

VOCABULARY = 256  # ids: a byte is one
LENGTH = 256  # bytes of a window where nobody says
SEPARATOR = 0  # byte behind each document
TEST = 0.1  # share of documents that are for final figures
PIECE = 2**12  # bytes of the documents that a file becomes which is alone
READ = 2**20  # bytes that are looked at at once
STDLIB = "source:stdlib"
NO_SOURCES = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Document(NamedTuple):
    """A file, or a piece of one.

    Attributes:
        name: by which it is put into a part.
        path: of the file.
        start: its first byte there.
        size: bytes, at least 1.
    """

    name: str
    path: pathlib.Path
    start: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of a stream of documents. Indexed like an array, it reads those that are asked for.

    Attributes:
        documents: in their order.
        length: T.
        places: int64 `[N]`, which windows of the stream these are.
        shift: bytes by which they are moved: 1 for what follows each byte of those of shift 0.
        dtype: of what is read.
    """

    documents: tuple[Document, ...]
    length: int
    places: np.ndarray
    shift: int = 0
    dtype: Any = np.uint8

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, T)."""
        return len(self.places), self.length

    def __getitem__(self, key: Any) -> np.ndarray:
        """`[n, T]` of a slice or an array of indices, in 0..255.

        Raises:
            UserError: a file cannot be read, or is shorter than it was.
        """
        places = self.places[key]
        out = np.empty((len(places), self.length), self.dtype)
        with contextlib.ExitStack() as stack:
            file: tuple[pathlib.Path, BinaryIO] | None = None
            for row, place in zip(out, places.tolist(), strict=True):
                filled = 0
                for document, start, count in self._stretches(place * self.length + self.shift):
                    if file is None or file[0] != document.path:
                        stack.close()
                        file = document.path, stack.enter_context(_opened(document.path))
                    content = _read(*file, document.start + start, count)
                    row[filled : filled + count] = np.frombuffer(content, np.uint8)
                    filled += count
                    if filled < self.length:
                        row[filled] = SEPARATOR
                        filled += 1
        return out

    def _stretches(self, position: int) -> Iterator[tuple[Document, int, int]]:
        """What a window reads of each document: from where, and how many bytes (0 where it begins
        with the separator).
        """
        begins, left = self._begins, self.length
        which = bisect.bisect_right(begins, position) - 1
        start = position - begins[which]
        while left > 0:
            document = self.documents[which]
            count = min(document.size - start, left)
            yield document, start, count
            left -= count + 1
            which, start = which + 1, 0

    @functools.cached_property
    def _begins(self) -> list[int]:
        """Where each document begins in the stream."""
        sizes = [0, *(document.size + 1 for document in self.documents)]
        return np.cumsum(sizes, dtype=np.int64)[:-1].tolist()

    def select(self, places: np.ndarray) -> "Windows":
        """Some of the windows, in this order; nothing is read."""
        return dataclasses.replace(self, places=self.places[places])


class Text(NamedTuple):
    """The documents of a text by part, and what tells it from others.

    Attributes:
        parts: "train", "held-out", "test".
        digest: of the content, and of the names of the documents.
    """

    parts: dict[str, tuple[Document, ...]]
    digest: str


def is_text(name: str) -> bool:
    """Whether a data set of this name is text, or pairs of sentences."""
    return name.partition(":")[0] in ("source", "text", "pairs")


def check_share(held_out: float) -> None:
    """Raises a `UserError` unless what is held out is a share."""
    if isinstance(held_out, bool) or not (isinstance(held_out, float) and 0 < held_out < 1):
        raise UserError(
            f"held_out is {held_out}, but text is split by file, and pairs by their sources: give "
            "a share between 0 and 1"
        )


def find(name: str, *, data_dir: str | None, held_out: float, seed: int) -> Text:
    """The documents of a text, all of which are looked through once.

    Args:
        name: `source:stdlib`, the Python sources of the standard library of this Python, without
            its tests; or `text:PATH`, a UTF-8 file or a folder of such. Hidden files do not count.
        data_dir: where a relative PATH starts.
        held_out: share of the documents that are held out of training, in (0, 1).
        seed: of that share.

    Raises:
        UserError: there is no such text; a document is empty or not UTF-8; a part has none.
    """
    check_share(held_out)
    digest = hashlib.sha256()
    if name == STDLIB:
        documents = _sources(digest)
    elif name.startswith("text:") and name != "text:":
        path = joined(expanded(data_dir or "."), expanded(name.partition(":")[2]))
        documents = _documents(local_copy.local(path), digest)
    else:
        raise UserError(
            f"there is no text {name!r}; allowed are {STDLIB} and text:PATH, and for pairs of "
            "sentences source:reversal and pairs:FILE"
        )
    parts: dict[str, list[Document]] = {"train": [], "held-out": [], "test": []}
    for document in documents:
        parts[part_of(document.name, held_out, seed)].append(document)
    for part, own in parts.items():
        if not own:
            raise UserError(
                f"{name} is too little text for a split: of {len(documents)} documents none falls "
                f"into the {part} part; give more of it: a file alone is cut at line ends, into "
                f"pieces of some {PIECE:,} bytes"
            )
    return Text({part: tuple(own) for part, own in parts.items()}, digest.hexdigest())


def windows(documents: tuple[Document, ...], length: int, *, what: str) -> tuple[Windows, Windows]:
    """The windows of a part, and those of the bytes that follow each of theirs.

    Args:
        documents: of the part.
        length: T.
        what: the part, for messages.

    Raises:
        UserError: there is not one.
    """
    total = sum(document.size + 1 for document in documents)
    count = (total - 1) // length
    if count < 1:
        raise UserError(
            f"{what} has {total:,} bytes, too little text for one window of {length} and the byte "
            "behind it; give more text, or shorter windows with --data.length"
        )
    places = np.arange(count)
    return (
        Windows(documents, length, places),
        Windows(documents, length, places, shift=1, dtype=np.int32),
    )


def part_of(name: str, held_out: float, seed: int) -> str:
    """The part of a document: "train", "held-out" or "test".

    Args:
        name: of the document; of a pair of sentences the first of them.
        held_out: share that is held out of training.
        seed: of that share.
    """
    if _uniform(f"test {name}") < TEST:
        return "test"
    return "held-out" if _uniform(f"held-out {seed} {name}") < held_out else "train"


def _uniform(text: str) -> float:
    """A number in [0, 1) of a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _sources(digest: Any) -> list[Document]:
    """Those of the standard library; files that are empty, or not UTF-8, are left out."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = []
    for path in _files(root, lambda name: name not in NO_SOURCES):
        if path.suffix == ".py":
            own = digest.copy()
            size, wrong = _looked_through(path, own)
            if size and wrong is None:
                name = path.relative_to(root).as_posix()
                digest.update(f"{name} {own.hexdigest()}".encode())
                found.append(Document(name, path, 0, size))
    return found


def _documents(path: pathlib.Path, digest: Any) -> list[Document]:
    """Those of a folder, or the pieces of a file."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}; give text:PATH of a UTF-8 text")
    is_alone = not path.is_dir()
    found = []
    for file in [path] if is_alone else _files(path, lambda name: not name.startswith(".")):
        name = file.name if is_alone else file.relative_to(path).as_posix()
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        size, wrong = _looked_through(file, digest)
        if wrong is not None:
            raise UserError(
                f"{file} is not UTF-8 text: byte {wrong:,} is wrong; convert the file, or keep "
                "only text in the folder"
            )
        if not size:
            raise UserError(f"{file} is empty, but a document has text; remove it")
        edges = _edges(file, size) if is_alone else [0, size]
        for start, stop in itertools.pairwise(edges):
            piece = f"{name}@{start}" if is_alone else name
            found.append(Document(piece, file, start, stop - start))
    if not found:
        raise UserError(f"{path} has no text; put UTF-8 files into it")
    return found


def _files(folder: pathlib.Path, takes: Callable[[str], bool]) -> Iterator[pathlib.Path]:
    """The files below a folder in an order that depends on their names alone."""

    def failed(error: OSError) -> None:
        raise files.unreadable(str(error.filename), error, kind="folder") from error

    for place, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(filter(takes, folders))
        for name in sorted(filter(takes, names)):
            if (path := pathlib.Path(place, name)).is_file():
                yield path


def _looked_through(path: pathlib.Path, digest: Any) -> tuple[int, int | None]:
    """The size of a file, and the first byte that is not UTF-8, counted from 0, if there is one."""
    decoder, size = codecs.getincrementaldecoder("utf-8")(), 0
    with _opened(path) as file:
        while True:
            try:
                chunk = file.read(READ)
            except OSError as error:
                raise files.unreadable(path, error) from error
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return size, size - waiting + error.start
            if not chunk:
                return size, None
            digest.update(chunk)
            size += len(chunk)


def _edges(path: pathlib.Path, size: int) -> list[int]:
    """Where the pieces of a file begin, behind ends of lines; the last is its size."""
    edges = [0]
    with _opened(path) as file:
        for edge in range(PIECE, size, PIECE):
            line = _read(path, file, edge, min(PIECE, size - edge)).find(b"\n")
            if line >= 0:
                edges.append(edge + line + 1)
    return edges if edges[-1] == size else [*edges, size]


def _opened(path: pathlib.Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise files.unreadable(path, error) from error


def _read(path: pathlib.Path, file: BinaryIO, start: int, count: int) -> bytes:
    try:
        file.seek(start)
        content = file.read(count)
    except OSError as error:
        raise files.unreadable(path, error) from error
    if len(content) < count:
        raise UserError(
            f"{path} is shorter than it was when it was opened as data; put its text back, or "
            "start again"
        )
    return content
