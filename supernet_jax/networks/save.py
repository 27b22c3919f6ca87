"""Writes a network's folder, whole or not at all, and reads it back."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import manifest, network, network_folder
from supernet_jax.networks.manifest import Description, read_description
from supernet_jax.networks.model_card import model_card
from supernet_jax.networks.network import Block, Network, Variables
from supernet_jax.networks.preparation import Preparation
from supernet_jax.networks.proof import LIMIT
from supernet_jax.storage import files, user_code
from supernet_jax.storage.paths import expanded
from supernet_jax.storage.typed_json import parse


def describe(
    space: Space,
    arch: Arch,
    made: Network,
    variables: Variables,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    preparation: Preparation | None = None,
    classes: Sequence[str] | None = None,
    accuracy: Mapping[str, float],
    calibration: tuple[int, int],
    source: Mapping[str, Any],
    proof: float,
    proof_images: int,
) -> dict[str, Any]:
    """What `network.json` says of an extracted network; see `manifest.Description`.

    Args:
        space: the space.
        arch: concrete, no batch axes.
        made: the extracted module.
        variables: its variables.
        mean: per channel, of pixels in 0..1, subtracted before the network.
        std: per channel, likewise, divided by.
        preparation: how an image became the pixels that the network was trained and measured on;
            None where that is not known.
        classes: their names in the order of the logits; None numbers them.
        accuracy: share classified correctly in [0, 1] by the name of the split, with statistics of
            this calibration.
        calibration: number of batches and images in a batch.
        source: JSON values that tell where it comes from, as run, checkpoint and step.
        proof: as `prove` returned it.
        proof_images: on how many images.

    Raises:
        UserError: a number of channels or classes that is not the space's; blocks or a topology
            that no file of the user's defines at top level.
    """
    classes = [str(i) for i in range(space.classes)] if classes is None else classes
    for what, given, needed in (
        ("mean", mean, space.input_channels),
        ("std", std, space.input_channels),
        ("class names", classes, space.classes),
    ):
        if len(given) != needed:
            raise UserError(f"{len(given)} {what} were given, but the space has {needed}")
    leaves = jax.tree.leaves(variables["params"])
    value = {
        "format": manifest.FORMAT,
        "version": manifest.VERSION,
        "space": space.name,
        "arch": notation.to_notation(space.menu, arch),
        "resolution": made.resolution,
        "input_channels": space.input_channels,
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
        "preparation": None if preparation is None else dataclasses.asdict(preparation),
        "classes": list(classes),
        "blocks": [_block(block) for block in made.blocks],
        "code": _code(made),
        "macs": int(costs.macs(space)(jax.tree.map(np.asarray, arch))),
        "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
        "accuracy": {split: float(share) for split, share in accuracy.items()},
        "calibration": {"batches": calibration[0], "batch": calibration[1]},
        "source": dict(source),
        "proof": {"difference": proof, "images": proof_images},
        "dtype": str(leaves[0].dtype),
        "sha256": "",
        "formats": {},
    }
    described = parse(Description, value, "the description")
    return {**value, "sha256": network_folder.digest(described, variables)}


def save(
    folder: str | pathlib.Path,
    made: Network,
    variables: Variables,
    *,
    description: Mapping[str, Any],
    write: Callable[[pathlib.Path], Mapping[str, Any]] | None = None,
    card: Callable[..., str] = model_card,
) -> dict[str, Any]:
    """Writes a folder that `load` reads: weights, `network.json`, and `README.md`.

    It appears by one rename, after what was written has been read back and found equal to the bit;
    if anything fails, nothing is left. One process writes, on a local disk.

    Args:
        folder: new or empty.
        made: the extracted module.
        variables: its variables.
        description: as `describe` made it.
        write: `folder -> formats` writes the network's files and says what the description is to
            hold as its `formats`, as `export.formats.writer` does; None writes `weights`.
        card: makes the text of `README.md`, called as `model_card` is.

    Returns:
        The description with its formats, as written.

    Raises:
        UserError: the folder is not empty or cannot be written; a description of another network,
            or without proof; whatever `write` raises.
    """
    folder = check_free(folder)
    if not description["proof"]["difference"] <= LIMIT:
        raise UserError(f"{folder}: the description holds no proof that the networks are the same")
    write = functools.partial(_write_weights, variables=variables) if write is None else write
    with unfinished(folder) as path:
        described = {**description, "formats": {}}
        files.write_json(path / "network.json", described)  # some formats are loaded with its help
        described["formats"] = dict(write(path))
        files.write_json(path / "network.json", described)
        files.write_text(path / "README.md", card(described, folder=str(folder)))
        _check_written(path, made, variables)
    return described


def check_free(folder: str | pathlib.Path) -> pathlib.Path:
    """The path, if `save` could write there.

    Raises:
        UserError: it is a file, a folder that is not empty, or cannot be looked into.
    """
    path = expanded(folder).absolute()
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} exists already; pass a new or an empty folder")
    except OSError as error:
        raise files.unwritable(path, error) from error
    return path


def _write_weights(folder: pathlib.Path, variables: Variables) -> dict[str, Any]:
    network_folder.write_orbax(folder, variables)
    return {}


def _block(block: Block) -> dict[str, Any]:
    """A block as JSON values, which must give the same spec when they are read."""
    kind, spec = block.module, type(block.spec)
    own = network.LIBRARY.get(kind.__name__, (None, None))[0] is not kind
    written = json.dumps(dataclasses.asdict(block.spec), default=repr)
    fields = json.loads(written, parse_constant=lambda constant: None)  # no NaN in any file
    if parse(spec, fields, f"the spec of block {block.name}") != block.spec:
        raise UserError(
            f"{block.spec} of block {block.name} holds more than plain numbers and text"
        )
    if own:
        _source(kind), _source(spec)
    return {
        "name": block.name,
        "type": kind.__name__,
        "spec": fields,
        "spec_type": spec.__name__ if own else None,
    }


def _code(made: Network) -> dict[str, Any] | None:
    """The user's file that the network needs, if any."""
    library = [kind for kind, _ in network.LIBRARY.values()]
    own: list[Any] = [b.module for b in made.blocks if b.module not in library]
    own += [made.forward] if made.forward is not None else []
    if not own:
        return None
    path = _source(own[-1])
    return {
        "file": str(path),
        "sha256": hashlib.sha256(files.read_bytes(path)).hexdigest(),
        "forward": None if made.forward is None else made.forward.__name__,
    }


