"""Files of lines in a bucket, where nothing can be appended to an object.

Each object is written anew with the lines that are added, on the condition that nobody else has
done so meanwhile, and goes on in another when it is long. The first has the name of the file
itself. The names of the others are numbers, so no listing is needed to find all of them.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator

from supernet_jax.storage import buckets
from supernet_jax.storage.buckets import Bucket

LONG = 128 * 1024  # bytes of an object to which nothing is added
# Bytes of the first objects of a file, as far as this process has found them to be long.
_long: dict[Bucket, list[int]] = {}
_noting = threading.Lock()


def content(path: Bucket, start: int = 0) -> bytes:
    """All lines from a place on; b"" where there is no file."""
    first, place = 0, 0
    for size in _long.get(path, []):
        if place + size > start:
            break
        first, place = first + 1, place + size
    return b"".join(part for _, part in _parts(path, first))[start - place :]


def append(path: Bucket, lines: bytes) -> None:
    """Adds lines, to the first object that is not long."""
    number = len(_long.get(path, []))
    if number and not buckets.has(_part(path, number - 1)):  # somebody has removed the file
        _long.pop(path, None)
        number = 0
    add = functools.partial(_longer, path, lines)
    while buckets.update(_part(path, number), functools.partial(add, number)) is None:
        number += 1


def _longer(path: Bucket, lines: bytes, number: int, before: bytes | None) -> bytes | None:
    is_long = _note(path, number, len(before or b""))
    return None if is_long else (before or b"") + lines


def keep(path: Bucket, wanted: Callable[[str], bool]) -> None:
    """Takes lines out, while nobody adds any. Who is killed here may do the same again."""
    for part, before in _parts(path, 0):
        lines = before.decode("utf-8", "replace").split("\n")[:-1]
        kept = "".join(f"{line}\n" for line in lines if wanted(line)).encode()
        if kept != before:
            buckets.write(part, kept)
    _long.pop(path, None)


def _parts(path: Bucket, first: int) -> Iterator[tuple[Bucket, bytes]]:
    for number in itertools.count(first):
        part = _part(path, number)
        found = buckets.read(part)
        if found is None:
            return
        _note(path, number, len(found))
        yield part, found


def _note(path: Bucket, number: int, size: int) -> bool:
    """Whether an object is long, which is remembered."""
    with _noting:
        known = _long.setdefault(path, [])
        if size >= LONG and len(known) == number:
            known.append(size)
    return size >= LONG


def _part(path: Bucket, number: int) -> Bucket:
    return path.with_name(f"{path.name}.d") / f"{number:06}.jsonl" if number else path
