"""Extracted networks: plain Flax modules, and the folders they are loaded from.

Nothing here knows of spaces, archs or shared parameters. A folder holds `network.json`, which says
what the network is made of, its variables in `weights` (an Orbax checkpoint) or in
`model.safetensors`, and `README.md`. It may hold other formats (`supernet_jax.export`), which are
loaded without this library.

    module, variables = load(folder)
    logits = module.apply(variables, images)  # float [B, H, W, C], normalised -> float32 [B, K]
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import checkpoint, layers, machine, tensors, userfile
from supernet_jax.blocks import (
    HardHead,
    HardStem,
    Head,
    HeadSpec,
    InvertedResidual,
    InvertedResidualSpec,
    MBConv,
    MBConvSpec,
    Stem,
    StemSpec,
)
from supernet_jax.errors import UserError
from supernet_jax.schema import parse

Array = jax.Array
Variables = dict[str, Any]  # {"params": ..., "stats": ...}, each {block: {layer: ...}}
FORMAT, VERSION = "supernet_jax network", 2  # version 1 had no field `formats`
WEIGHTS, TENSORS = "weights", "model.safetensors"  # where variables are, the first that is there
SOURCES = {"orbax": WEIGHTS, "safetensors": TENSORS}  # by the name of the format
LARGEST_RESOLUTION = 4096
LIBRARY: dict[str, tuple[type[nn.Module], type]] = {
    "Stem": (Stem, StemSpec),
    "MBConv": (MBConv, MBConvSpec),
    "Head": (Head, HeadSpec),
    "HardStem": (HardStem, StemSpec),
    "InvertedResidual": (InvertedResidual, InvertedResidualSpec),
    "HardHead": (HardHead, HeadSpec),
}


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a network: `module(spec)` under the name of its variables."""

    name: str
    module: type[nn.Module]
    spec: Any


class Network(nn.Module):
    """The blocks of one subnet, at their own sizes.

    Attributes:
        blocks: those that the subnet has, in order.
        resolution: images are resized to this many pixels on each side.
        forward: None runs the blocks one after another. Otherwise `forward(run, x)`, in which
            `run(name, *inputs)` runs one block, or returns its first input where there is none.
    """

    blocks: tuple[Block, ...]
    resolution: int
    forward: Callable[..., Array] | None = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Images `[B, H, W, C]`, float and normalised -> logits, float32 `[B, K]`."""
        x = layers.resize_bicubic(images.astype(jnp.float32), self.resolution)
        modules = {b.name: b.module(b.spec, name=b.name) for b in self.blocks}
        if self.forward is not None:
            return self.forward(_Run(modules), x).astype(jnp.float32)
        for module in modules.values():
            x = module(x)
        return x.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Run:
    modules: Mapping[str, nn.Module]

    def __call__(self, name: str, *inputs: Array) -> Array:
        module: Any = self.modules.get(name)
        return inputs[0] if module is None else module(*inputs)


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
        size: height and width in pixels of the images that are fed.
        pixels: whether they are uint8, normalised by the network itself.
        files: SHA-256 of each; what holds variables for Flax is covered by the network's own.
    """

    difference: float
    images: int
    size: int
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


@functools.lru_cache(maxsize=2)
def compiled_quickly(network: Network) -> Callable[[Variables, Any], Array]:
    """`(variables, images) -> logits`, compiled for a few runs rather than for many."""
    return jax.jit(network.apply, compiler_options=machine.runs_once())


def load(
    folder: str | pathlib.Path,
    *,
    space_file: str | pathlib.Path | None = None,
    source: str | None = None,
) -> tuple[Network, Variables]:
    """An extracted network and its variables, as jax arrays.

    Args:
        folder: as `extract.save` wrote it.
        space_file: your Python file that defines the network's blocks or topology, for networks
            that have such. It is run; no other code is.
        source: `WEIGHTS` or `TENSORS`, where the folder has both; None takes what is there.

    Raises:
        UserError: no such folder; a `network.json` that is broken, edited or does not fit the
            weights; damaged weights; a space file that is needed, wrong or not a Python file.
    """
    folder = pathlib.Path(folder)
    description = parse(Description, read_description(folder), "network.json")
    module = build(description, _user_code(description, space_file))
    return module, read_variables(folder, description, module, source=source)


