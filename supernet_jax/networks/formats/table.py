"""All formats, and how a network is written in some of them: nothing is kept that is not the same.

A format whose runtime is optional imports it only where it writes or loads.
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from supernet_jax.data import augment
from supernet_jax.errors import UserError, near
from supernet_jax.networks import manifest, network_folder
from supernet_jax.networks.classifier_manifest import LARGEST_SIZE
from supernet_jax.networks.description_parts import SOURCES, WEIGHTS
from supernet_jax.networks.formats import onnx, stablehlo, torch
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.networks.manifest import facts, model_card
from supernet_jax.networks.network import LIMIT, Network, Runner, difference, flax_runner
from supernet_jax.nn import resize
from supernet_jax.nn.blocks import BLOCKS
from supernet_jax.storage import files, local_copy
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import ImageClassification, OfTokens


def _weights(name: str) -> Format:
    """A format of the network's folder itself: its variables, for a Flax module."""
    source = SOURCES[name]

    def write(folder: pathlib.Path, export: Export) -> None:
        network_folder.write_variables(
            folder, export.variables, source, said=facts(export.description)
        )

    def load(folder: pathlib.Path) -> Runner:
        return flax_runner(*network_folder.load(folder, source=source))

    return Format(name, write, load, program=False)


FORMATS: tuple[Format, ...] = (
    *map(_weights, SOURCES),
    stablehlo.FORMAT,
    onnx.FORMAT,
    torch.FORMAT,
)


def names(*, program: bool) -> str:
    """The names of all formats that are programs, or hold weights alone, as a list in a text."""
    return ", ".join(format.name for format in FORMATS if format.program == program)


def chosen(wanted: Sequence[str], *, pixels: bool, size: int | None) -> tuple[Format, ...]:
    """The formats of these names, if all can be written here.

    Args:
        wanted: their names, as in `--format`; one that comes twice counts once.
        pixels: whether inputs are to be uint8.
        size: of their sides, None for those of the data set.

    Raises:
        UserError: no or an unknown format; one that is not a program, with settings that only
            programs have; a package that is not installed.
    """
    known = {format.name: format for format in FORMATS}
    if not wanted:
        raise UserError(f"--format names no format; allowed: {', '.join(known)}")
    for name in wanted:
        if name not in known:
            allowed = ", ".join(known)
            raise UserError(f"--format is {name!r}, allowed: {allowed}{near(name, known)}")
    formats = tuple(known[name] for name in dict.fromkeys(wanted))
    programs = names(program=True)
    weights = [format.name for format in formats if not format.program]
    if pixels and weights:
        raise UserError(
            f"--pixels puts the normalisation into the network's program, and {weights[0]} holds "
            f"weights alone; leave --pixels out, or write only formats of {programs}"
        )
    if size is not None and len(weights) == len(formats):
        raise UserError(
            f"--input-size is of the network's program, and {weights[0]} holds weights alone, for "
            f"images of any size; leave it out, or add a format of {programs}"
        )
    if size is not None and not 0 < size <= LARGEST_SIZE:
        raise UserError(f"--input-size is {size}, allowed are 1 to {LARGEST_SIZE}")
    _check_installed(formats)
    return formats


def _check_installed(formats: Sequence[Format]) -> None:
    missing = [(f.name, need) for f in formats for need in missing_packages(f)]
    if missing:
        names = ", ".join(dict.fromkeys(name for name, _ in missing))
        needs = list(dict.fromkeys(need for _, need in missing))
        command = shlex.join([sys.executable, "-m", "pip", "install", *needs])
        raise UserError(f"{names} needs packages that are not installed; install them: {command}")


def missing_packages(format: Format) -> list[str]:
    """Which of the packages that a format needs are not installed, as pip requirements."""
    return [need for need in format.packages if not _is_there(need)]


def _is_there(requirement: str) -> bool:
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def load(folder: str | pathlib.Path, name: str) -> Runner:
    """What a folder holds in one format, in that format's own runtime on CPU.

    Nothing is run or given to a runtime but the very files that were written.

    Args:
        folder: of an extracted network.
        name: of the format.

    Returns:
        `inputs -> logits`: float32 `[B, H, W, C]`, or uint8 if its `pixels` are true, of the size
        that `description_parts.Exported` says.

    Raises:
        UserError: no such format, none in this folder, or files that were changed.
    """
    folder = local_copy.local(expanded(folder))
    there = manifest.described(manifest.read_description(folder), "network.json").formats
    if name not in there:
        found = ", ".join(there) or "none that is recorded"
        raise UserError(f"{folder} does not hold the network as {name!r}, only as {found}")
    [format] = chosen([name], pixels=False, size=None)
    for file, digest in there[name].files.items():
        content_of(folder, file, digest)
    return format.load(folder)


def content_of(folder: pathlib.Path, file: str, digest: str) -> bytes:
    """The content of a file of a network, which is the one that was written.

    Args:
        folder: of the network, local.
        file: path in it.
        digest: its SHA-256, as `network.json` has it.

    Raises:
        UserError: it is missing, leads out of the folder, or was changed.
    """
    path = folder / file
    inside = pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    try:
        content = path.read_bytes() if inside else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        content = None
    except OSError as error:
        raise files.unreadable(path, error) from error
    if content is None:
        raise UserError(f"{folder} has no file {file}; copy the folder again")
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(
            f"{path} has been changed since it was written: network.json has another sha256; "
            "copy the folder again, or extract the network again"
        )
    return content


