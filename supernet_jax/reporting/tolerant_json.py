"""Values from files that anybody may have edited or a kill cut off: what is no number is None."""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from supernet_jax.errors import UserError
from supernet_jax.storage import files


class Broken(NamedTuple):
    """What of a file could not be read.

    Attributes:
        file: its name.
        times: how many lines or entries.
        first: number of the first of them, from 1; 0 stands for the whole file.
        why: what is wrong with that one.
    """

    file: str
    times: int
    first: int
    why: str


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        known = float(value)
    except OverflowError:
        return None
    return known if math.isfinite(known) else None


def numbers(value: Any, *names: str) -> tuple[float, ...] | None:
    """Those fields of an object if all of them are finite numbers, or None."""
    found = [number(value.get(name)) for name in names] if isinstance(value, Mapping) else [None]
    return None if None in found else tuple(x for x in found if x is not None)


def share(value: Any) -> float | None:
    """An accuracy: a number in [0, 1], or None."""
    known = number(value)
    return known if known is not None and 0 <= known <= 1 else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def notation(arch: Any) -> str:
    """An arch as one line of JSON."""
    return files.dumps(arch)


def read(path: pathlib.Path) -> tuple[Any, Broken | None]:
    """A file of JSON, or None and why not; None and None where there is no file."""
    try:
        return files.read_json(path), None
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None, None
        return None, Broken(path.name, 1, 0, str(error).removeprefix(f"{path} "))


class Lines:
    """The objects of a file of JSON lines, one by one; the file is never in memory as a whole.

    Attributes:
        place: number of the line that came last, from 1.
        broken: after the last line, what could not be read; None where all could.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self.place = 0
        self.broken: Broken | None = None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            for place, line in enumerate(files.text_lines(self._path), 1):
                self.place = place
                value, why = _object(line)
                if why:
                    self.note(why if line.endswith("\n") else f"cut off: {why}")
                elif value is not None:
                    yield value
        except FileNotFoundError:
            return
        except OSError as error:
            why = str(files.unreadable(self._path, error, kind="JSON file"))
            self.broken = Broken(self._path.name, 1, 0, why.removeprefix(f"{self._path} "))

    def note(self, why: str) -> None:
        """Counts the line that came last as one that cannot be used."""
        before = self.broken
        self.broken = (
            Broken(self._path.name, 1, self.place, why)
            if before is None
            else before._replace(times=before.times + 1)
        )


def _object(line: str) -> tuple[Mapping[str, Any] | None, str]:
    if not line.strip():
        return None, ""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, str(error) or type(error).__name__
    return (value, "") if isinstance(value, dict) else (None, "not an object")
