"""`network.json`: what an extracted network's folder says of it, field by field."""

import dataclasses
import json
import pathlib
from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.networks.preparation import Preparation
from supernet_jax.storage import files
from supernet_jax.storage.typed_json import parse

# Version 1 had no `formats`; 2 had no `preparation`, and one `size` for both sides in `formats`.
FORMAT, VERSION = "supernet_jax network", 3
LARGEST_RESOLUTION = 4096


@dataclasses.dataclass(frozen=True)
class BlockDescription:
    """A block in `network.json`.

    Attributes:
        name: of its variables.
        type: class of its module.
        spec: fields of its spec.
        spec_type: class of its spec where both are in the user's file; None for the library's own.
    """

    name: str
    type: str
    spec: dict
    spec_type: str | None


@dataclasses.dataclass(frozen=True)
class Code:
    """Which file of the user's defines blocks or the topology.

    Attributes:
        file: where it was.
        sha256: of its content.
        forward: name of the topology function in it; None for a chain.
    """

    file: str
    sha256: str
    forward: str | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many batches of how many training images the statistics were calibrated on."""

    batches: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Proof:
    """Largest difference of logits from the supernet's, relative to the largest logit."""

    difference: float
    images: int


@dataclasses.dataclass(frozen=True)
class Exported:
    """One format of a network, loaded from its files by its own runtime and compared.

    Attributes:
        difference: largest one of a logit from the Flax network's, relative to the largest logit.
        images: on how many.
        size: height and width, in pixels of the images that are fed.
        pixels: whether they are uint8, normalised by the network itself.
        files: SHA-256 of each; what holds variables for Flax is covered by the network's own.
    """

    difference: float
    images: int
    size: tuple[int, ...]
    pixels: bool
    files: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Description:
    """`network.json`, field by field; all of them are always there.

    Attributes:
        format: always `FORMAT`.
        version: of the format.
        space: name of the search space that it was taken from.
        arch: the decisions, as the space notes them.
        resolution: pixels to which the network resizes its input.
        input_channels: of the images.
        mean: per channel, of pixels in 0..1; `(pixel / 255 - mean) / std` is the input.
        std: per channel, likewise.
        preparation: how an image file becomes these pixels; None where nobody said.
        classes: names of the classes, in the order of the logits.
        blocks: in order.
        code: the user's file that it needs, if any.
        macs: multiply-accumulates for one image.
        parameters: how many numbers it has, statistics of normalisations aside.
        accuracy: share of images classified correctly in [0, 1], by the name of the split.
        calibration: of the statistics.
        source: where it came from: run, checkpoint, ...
        proof: that it is the same network as in the supernet.
        dtype: of the parameters.
        sha256: of structure and weights.
        formats: in which the folder holds the network, by name.
    """

    format: str
    version: int
    space: str
    arch: Any
    resolution: int
    input_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: Preparation | None
    classes: tuple[str, ...]
    blocks: tuple[BlockDescription, ...]
    code: Code | None
    macs: int
    parameters: int
    accuracy: dict[str, float]
    calibration: Calibration
    source: dict
    proof: Proof
    dtype: str
    sha256: str
    formats: dict[str, Exported]


def read_description(folder: str | pathlib.Path) -> dict[str, Any]:
    """The content of `network.json`, checked field by field; see `Description`.

    Raises:
        UserError: it is missing, not JSON, or has missing, unknown or wrong fields.
    """
    path = pathlib.Path(folder) / "network.json"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not an extracted network: it has no network.json; "
            "`supernet extract` writes such folders"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise files.unreadable(path, error, kind="JSON file") from error
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise files.unreadable(path, error, kind="JSON file") from None
    if isinstance(value, dict) and value.get("version", VERSION) not in (1, 2, VERSION):
        raise UserError(
            f"{path} has version {value['version']}, this library reads 1 to {VERSION}; "
            "install the version of supernet_jax that wrote it"
        )
    if isinstance(value, dict):
        value = _brought_up(value)
    described = parse(Description, value, str(path))
    if not 0 < described.resolution <= LARGEST_RESOLUTION:
        raise UserError(
            f"{path} has resolution {described.resolution}, allowed are 1 to {LARGEST_RESOLUTION}"
        )
    return value


def _brought_up(value: dict[str, Any]) -> dict[str, Any]:
    """A description of an earlier version with the fields that have come since."""
    if value.get("version") == 1:
        value = {**value, "formats": {}}
    if value.get("version") in (1, 2):
        value = {"preparation": None, **value}
        of_formats = value.get("formats")
        for one in of_formats.values() if isinstance(of_formats, dict) else ():
            if isinstance(one, dict) and type(one.get("size")) is int:
                one["size"] = [one["size"]] * 2
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
