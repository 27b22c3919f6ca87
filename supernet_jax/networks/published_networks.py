"""Networks by the names that `load` takes: a folder, or a place on the hub; one network, or one of
several that a table lists.

A *published front* is a folder with `front.json`, the table, and a folder for each of its networks.
Of one on the hub only the table and the files of the network that was chosen are fetched.
"""

import dataclasses
import json
import os
import pathlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any

from supernet_jax.errors import UserError, require
from supernet_jax.networks import manifest
from supernet_jax.networks.description_parts import TENSORS
from supernet_jax.storage import files, hub, local_copy
from supernet_jax.storage.paths import expanded
from supernet_jax.storage.typed_json import parse

TABLE = "front.json"
DESCRIPTION = "network.json"
FORMAT = "supernet_jax front"
VERSION = 1
NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)  # of the folder of a network
SHOWN = 12  # networks that a message lists


@dataclasses.dataclass(frozen=True)
class Listed:
    """A network of a table.

    Attributes:
        folder: that holds it, beside the table.
        arch: the decisions, as the space notes them.
        values: of the task's metric, by the name of the split.
        macs: multiply-accumulates for one example.
        parameters: how many numbers it has.
        costs: others that are known, as milliseconds, by name with unit.
        sha256: of the network, as its `network.json` has it.
    """

    folder: str
    arch: object
    values: dict[str, float]
    macs: int
    parameters: int
    costs: dict[str, float]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Table:
    """`front.json`, field by field.

    Attributes:
        format: always `FORMAT`.
        version: always `VERSION`.
        space: name of the search space.
        metric: of the task, by which the networks are compared.
        networks: cheapest first.
    """

    format: str
    version: int
    space: str
    metric: str
    networks: tuple[Listed, ...]


def local(path: str | os.PathLike[str], arch: Any = None) -> pathlib.Path:
    """The folder of this machine that holds one network; what lies elsewhere is copied first.

    Args:
        path: of a network or of a published front: a folder, also of a bucket, or a place on the
            hub, as `hf:ORG/NAME`, `hf:ORG/NAME@REVISION` or `hf:ORG/NAME/FOLDER`.
        arch: which network of a front: its arch in the notation of the space, as a mapping or as
            JSON; `front:N`; or the name of its folder. None for what is one network.

    Raises:
        UserError: there is no such network; several, and no arch; one, and an arch.
    """
    place, text = hub.address(path), os.fspath(path) if isinstance(path, os.PathLike) else path
    if place is None:
        folder = expanded(path)
        if arch is None and not _is_front(folder):
            return local_copy.local(folder)
    else:
        names = (DESCRIPTION, TENSORS, TABLE)
        folder, place = hub.fetched(place, names)
    if not _is_front(folder):
        require(arch is None, f"{text} holds one network, and no table of several; leave arch out")
        require(
            files.exists(folder / DESCRIPTION),
            f"{text} has neither {DESCRIPTION} nor {TABLE}: it is no network of this library; "
            "`supernet publish` writes such repositories",
        )
        return folder
    one = _chosen(read_table(folder), arch, text)
    if place is not None:
        inside = posixpath.join(place.folder, one.folder)
        there, _ = hub.fetched(place._replace(folder=inside), (DESCRIPTION, TENSORS))
    else:
        there = local_copy.local(folder / one.folder)
    if manifest.read_description(there)["sha256"] != one.sha256:
        raise UserError(
            f"{text}: {one.folder} holds another network than {TABLE} says; it was damaged or "
            "edited, publish it again"
        )
    return there


def read_table(folder: pathlib.Path) -> Table:
    """The table of a published front, checked field by field.

    Raises:
        UserError: it is missing, not JSON, or not such a table.
    """
    path = folder / TABLE
    value = files.read_json(path)
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path} has format {value['format']!r}, not {FORMAT!r}: it is no table of this "
            "library; `supernet publish` writes such"
        )
    if isinstance(value, dict) and value.get("version", VERSION) != VERSION:
        raise UserError(
            f"{path} has version {value['version']}, this library reads {VERSION}; install the "
            "version of supernet_jax that wrote it"
        )
    table: Table = parse(Table, value, str(path))
    for one in table.networks:
        require(
            NAME.fullmatch(one.folder) is not None,
            f"{path} names a folder {one.folder!r}; names have letters, digits and - _ .",
        )
    require(bool(table.networks), f"{path} lists no network; publish the front again")
    return table


def files_of_networks(paths: Sequence[str]) -> set[str]:
    """Those of a repository's files that belong to its networks.

    Args:
        paths: of all files, relative to it.
    """
    own = {posixpath.dirname(path) for path in paths if posixpath.basename(path) == DESCRIPTION}
    folders = tuple(f"{folder}/" for folder in own if folder)
    top = {TABLE, DESCRIPTION, TENSORS, "model.onnx", "model.stablehlo"}
    return {path for path in paths if path in top or path.startswith((*folders, "torch/"))}


def _is_front(folder: pathlib.Path) -> bool:
    return files.exists(folder / TABLE) and not files.exists(folder / DESCRIPTION)


def _chosen(table: Table, arch: Any, text: Any) -> Listed:
    networks = table.networks
    names = {f"front:{i}": one for i, one in enumerate(networks)}
    names |= {one.folder: one for one in networks}
    if isinstance(arch, str) and arch in names:
        return names[arch]
    for one in networks:
        if arch is not None and one.arch == _noted(arch):
            return one
    shown = []
    for i, one in enumerate(networks[:SHOWN]):
        split = "test" if "test" in one.values else next(iter(one.values), "")
        value = f", {split} {one.values[split]:.4g}" if split else ""
        shown.append(f"front:{i} ({one.macs:,} MACs{value})")
    more = [f"... front:{len(networks) - 1}"] if len(networks) > SHOWN else []
    said = "no arch was given" if arch is None else f"arch is {arch!r}"
    raise UserError(
        f"{text} holds {len(networks)} networks by {table.metric}, and {said}; give arch= one of "
        f"{', '.join([*shown, *more])}, an arch in the notation of the space, or the name of a "
        f"folder as {text}/{networks[0].folder}"
    )


def _noted(arch: Any) -> Any:
    """An arch as it comes out of JSON; what is none is equal to no arch."""
    try:
        return json.loads(arch if isinstance(arch, str) else json.dumps(arch))
    except (TypeError, ValueError):
        return None
