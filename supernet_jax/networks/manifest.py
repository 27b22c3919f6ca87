"""What the folder of an extracted network says of it: `network.json` for programs, field by field,
and `README.md`, the model card, for people.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax.errors import UserError, require
from supernet_jax.networks import classifier_manifest
from supernet_jax.networks.classifier_manifest import VERSION, Description
from supernet_jax.networks.description_parts import (
    SOURCES,
    BlockDescription,
    Calibration,
    Code,
    Exported,
    Place,
    Proof,
    Topology,
    code_block,
    quoted,
    written_as,
)
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.storage.typed_json import parse
from supernet_jax.tasks import TASKS, HasEmbeddings, Metric, Size, Task

# Of networks for any task but the classification of images, whose descriptions have stayed as they
# were. Version 4 had `perplexity` for `values`, and neither topologies nor statistics.
GENERAL_VERSION = 5


@dataclasses.dataclass(frozen=True)
class TaskDescription:
    """A task of the library's: the name of its class, and its fields."""

    type: str
    fields: dict


@dataclasses.dataclass(frozen=True)
class GeneralDescription:
    """`network.json` of a network for any other task, field by field.

    Attributes:
        format: always `FORMAT`.
        version: always `GENERAL_VERSION`.
        space: name of the search space that it was taken from.
        arch: the decisions, as the space notes them.
        task: what it is for.
        size: values of the space's static decisions, if it has any, as the length of sequences.
        blocks: in order.
        code: the user's file that it needs, if any.
        macs: multiply-accumulates for one example.
        parameters: how many numbers it has; a table that the logits are tied to counts twice.
        values: of the task's metric, by the name of the split.
        source: where it came from: run, checkpoint, ...
        proof: that it is the same network as in the supernet.
        dtype: of the parameters.
        sha256: of structure and weights.
        formats: in which the folder holds the network, by name.
        topology: one of the library's that connects the blocks; None for a chain, or the user's.
        calibration: of the statistics; None where there are none.
    """

    format: str
    version: int
    space: str
    arch: object
    task: TaskDescription
    size: tuple[int, ...]
    blocks: tuple[BlockDescription, ...]
    code: Code | None
    macs: int
    parameters: int
    values: dict[str, float]
    source: dict
    proof: Proof
    dtype: str
    sha256: str
    formats: dict[str, Exported]
    topology: Topology | None = None
    calibration: Calibration | None = None

    @property
    def metric(self) -> Metric:
        """Of the task.

        Raises:
            UserError: the library has no such task.
        """
        return task_of(self).metric


def task_type(name: str) -> Any:
    """The class of a task of the library's.

    Raises:
        UserError: there is none of this name.
    """
    if name not in TASKS:
        raise UserError(
            f"network.json: task.type is {name!r}, but the library has {', '.join(TASKS)}; was it "
            "edited, or written by a later version?"
        )
    return TASKS[name]


def task_of(d: GeneralDescription) -> Task:
    """The task that a description names."""
    task: Task = parse(task_type(d.task.type), d.task.fields, "network.json: task.fields")
    return task


def size_of(d: GeneralDescription) -> Size:
    """As `Network.size`."""
    return d.size[0] if len(d.size) == 1 else d.size


def described(
    value: Mapping[str, Any], where: str = "the description"
) -> Description | GeneralDescription:
    """A description as JSON values, by its version, which says what the network is for.

    Raises:
        UserError: missing, unknown or wrong fields; a file that would lie outside of the
            folder.
    """
    kind = GeneralDescription if value.get("version") == GENERAL_VERSION else Description
    read: Description | GeneralDescription = parse(kind, dict(value), where)
    for name, exported in read.formats.items():
        for file in exported.files:
            path = pathlib.PurePosixPath(file)
            require(
                not (path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file),
                f"{where}: formats.{name} names a file {file!r}, which leads out of the folder, so "
                "it has been changed since it was written; copy the folder again",
            )
    return read


def read_description(folder: str | pathlib.Path) -> dict[str, Any]:
    """The content of `network.json`, checked field by field; see `Description` and
    `GeneralDescription`.

    Raises:
        UserError: it is missing, not JSON, or has missing, unknown or wrong fields.
    """
    path = expanded(folder) / "network.json"
    try:
        value = files.read_json(path)
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise UserError(
            f"{folder} is not an extracted network: it has no network.json; "
            "`supernet extract` writes such folders"
        ) from None
    known_versions = range(1, GENERAL_VERSION + 1)
    if isinstance(value, dict) and value.get("version", VERSION) not in known_versions:
        raise UserError(
            f"{path} has version {value['version']}, this library reads 1 to {GENERAL_VERSION}; "
            "install the version of supernet_jax that wrote it"
        )
    if isinstance(value, dict) and value.get("version") == 4 and "perplexity" in value:
        value = {**value, "version": GENERAL_VERSION, "values": value["perplexity"]}
        del value["perplexity"]
    elif isinstance(value, dict):
        value = classifier_manifest.brought_up(value)
    read = described if isinstance(value, dict) else functools.partial(parse, Description)
    known = read(value, str(path))
    if isinstance(known, Description):
        known.check(path)
    return value


def facts(description: Mapping[str, Any]) -> dict[str, str]:
    """What a file that can hold text says of its network: by name, JSON."""
    d = described(description)
    if isinstance(d, GeneralDescription):
        names = ("space", "arch", "macs", "sha256")
        texts = {name: files.dumps(description[name]) for name in names}
        task = files.dumps(dataclasses.asdict(d.task))
        return {**texts, "task": task, d.metric.name: files.dumps(d.values)}
    return classifier_manifest.facts(d)


# ---- README.md