def check_blocks(format: Format, network: Network) -> None:
    """Makes sure that a format can write a network.

    Raises:
        UserError: it is written block by block, and the network has a topology of its own or a
            block that it does not know; the message says which, and which formats can write it.
    """
    if format.blocks is None:
        return
    *most, last = [other.name for other in FORMATS if other.blocks is None]
    others = f"the formats {', '.join(most)} and {last} can"
    if network.forward is not None:
        raise UserError(
            f"{format.name} can only be written of blocks that run one after another, but this "
            "network has a topology of its own, "
            f"{network_folder.topology_name(network.forward)}; {others}"
        )
    known = {name: kind for name, kind in BLOCKS.items() if name in format.blocks}
    for block in network.blocks:
        if block.module not in known.values():
            raise UserError(
                f"{format.name} cannot be written of block {block.name!r}, which is a "
                f"{block.module.__name__}, but only of {', '.join(known)}; {others}"
            )
        if not block.name.isidentifier():
            raise UserError(
                f"{format.name} cannot be written of a block called {block.name!r}, only of names "
                f"made of letters, digits and underscores; rename it in the space, or {others}"
            )


def fed(examples: np.ndarray, export: Export) -> np.ndarray:
    """Examples as they will be fed to a network: at its input size, normalised unless it does that;
    text as whole numbers, and others as their task fits them.

    Args:
        examples: uint8 `[B, H, W, C]`; of text `[B, T]`; others as the data set has them.
        export: the network.
    """
    if isinstance(export.network.task, OfTokens):
        return examples.astype(np.int32)
    if not isinstance(export.network.task, ImageClassification):
        fitted = export.network.task.fit(examples, export.network.size)
        return np.asarray(fitted, export.network.task.inputs(export.network.size).dtype)
    whole = examples
    if examples.shape[1:3] != export.size:
        rows, columns = map(resize.bicubic_matrix, examples.shape[1:3], export.size)
        resized = np.einsum("hH,wW,bHWc->bhwc", rows, columns, examples, optimize=True)
        whole = np.clip(np.round(resized), 0, 255).astype(np.uint8)
    return whole if export.pixels else _normalised(whole, export)


def writer(
    formats: Sequence[Format], export: Export, inputs: np.ndarray
) -> Callable[[pathlib.Path], dict[str, Any]]:
    """What `network_folder.save` takes as `write`: all formats, each loaded back and compared.

    Args:
        formats: at least one.
        export: the network.
        inputs: real ones, as `fed` makes them.

    Returns:
        `folder -> formats`, see `Exported`. It raises a `UserError` if what a format's
        runtime loads does not give the Flax network's logits, to `network.LIMIT`.

    Raises:
        UserError: as `check_blocks`.
    """
    for format in formats:
        check_blocks(format, export.network)

    def write(folder: pathlib.Path) -> dict[str, Any]:
        floats = _normalised(inputs, export) if export.pixels else inputs
        expected = flax_runner(export.network, export.variables)(floats)
        return {f.name: _write_one(f, folder, export, inputs, expected) for f in formats}

    return write


def card(formats: Sequence[Format]) -> Callable[..., str]:
    """What `network_folder.save` takes as `card`: with a snippet for each of these formats."""
    programs = {format.name: format.snippet for format in formats if format.snippet}
    of_text = {format.name: format.general_snippet for format in formats if format.general_snippet}
    return functools.partial(model_card, snippets=programs, general_snippets=of_text)


def _normalised(inputs: np.ndarray, export: Export) -> np.ndarray:
    mean, std = (tuple(export.description[name]) for name in ("mean", "std"))
    return np.asarray(augment.normalise(jnp.asarray(inputs), mean=mean, std=std))


def _write_one(
    format: Format,
    folder: pathlib.Path,
    export: Export,
    inputs: np.ndarray,
    expected: np.ndarray,
) -> dict[str, Any]:
    before = set(folder.iterdir())
    format.write(folder, export)
    new = sorted(set(folder.iterdir()) - before - {folder / WEIGHTS})
    written = [path for top in new for path in (top, *sorted(top.rglob("*"))) if path.is_file()]
    logits = _loaded(format, folder, export)(inputs)
    if logits.shape != expected.shape:
        raise UserError(
            f"the network as {format.name} gives logits of shape {list(logits.shape)}, but must "
            f"give {list(expected.shape)}; nothing was written"
        )
    worst = difference(logits, expected)
    if not worst <= LIMIT:
        raise UserError(
            f"the network as {format.name} is not the same: logits of {len(inputs)} inputs differ "
            f"by {worst:.1e} of the largest, allowed is {LIMIT:.0e}; nothing was written"
        )
    return {
        "difference": worst,
        "images": len(inputs),
        "size": list(export.size),
        "pixels": export.pixels,
        "files": {path.relative_to(folder).as_posix(): digest_of(path) for path in written},
    }


def digest_of(path: pathlib.Path) -> str:
    """SHA-256 of a file, as `Exported.files` has it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _loaded(format: Format, folder: pathlib.Path, export: Export) -> Runner:
    """What was written, in its runtime. Flax's module is at hand: its file may be the user's."""
    if format.program:
        return format.load(folder)
    described = manifest.described(manifest.read_description(folder), "network.json")
    back = network_folder.read_variables(
        folder, described, export.network, source=SOURCES[format.name]
    )
    return flax_runner(export.network, back)
