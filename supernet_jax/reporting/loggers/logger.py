"""What a logger is, and what all of them share: names of curves, and where a curve goes on.

A killed run trains some steps again, and so does one that went back to an earlier checkpoint. What
was logged of them must be replaced, or at least not be there twice. TensorBoard replaces it. The
others can take nothing back: they leave steps out that are there already, by the last one that is
kept in the run folder.
"""

import os
import pathlib
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.runtime import optional
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded, shortened

PROJECT = "supernet_jax"  # what runs are filed under, unless an environment variable says it
_WHOLE_PATH = re.compile(r"(\w+:){0,2}[/~]")  # also of data, as `npz:PATH`, or in a bucket


class Logger(Protocol):
    """What `sj.train` takes as `on_metrics`, and what also takes pictures."""

    name: str

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a line of metrics, by name, of a step."""

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Logs a picture, uint8 `[height, width, 3]`, of a checkpoint's step."""

    def close(self) -> None:
        """Waits until all is written or sent. A call after that opens the log again."""


def loaded(name: str, package: str) -> Any:
    """The package of a logger, whose extra has its name.

    Raises:
        UserError: it is not installed, or does not load.
    """
    who, otherwise = f"the logger {name}", "choose another logger"
    return optional.package(package, extra=name, who=who, otherwise=otherwise)


def curves(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics by names that group them: those of members by what is measured (`loss/largest`),
    those of the whole step under `training/`.
    """
    return {name if "/" in name else f"training/{name}": v for name, v in values.items()}


def settings_of(folder: pathlib.Path) -> dict[str, Any]:
    """The configuration in a run folder, as JSON values; {} where it has none.

    It may go to a server, so paths from the root or a home are shortened to their last names.
    """
    path = folder / "config.json"
    settings: dict[str, Any] = _without_paths(files.read_json(path)) if files.exists(path) else {}
    return settings


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    # Others may be names with a slash, as `layer3/q` of a feature.
    return shortened(value) if isinstance(value, str) and _WHOLE_PATH.match(value) else value


class Place(NamedTuple):
    """Where the log of a run is, and how far.

    Attributes:
        id: of the log.
        step: the last that was logged, or 0.
    """

    id: str
    step: int


class Continued:
    """A log that goes on, of which nothing can be taken back.

    Args:
        name: of the logger.
        folder: of the run. The file `NAME.json` in its folder `loggers` keeps the place.

    Raises:
        UserError: that file is damaged.
    """

    def __init__(self, name: str, folder: str | os.PathLike[str]):
        self.folder = expanded(folder)
        self._file = self.folder / "loggers" / f"{name}.json"
        self.place: Place | None = None
        if files.exists(self._file):
            told = files.read_json(self._file)
            try:
                self.place = Place(str(told["id"]), int(told["step"]))
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{self._file} does not say which log of {name} is this run's; move it away to "
                    "begin a new one"
                ) from None

    def begin(self, make: Callable[[], str] = lambda: secrets.token_hex(4)) -> str:
        """The id of the log, made where the run has none yet."""
        if self.place is None:
            self.keep(Place(make(), 0))
        assert self.place is not None
        return self.place.id

    def keep(self, place: Place) -> None:
        """Writes the place down."""
        files.write_json(self._file, place._asdict())
        self.place = place

    def is_new(self, step: int) -> bool:
        """Whether nothing was logged of a step."""
        return self.place is None or step > self.place.step

    def after(self, step: int) -> None:
        """Remembers that a step was logged."""
        self.keep(Place(self.begin(), step))