def _source(thing: Any) -> pathlib.Path:
    """The file that defines a class or function, by whose name alone it can be found there."""
    path = user_code.source(thing)
    if path is None or not thing.__qualname__.isidentifier():  # as in a function, or a lambda
        raise UserError(
            f"{thing} cannot be loaded again: it is not defined at the top level of a file; move "
            "it there, so that its name and the file are enough"
        )
    return path


def _check_written(path: pathlib.Path, made: Network, variables: Variables) -> None:
    """Reads a folder as `load` would, and compares it with what was to be written."""
    described = parse(Description, read_description(path), "network.json")
    own = {b.module.__name__: b.module for b in made.blocks}
    specs = {type(b.spec).__name__: type(b.spec) for b in made.blocks}
    forward = {} if made.forward is None else {made.forward.__name__: made.forward}
    if network_folder.build(described, {**own, **specs, **forward}) != made:
        raise UserError("the description is not of this network; make it with describe")
    if network_folder.digest(described, variables) != described.sha256:
        raise UserError("the description and the variables do not match its sha256; describe these")
    for source in network_folder.SOURCES.values():
        if not (path / source).exists():
            continue
        back = network_folder.read_variables(path, described, made, source=source)
        for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(back), strict=True):
            if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                raise UserError(
                    f"{path.parent} does not keep what is written to it; is the disk broken?"
                )


@contextlib.contextmanager
def unfinished(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside the wanted one, which takes its name at the end or is removed.

    Args:
        folder: as `check_free` gave it.

    Raises:
        UserError: it cannot be written.
    """
    path = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(parents=True)
        yield path
        path.replace(folder)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    except UserError as error:  # of a name that is gone when it is read
        raise UserError(str(error).replace(str(path), str(folder))) from error
    finally:
        shutil.rmtree(path, ignore_errors=True)