def read_description(folder: str | pathlib.Path) -> dict[str, Any]:
    """The content of `network.json`, checked field by field; see `Description`.

    Raises:
        UserError: it is missing, not JSON, or has missing, unknown or wrong fields.
    """
    path = pathlib.Path(folder) / "network.json"
    try:
        value = json.loads(path.read_text("utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not an extracted network: it has no network.json; "
            "`supernet extract` writes such folders"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if isinstance(value, dict) and value.get("version", VERSION) not in (1, VERSION):
        raise UserError(
            f"{path} has version {value['version']}, this library reads 1 to {VERSION}; "
            "install the version of supernet_jax that wrote it"
        )
    if isinstance(value, dict) and value.get("version") == 1:
        value = {**value, "formats": {}}
    described = parse(Description, value, str(path))
    if not 0 < described.resolution <= LARGEST_RESOLUTION:
        raise UserError(
            f"{path} has resolution {described.resolution}, allowed are 1 to {LARGEST_RESOLUTION}"
        )
    return value


def build(description: Description, code: Mapping[str, Any]) -> Network:
    """The module that a description stands for.

    Args:
        description: of the network.
        code: what the user's file defines, by name.
    """
    blocks = []
    for i, block in enumerate(description.blocks):
        where = f"network.json: blocks[{i}]"
        module, spec = _types(block, code, where)
        blocks.append(Block(block.name, module, parse(spec, block.spec, f"{where}.spec")))
    names = [block.name for block in blocks]
    if len(set(names)) < len(names):
        raise UserError(f"network.json: two blocks have one name among {', '.join(names)}")
    forward = None
    if description.code is not None and description.code.forward is not None:
        forward = code.get(description.code.forward)
        if not callable(forward):
            raise UserError(
                f"{description.code.file} defines no function {description.code.forward}, which "
                "network.json names as its topology; pass the file that it was extracted with"
            )
    return Network(tuple(blocks), description.resolution, forward)


def _types(
    block: BlockDescription, code: Mapping[str, Any], where: str
) -> tuple[type[nn.Module], type]:
    if block.spec_type is None:
        if block.type not in LIBRARY:
            raise UserError(
                f"{where}.type is {block.type!r}, but the library has {', '.join(LIBRARY)}; was "
                "network.json edited, or written by a later version?"
            )
        return LIBRARY[block.type]
    module, spec = code.get(block.type), code.get(block.spec_type)
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise UserError(f"{where}: your file defines no Flax module {block.type}")
    if not (isinstance(spec, type) and dataclasses.is_dataclass(spec)):
        raise UserError(f"{where}: your file defines no dataclass {block.spec_type}")
    return module, spec


def _user_code(
    description: Description, space_file: str | pathlib.Path | None
) -> Mapping[str, Any]:
    own = sorted({b.type for b in description.blocks if b.spec_type is not None})
    needed = [*own, "its topology"] if description.code and description.code.forward else own
    if not needed:
        return {}
    recorded = description.code
    seen = f"it was {recorded.file} (sha256 {recorded.sha256})" if recorded else "none is recorded"
    if space_file is None:
        raise UserError(
            f"the network needs a file of yours, which defines {', '.join(needed)}: {seen}; "
            "look at it, for it will be run, and pass space_file=..."
        )
    path = pathlib.Path(space_file)
    if not path.is_file():
        raise UserError(f"there is no file {path} to load the network's blocks from; {seen}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if recorded and digest != recorded.sha256:
        warnings.warn(
            f"{path} is not the file that the network was extracted with: {seen}", stacklevel=3
        )
    return vars(userfile.run(path))


def read_variables(
    folder: pathlib.Path, description: Description, module: Network, *, source: str | None = None
) -> Variables:
    """The variables of a network, after making sure that they are the module's own.

    Args:
        folder: of the network.
        description: what its `network.json` says.
        module: what that stands for.
        source: `WEIGHTS` or `TENSORS`; None takes what is there.

    Raises:
        UserError: damaged or edited files; the message names the first array that does not fit.
    """
    source = _weights_of(folder, description) if source is None else source
    path = folder / source
    if source == TENSORS:
        check_fit(module, tensors.nested(tensors.shapes(path), path), description)
        variables = tensors.nested(tensors.read(path), path)
    else:
        check_fit(module, checkpoint.tree_shapes(path), description)
        variables = checkpoint.read_tree(path)
    if digest(description, variables) != description.sha256:
        raise UserError(
            f"{folder} has been changed since it was written: network.json and the weights do not "
            "match its sha256; copy the folder again, or extract the network again"
        )
    tensors.check_finite(_leaves(variables), folder)
    return {"params": {}, "stats": {}, **jax.tree.map(jnp.asarray, variables)}


def _weights_of(folder: pathlib.Path, description: Description) -> str:
    there = [name for name in SOURCES.values() if (folder / name).exists()]
    if not there and description.formats and not SOURCES.keys() & description.formats.keys():
        raise UserError(
            f"{folder} holds the network as {', '.join(description.formats)} only, which its "
            "README.md shows how to run; for a Flax network extract it with --format orbax or "
            "safetensors"
        )
    return there[0] if there else WEIGHTS


def check_fit(module: Network, shapes: Any, description: Description) -> None:
    """Makes sure that variables of these shapes are exactly those of the module.

    Raises:
        UserError: they are not; nothing of the described sizes was allocated.
    """
    there = _flat(shapes)
    leaves = tuple((name, leaf.shape, leaf.dtype) for name, leaf in _leaves(shapes).items())
    try:
        own, logits = _own_shapes(module, leaves, description.input_channels)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise UserError(f"network.json does not fit the weights beside it: {reason}") from error
    for name in [*own, *there]:
        if own.get(name) != there.get(name):
            raise UserError(
                f"network.json does not fit the weights beside it: {name} is "
                f"{there.get(name, 'missing')}, but must be {own.get(name, 'left out')}"
            )
    if logits != (1, len(description.classes)):
        raise UserError(
            f"network.json names {len(description.classes)} classes, but the network has "
            f"{list(logits)[1:]} logits"
        )


@functools.lru_cache(maxsize=8)  # tracing a network takes longer than reading it
def _own_shapes(
    module: Network, leaves: tuple[Any, ...], channels: int
) -> tuple[dict[str, str], tuple[int, ...]]:
    """What variables a module makes itself, and the shape of its logits for one image.

    Args:
        module: of the network.
        leaves: (name, shape, dtype) of the variables that there are.
        channels: of the images.

    Raises whatever a module or Flax does where the variables do not fit.
    """
    images = jax.ShapeDtypeStruct((1, module.resolution, module.resolution, channels), jnp.float32)
    given = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in leaves}
    # With the shapes at hand Flax compares each parameter before anything is computed from it.
    logits = jax.eval_shape(module.apply, tensors.nested(given, "the weights"), images)
    made = jax.eval_shape(module.init, jax.random.key(0), images)
    own = {"params": made.get("params", {}), "stats": made.get("moments", {})}
    return _flat(own), logits.shape


def digest(description: Description, variables: Variables) -> str:
    """SHA-256 of what a network computes: its structure, its input, and its weights."""
    d = description
    structure = [d.resolution, d.input_channels, d.mean, d.std, d.classes, d.dtype]
    structure += [[dataclasses.asdict(block) for block in d.blocks], d.code and d.code.forward]
    total = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name, leaf in sorted(_leaves(variables).items()):
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def filled(variables: Variables) -> Variables:
    """The kinds of variables of which there are any: only those are stored."""
    return {kind: tree for kind, tree in variables.items() if jax.tree.leaves(tree)}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _leaves(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _flat(tree: Any) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _leaves(tree).items()}
