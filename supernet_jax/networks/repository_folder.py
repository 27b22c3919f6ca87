"""The folder of what becomes a repository on the hub: one network, or several with a table.

Weights are always written as safetensors. What tells of this machine is left out: paths are
shortened to names. All else is as it was extracted: the same network, its digest and its proofs.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from supernet_jax.errors import UserError, near, require
from supernet_jax.networks import hub_card, manifest, network_folder, published_networks
from supernet_jax.networks.description_parts import SOURCES, TENSORS, WEIGHTS
from supernet_jax.networks.formats import table as formats_table
from supernet_jax.networks.hub_card import About
from supernet_jax.networks.manifest import described
from supernet_jax.networks.published_networks import DESCRIPTION, TABLE, Listed, Table
from supernet_jax.storage import files
from supernet_jax.storage.hub import CARD
from supernet_jax.storage.paths import shortened

Costs = Mapping[str, Mapping[str, float]]


class Networks(NamedTuple):
    """Networks that are to be published together.

    Attributes:
        folders: local, of one network each, cheapest first.
        front: whether they get a table, even if it is one.
        costs: further ones that are known of them, by name with unit; by the arch, as JSON.
        card: a text for `README.md` that is taken as it is; "" makes one.
    """

    folders: tuple[pathlib.Path, ...]
    front: bool
    costs: Costs
    card: str


def found(folder: pathlib.Path) -> Networks | None:
    """The networks of a folder: it is one, or holds some; None where there is none.

    Args:
        folder: local; of one network, of several as `supernet extract --front` writes it, or what
            `write` wrote.

    Raises:
        UserError: a table that does not fit the folder.
    """
    card = ""
    if files.exists(folder / CARD):
        text = files.read_text(folder / CARD)
        card = text if hub_card.is_card(text) else ""
    if files.exists(folder / DESCRIPTION):
        return Networks((folder,), False, {}, card)
    if files.exists(folder / TABLE):
        table = published_networks.read_table(folder)
        costs = {files.dumps(one.arch): one.costs for one in table.networks}
        return Networks(tuple(folder / one.folder for one in table.networks), True, costs, card)
    inside = [path.parent for path in files.found(folder, f"*/{DESCRIPTION}")]
    inside.sort(key=lambda path: (manifest.read_description(path)["macs"], path.name))
    return Networks(tuple(inside), True, {}, card) if inside else None


def write(
    folder: pathlib.Path, networks: Networks, about: About, formats: Sequence[str] | None
) -> None:
    """Writes the files of a repository into an empty folder.

    Args:
        folder: local.
        networks: what is to be in it.
        about: the repository.
        formats: of programs to keep, by name; None keeps all that are there.

    Raises:
        UserError: a network that is damaged, or is not there in one of the formats; networks that
            are not of one supernet.
    """
    make_body = formats_table.card(formats_table.FORMATS)
    if not networks.front:
        description = _write_network(networks.folders[0], folder, formats)
        body = hub_card.body_of(description, make_body, about, "")
        made = networks.card or hub_card.of_network(described(description), body, about)
        files.write_text(folder / CARD, made)
        return
    for source in networks.folders:
        require(
            published_networks.NAME.fullmatch(source.name) is not None,
            f"{source} cannot be a folder of a repository: names have letters, digits and - _ .",
        )
    whole = []
    for source in networks.folders:
        to = folder / source.name
        files.make_folder(to)
        description = _write_network(source, to, formats)
        body = hub_card.body_of(description, make_body, about, source.name)
        files.write_text(to / CARD, body)
        whole.append((source.name, description))
    table = _table(whole, networks.costs)
    files.write_json(folder / TABLE, dataclasses.asdict(table))
    all_described = [described(description) for _, description in whole]
    card = networks.card or hub_card.of_front(table, all_described, about)
    files.write_text(folder / CARD, card)


def _write_network(
    source: pathlib.Path, to: pathlib.Path, formats: Sequence[str] | None
) -> dict[str, Any]:
    """Copies a network. Returns its description, as written."""
    description = manifest.read_description(source)
    there = described(description)
    arrays = network_folder.read_arrays(source, there)
    programs = [name for name in there.formats if name not in SOURCES]
    wanted = programs if formats is None else [name for name in formats if name not in SOURCES]
    for name in wanted:
        if name not in programs:
            held = ", ".join(there.formats) or WEIGHTS
            raise UserError(
                f"--format names {name}, but {source} holds the network as {held}"
                f"{near(name, programs)}; extract it with --format safetensors {name}"
            )
    if files.exists(source / TENSORS):
        _write(to / TENSORS, files.read_bytes(source / TENSORS))
    else:
        said = manifest.facts(description)
        network_folder.write_variables(to, arrays, TENSORS, said=said)
    entries = _weights_entry(to, description["formats"])
    for name in wanted:
        for file, digest in there.formats[name].files.items():
            content = formats_table.content_of(source, file, digest)
            files.make_folder((to / file).parent)
            _write(to / file, content)
        entries[name] = description["formats"][name]
    description = {**_without_paths(description), "formats": entries}
    files.write_json(to / DESCRIPTION, description)
    network_folder.read_arrays(to, described(description), source=TENSORS)
    return description


def _write(path: pathlib.Path, content: bytes) -> None:
    files.write_bytes(path, lambda file: file.write(content))


def _weights_entry(to: pathlib.Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """What `formats` says of the weights: they are bit by bit those that were compared."""
    known = next((entries[name] for name in reversed(SOURCES) if name in entries), None)
    if known is None:  # of a folder that is older than formats
        return {}
    digest = formats_table.digest_of(to / TENSORS)
    return {"safetensors": {**known, "files": {TENSORS: digest}}}


def _without_paths(description: dict[str, Any]) -> dict[str, Any]:
    """Without what tells of this machine."""
    source = dict(description["source"])
    for key in ("run", "data"):
        if isinstance(source.get(key), str):
            source[key] = shortened(source[key])
    code = description["code"]
    if code is not None:
        code = {**code, "file": shortened(code["file"])}
    return {**description, "source": source, "code": code}


def _table(whole: Sequence[tuple[str, dict[str, Any]]], costs: Costs) -> Table:
    """The table of networks that were written.

    Raises:
        UserError: they are of several spaces, or compared by several metrics.
    """
    kinds = {(one["space"], described(one).metric.name) for _, one in whole}
    if len(kinds) > 1:
        seen = ", ".join(f"{space} by {metric}" for space, metric in sorted(kinds))
        raise UserError(f"networks of one repository are of one supernet, but these are: {seen}")
    (space, metric) = kinds.pop()
    listed = tuple(
        Listed(
            folder=folder,
            arch=one["arch"],
            values=hub_card.values_of(described(one)),
            macs=one["macs"],
            parameters=one["parameters"],
            costs=dict(costs.get(files.dumps(one["arch"]), {})),
            sha256=one["sha256"],
        )
        for folder, one in whole
    )
    return Table(published_networks.FORMAT, published_networks.VERSION, space, metric, listed)
