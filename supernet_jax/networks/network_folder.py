"""The folder of an extracted network: written whole or not at all, and loaded as a Flax module.

Nothing here knows of spaces, archs or shared parameters. A folder holds `network.json`, which says
what the network is made of, its variables in `weights` (an Orbax checkpoint) or in
`model.safetensors`, and `README.md`. It may hold other formats (`networks.formats`), which are
loaded without this library.

    save(folder, network, variables, description=extract.describe(...))

    module, variables = load(folder)
    logits = module.apply(variables, inputs)
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

from supernet_jax.errors import UserError
from supernet_jax.networks import published_networks
from supernet_jax.networks.description_parts import (
    SOURCES,
    TENSORS,
    WEIGHTS,
    BlockDescription,
    Topology,
)
from supernet_jax.networks.manifest import (
    Description,
    GeneralDescription,
    described,
    model_card,
    read_description,
    size_of,
    task_of,
)
from supernet_jax.networks.network import LIMIT, Block, Network, Variables
from supernet_jax.nn.blocks import BLOCKS, TOPOLOGIES, spec_type
from supernet_jax.storage import checkpoint, files, safetensors_file, user_code, whole_folder
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import expanded, on_this_machine
from supernet_jax.storage.typed_json import parse
from supernet_jax.tasks import Size, Task


def load(
    folder: str | pathlib.Path,
    *,
    arch: Any = None,
    space_file: str | pathlib.Path | None = None,
    source: str | None = None,
) -> tuple[Network, Variables]:
    """An extracted network and its variables, as jax arrays.

    Args:
        folder: of the network, as `supernet extract` wrote it, or on the hub, as `hf:ORG/NAME`.
        arch: which network, where a front was published there; see `published_networks.local`.
        space_file: your Python file that defines the network's blocks or topology, for networks
            that have such. It is run; no other code is.
        source: "weights" or "model.safetensors", where the folder has both; None takes what is
            there.

    Raises:
        UserError: no such folder; a `network.json` that is broken, edited or does not fit the
            weights; damaged weights; a space file that is needed, wrong or not a Python file.
    """
    folder = published_networks.local(folder, arch)
    description = described(read_description(folder), "network.json")
    module = build(description, _user_code(description, space_file))
    return module, read_variables(folder, description, module, source=source)


def build(description: Description | GeneralDescription, code: Mapping[str, Any]) -> Network:
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
    if description.topology is not None:
        forward = _topology(description.topology)
    elif description.code is not None and description.code.forward is not None:
        forward = code.get(description.code.forward)
        if not callable(forward):
            raise UserError(
                f"{description.code.file} defines no function {description.code.forward}, which "
                "network.json names as its topology; pass the file that it was extracted with"
            )
    return Network(tuple(blocks), *_size_and_task(description), forward)


def _topology(there: Topology) -> Any:
    if there.type not in TOPOLOGIES:
        raise UserError(
            f"network.json: topology.type is {there.type!r}, but the library has "
            f"{', '.join(TOPOLOGIES)}; was it edited, or written by a later version?"
        )
    return parse(TOPOLOGIES[there.type], there.fields, "network.json: topology.fields")


def _size_and_task(d: Description | GeneralDescription) -> tuple[Size, Task]:
    return (d.size, d.task) if isinstance(d, Description) else (size_of(d), task_of(d))


def _types(
    block: BlockDescription, code: Mapping[str, Any], where: str
) -> tuple[type[nn.Module], type]:
    if block.spec_type is None:
        if block.type not in BLOCKS:
            raise UserError(
                f"{where}.type is {block.type!r}, but the library has {', '.join(BLOCKS)}; was "
                "network.json edited, or written by a later version?"
            )
        return BLOCKS[block.type], spec_type(BLOCKS[block.type])
    module, spec = code.get(block.type), code.get(block.spec_type)
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise UserError(f"{where}: your file defines no Flax module {block.type}")
    if not (isinstance(spec, type) and dataclasses.is_dataclass(spec)):
        raise UserError(f"{where}: your file defines no dataclass {block.spec_type}")
    return module, spec


def _user_code(
    description: Description | GeneralDescription, space_file: str | pathlib.Path | None
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
    path = on_this_machine(expanded(space_file), "a space file is run")
    if not path.exists():
        raise UserError(f"there is no file {path} to load the network's blocks from; {seen}")
    digest = hashlib.sha256(files.read_bytes(path, kind="Python file")).hexdigest()
    if recorded and digest != recorded.sha256:
        warnings.warn(
            f"{path} is not the file that the network was extracted with: {seen}", stacklevel=3
        )
    return vars(user_code.run(path))


def read_variables(
    folder: pathlib.Path,
    description: Description | GeneralDescription,
    module: Network,
    *,
    source: str | None = None,
) -> Variables:
    """The variables of a network as jax arrays, after making sure that they are the module's own.

    Args:
        folder: of the network.
        description: what its `network.json` says.
        module: what that stands for.
        source: `WEIGHTS` or `TENSORS`; None takes what is there.

    Raises:
        UserError: damaged or edited files; the message names the first array that does not fit.
    """
    fits = functools.partial(check_fit, module, description=description)
    variables = read_arrays(folder, description, source=source, fits=fits)
    return {"params": {}, "stats": {}, **jax.tree.map(jnp.asarray, variables)}


def read_arrays(
    folder: pathlib.Path,
    description: Description | GeneralDescription,
    *,
    source: str | None = None,
    fits: Callable[[Any], None] = lambda shapes: None,
) -> Variables:
    """The variables of a network as they are on disk, after making sure that they are those that
    were described.

    Args:
        folder: of the network.
        description: what its `network.json` says.
        source: `WEIGHTS` or `TENSORS`; None takes what is there.
        fits: raises a `UserError` of shapes that are not the network's, before more is read.

    Raises:
        UserError: damaged or edited files.
    """
    source = _weights_of(folder, description) if source is None else source
    path = folder / source
    if source == TENSORS:
        variables = safetensors_file.nested(safetensors_file.read(path), path)
        fits(variables)
    else:
        check_orbax(folder)
        fits(checkpoint.tree_shapes(path))
        variables = checkpoint.read_tree(path)
    if digest(description, variables) != description.sha256:
        raise UserError(
            f"{folder} has been changed since it was written: network.json and the weights do not "
            "match its sha256; copy the folder again, or extract the network again"
        )
    safetensors_file.check_finite(_leaves(variables), folder)
    return variables


def _weights_of(folder: pathlib.Path, description: Description | GeneralDescription) -> str:
    there = [name for name in SOURCES.values() if (folder / name).exists()]
    if not there and description.formats and not SOURCES.keys() & description.formats.keys():
        raise UserError(
            f"{folder} holds the network as {', '.join(description.formats)} only, which its "
            "README.md shows how to run; for a Flax network extract it with --format "
            f"{' or '.join(SOURCES)}"
        )
    return there[0] if there else WEIGHTS


def check_fit(module: Network, shapes: Any, description: Description | GeneralDescription) -> None:
    """Makes sure that variables of these shapes are exactly those of the module.

    Raises:
        UserError: they are not; nothing of the described sizes was allocated.
    """
    there = _flat(shapes)
    leaves = tuple((name, leaf.shape, leaf.dtype) for name, leaf in _leaves(shapes).items())
    try:
        own, logits = _own_shapes(module, leaves)
    except Exception as error:  # whatever a block, of the user's perhaps, makes of other sizes
        reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise UserError(f"network.json does not fit the weights beside it: {reason}") from error
    for name in [*own, *there]:
        if own.get(name) != there.get(name):
            raise UserError(
                f"network.json does not fit the weights beside it: {name} is "
                f"{there.get(name, 'missing')}, but must be {own.get(name, 'left out')}"
            )
    if isinstance(description, Description):
        description.check_logits(logits)


@functools.lru_cache(maxsize=8)  # tracing a network takes longer than reading it
def _own_shapes(module: Network, leaves: tuple[Any, ...]) -> tuple[dict[str, str], tuple[int, ...]]:
    """What variables a module makes itself, and the shape of its logits for one example.

    Args:
        module: of the network.
        leaves: (name, shape, dtype) of the variables that there are.

    Raises whatever a module or Flax does where the variables do not fit.
    """
    inputs = module.task.inputs(module.size)
    given = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in leaves}
    # With the shapes at hand Flax compares each parameter before anything is computed from it.
    logits = jax.eval_shape(module.apply, safetensors_file.nested(given, "the weights"), inputs)
    made = jax.eval_shape(module.init, jax.random.key(0), inputs)
    own = {"params": made.get("params", {}), "stats": made.get("moments", {})}
    return _flat(own), logits.shape


def digest(description: Description | GeneralDescription, variables: Variables) -> str:
    """SHA-256 of what a network computes: its structure, its input, and its weights."""
    d = description
    blocks = [[dataclasses.asdict(block) for block in d.blocks], d.code and d.code.forward]
    if isinstance(d, GeneralDescription):
        structure = [dataclasses.asdict(d.task), d.size, d.dtype, *blocks]
    else:
        structure = [*d.taken, d.dtype, *blocks, *d.prepared]
    structure += [] if d.topology is None else [dataclasses.asdict(d.topology)]
    total = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name, leaf in sorted(_leaves(variables).items()):
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def write_variables(
    folder: pathlib.Path,
    variables: Variables,
    source: str,
    *,
    said: Mapping[str, str] | None = None,
) -> None:
    """Writes variables into a folder; only the kinds of which there are any.

    Args:
        folder: of the network.
        variables: of the network.
        source: `WEIGHTS`, an Orbax checkpoint, or `TENSORS`, in which names are those of Flax:
            "params/BLOCK/LAYER/LEAF", and "stats/..." for those of BatchNorm.
        said: of `TENSORS` the metadata of the header, texts by name.

    Raises:
        UserError: they cannot be written.
    """
    filled = {kind: tree for kind, tree in variables.items() if jax.tree.leaves(tree)}
    if source == TENSORS:
        safetensors_file.write(folder / TENSORS, _leaves(filled), said=said)
        return
    check_orbax(folder)
    checkpoint.write_tree(folder / WEIGHTS, filled)


def check_orbax(folder: pathlib.Path) -> None:
    """Makes sure that Orbax can find a folder.

    Raises:
        UserError: its path is not UTF-8.
    """
    files.check_utf8(folder, "weights in Orbax's format need (safetensors do not)")


def _leaves(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _flat(tree: Any) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _leaves(tree).items()}


# ---- writing


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
    if anything fails, nothing is left. One process writes, on a local disk; to a bucket the folder
    is then copied, `network.json` last.

    Args:
        folder: new or empty.
        made: the extracted module.
        variables: its variables.
        description: as `describe` made it.
        write: `folder -> formats` writes the network's files and says what the description is to
            hold as its `formats`, as `formats.table.writer` does; None writes `weights`.
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
    with whole_folder.unfinished(folder) as path:
        said = {**description, "formats": {}}
        files.write_json(path / "network.json", said)  # some formats are loaded with its help
        if write is None:
            write_variables(path, variables, WEIGHTS)
        else:
            said["formats"] = dict(write(path))
        files.write_json(path / "network.json", said)
        # Other programs know no buckets: the folder is used where it has been copied to.
        shown = folder.name if isinstance(folder, Bucket) else str(folder)
        files.write_text(path / "README.md", card(said, folder=shown))
        _check_written(path, made, variables)
    return said


def check_free(folder: str | pathlib.Path) -> pathlib.Path:
    """The path, if `save` could write there.

    Raises:
        UserError: it is a file, a folder that is not empty, or cannot be looked into.
    """
    path = expanded(folder).absolute()
    try:
        if not whole_folder.is_free(path):
            raise UserError(f"{path} exists already; pass a new or an empty folder")
    except OSError as error:
        raise files.unwritable(path, error) from error
    return path


def described_block(block: Block) -> dict[str, Any]:
    """A block as JSON values, see `BlockDescription`, which give the same spec when they are read.

    Raises:
        UserError: its spec holds more than JSON can, or no file defines it at top level.
    """
    kind, spec = block.module, type(block.spec)
    own = BLOCKS.get(kind.__name__) is not kind
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


def described_code(made: Network) -> dict[str, Any] | None:
    """The user's file that a network needs, see `manifest.Code`; None where it needs none.

    Raises:
        UserError: no file defines its blocks or topology at top level.
    """
    own: list[Any] = [b.module for b in made.blocks if b.module not in BLOCKS.values()]
    forward = None if is_librarys(made.forward) else made.forward
    own += [] if forward is None else [forward]
    if not own:
        return None
    path = _source(own[-1])
    return {
        "file": str(path),
        "sha256": hashlib.sha256(files.read_bytes(path)).hexdigest(),
        "forward": None if forward is None else forward.__name__,
    }


def topology_name(forward: Any) -> str:
    """The name of a topology: of its class, or of a user's function."""
    name: str = type(forward).__name__ if is_librarys(forward) else forward.__name__
    return name


def is_librarys(forward: Any) -> bool:
    """Whether a topology is one of `nn.blocks`, which a description names by its class."""
    return TOPOLOGIES.get(type(forward).__name__) is type(forward)


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
    there = described(read_description(path), "network.json")
    own = {b.module.__name__: b.module for b in made.blocks}
    specs = {type(b.spec).__name__: type(b.spec) for b in made.blocks}
    forward = {} if made.forward is None else {topology_name(made.forward): made.forward}
    if build(there, {**own, **specs, **forward}) != made:
        raise UserError("the description is not of this network; make it with describe")
    if digest(there, variables) != there.sha256:
        raise UserError("the description and the variables do not match its sha256; describe these")
    for source in SOURCES.values():
        if not (path / source).exists():
            continue
        back = read_variables(path, there, made, source=source)
        for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(back), strict=True):
            if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                raise UserError(
                    f"{path.parent} does not keep what is written to it; is the disk broken?"
                )
