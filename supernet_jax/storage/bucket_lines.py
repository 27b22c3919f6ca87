"""Files of lines in a bucket, where nothing can be appended to an object.

Each object is written anew with the lines that are added, on the condition that nobody else has
done so meanwhile, and goes on in another when it is long. The first has the name of the file
itself. The names of the others are numbers, so no listing is needed to find all of them.
"""

import itertools
from collections.abc import Callable, Iterator

from supernet_jax.storage import buckets
from supernet_jax.storage.buckets import Bucket

LONG = 1024**2  # bytes of an object to which nothing is added
_full: dict[Bucket, int] = {}  # how many objects of a file this process has found to be long


def content(path: Bucket) -> bytes:
    """All lines; b"" where there is no file."""
    return b"".join(part for _, part in _parts(path))


def append(path: Bucket, lines: bytes) -> None:
    """Adds lines, to the first object that is not long."""

    def longer(before: bytes | None) -> bytes | None:
        return None if len(before or b"") >= LONG else (before or b"") + lines

    number = _full.get(path, 0)
    while buckets.update(_part(path, number), longer) is None:
        number += 1
    _full[path] = number


def keep(path: Bucket, wanted: Callable[[str], bool]) -> None:
    """Takes lines out, while nobody adds any. Who is killed here may do the same again."""
    for part, before in _parts(path):
        lines = before.decode("utf-8", "replace").split("\n")[:-1]
        kept = "".join(f"{line}\n" for line in lines if wanted(line)).encode()
        if kept != before:
            buckets.write(part, kept)
    _full.pop(path, None)


def _parts(path: Bucket) -> Iterator[tuple[Bucket, bytes]]:
    for number in itertools.count():
        part = _part(path, number)
        found = buckets.read(part)
        if found is None:
            return
        yield part, found


def _part(path: Bucket, number: int) -> Bucket:
    return path.with_name(f"{path.name}.d") / f"{number:06}.jsonl" if number else path