def model_card(
    description: Mapping[str, Any],
    *,
    folder: str = "FOLDER",
    snippets: Mapping[str, str] | None = None,
    general_snippets: Mapping[str, str] | None = None,
    address: str = "",
    fetch: str = "",
) -> str:
    """A short Markdown text that says what an extracted network is and how to use it.

    Args:
        description: as `describe` made it.
        folder: where the snippets load it from.
        snippets: by the name of a format, Python that makes `logits` of `inputs`, see
            `formats.format.Format`; those of weights need none.
        general_snippets: likewise for networks of other tasks.
        address: where this library loads it from, if not from the folder.
        fetch: the command that makes the folder, for programs of other libraries.
    """
    d = described(description)
    place = Place(folder, address or folder, fetch)
    if isinstance(d, GeneralDescription):
        return _general_card(d, place, general_snippets or {})
    return classifier_manifest.card(d, place, snippets or {})


def _general_card(d: GeneralDescription, place: Place, snippets: Mapping[str, str]) -> str:
    own = f', space_file="{quoted(d.code.file)}"' if d.code else ""
    load = f'module, variables = sj.load("{quoted(place.address)}"{own})'
    bytes_of_text = d.task.type in ("NextToken", "HiddenTokens")
    taken = task_of(d).inputs(size_of(d))
    shape = ["B", *map(str, taken.shape[1:])]
    if bytes_of_text:
        about = f"Bytes of text ({d.task.type}: {files.dumps(d.task.fields)})."
        takes = "`[B, T]`, whole numbers: bytes"
        inputs = 'inputs = np.array([list("yours".encode())], np.int32)'
    else:
        about = f"For {task_of(d).name} ({d.task.type}: {files.dumps(d.task.fields)})."
        takes = f"`[{', '.join(shape)}]`, {taken.dtype}"
        wide = "int64" if np.issubdtype(taken.dtype, np.integer) else "float32"
        inputs = f"inputs = np.zeros({(1, *taken.shape[1:])}, np.{wide})  # yours"
    use = ["logits = jax.jit(module.apply)(variables, inputs)"]
    if isinstance(task_of(d), HasEmbeddings):
        use.append("embeddings = module.task.embeddings(logits)")
    if d.task.type == "NextToken" and d.task.fields["vocabulary"] == 256:  # of bytes
        use.append('print(sj.generate(module, variables, "import ", tokens=200, temperature=0.8))')
    lines = [
        *(f"# {d.space}, {d.macs:,} MACs", ""),
        about,
        f"One subnet of the supernet `{d.space}`, extracted as a plain Flax network.",
        *("", "| | |", "|---|---|"),
        *(
            f"| {d.metric.name} on {split} | {d.metric.shown(value)} |"
            for split, value in d.values.items()
        ),
        f"| MACs | {d.macs:,} |",
        f"| parameters | {d.parameters:,} ({d.dtype}) |",
        f"| input | {takes} |",
        f"| same as in the supernet | logits within {d.proof.difference:.1e} of the largest, "
        f"{d.proof.images} examples |",
        *(
            f"| same as {name} | logits within {e.difference:.1e} of the largest, {e.images} "
            "examples |"
            for name, e in d.formats.items()
        ),
        "",
    ]
    flax = [name for name in d.formats if name in SOURCES]
    if flax or not d.formats:
        imports = ["import jax, numpy as np", "import supernet_jax as sj", ""]
        lines += [
            f"In Flax{written_as(flax)}:",
            "",
            *code_block([*imports, load, inputs, *use]),
            "",
        ]
    programs = [name for name in d.formats if name in snippets]
    lines += place.fetched_first if programs else []
    for name in programs:
        code = snippets[name].replace("FOLDER", quoted(place.folder)).splitlines()
        code = _bytes_to_bytes(d, code) if bytes_of_text else _as_it_is(taken, code, inputs)
        lines += [f"As {name}:", "", *code_block(code), ""]
    lines += ["Source:", "", *(f"- {key}: {value}" for key, value in d.source.items())]
    return "\n".join([*lines, f"- arch: `{files.dumps(d.arch)}`"]) + "\n"


def _as_it_is(taken: jax.ShapeDtypeStruct, code: Sequence[str], inputs: str) -> list[str]:
    """The code of a network for ids, for what another one takes."""
    *load, run = code
    if not np.issubdtype(taken.dtype, np.integer):
        run = run.replace('"ids"', '"inputs"').replace("np.int32", "np.float32")
    return [*load, inputs, run]


def _bytes_to_bytes(d: GeneralDescription, code: Sequence[str]) -> list[str]:
    """Text that goes on, or with `?` filled in; the code's last line makes `logits` of `inputs`."""
    *load, run = code
    vocabulary = d.task.fields["vocabulary"]
    length = d.size[0] if d.size else d.task.fields["length"]
    if d.task.type == "NextToken":  # always as long, so that no program is compiled twice
        return [
            *load,
            'text = bytearray(b"\\0import ")',
            "for _ in range(200):",
            f'    inputs = np.array([list(text[-{length}:].ljust({length}, b"\\0"))])',
            f"    {run}",
            f"    last = logits[0, min(len(text), {length}) - 1]",
            f"    text.append(int((last / 0.8 + np.random.gumbel(size={vocabulary})).argmax()))",
            'print(text[1:].decode(errors="replace"))',
        ]
    given = f'b"im?ort".ljust({length})' if d.size else 'b"im?ort"'
    return [
        *load,
        f'inputs = np.array([[{vocabulary - 1} if i == ord("?") else i for i in {given}]])',
        run,
        "print(bytes(logits[0, :, :-1].argmax(-1).tolist()))",
    ]
