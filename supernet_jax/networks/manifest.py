"""What the folder of an extracted network says of it: `network.json` for programs, field by field,
and `README.md`, the model card, for people.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.networks import classifier_manifest
from supernet_jax.networks.classifier_manifest import VERSION, Description
from supernet_jax.networks.description_parts import (
    SOURCES,
    BlockDescription,
    Code,
    Exported,
    Proof,
    code_block,
    quoted,
    written_as,
)
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.storage.typed_json import parse

TEXT_VERSION = 4  # of networks for text; those of classifiers have stayed as they were


@dataclasses.dataclass(frozen=True)
class TaskDescription:
    """A task of the library's: the name of its class, and its fields."""

    type: str
    fields: dict


@dataclasses.dataclass(frozen=True)
class TextDescription:
    """`network.json` of a network for text, field by field; all of them are always there.

    Attributes:
        format: always `FORMAT`.
        version: always `TEXT_VERSION`.
        space: name of the search space that it was taken from.
        arch: the decisions, as the space notes them.
        task: what it is for.
        size: values of the space's static decisions, if it has any, as the length of sequences.
        blocks: in order.
        code: the user's file that it needs, if any.
        macs: multiply-accumulates for one example.
        parameters: how many numbers it has; a table that the logits are tied to counts twice.
        perplexity: by the name of the split.
        source: where it came from: run, checkpoint, ...
        proof: that it is the same network as in the supernet.
        dtype: of the parameters.
        sha256: of structure and weights.
        formats: in which the folder holds the network, by name.
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
    perplexity: dict[str, float]
    source: dict
    proof: Proof
    dtype: str
    sha256: str
    formats: dict[str, Exported]


def described(
    value: Mapping[str, Any], where: str = "the description"
) -> Description | TextDescription:
    """A description as JSON values, by its version, which says what the network is for.

    Raises:
        UserError: missing, unknown or wrong fields.
    """
    if value.get("version") == TEXT_VERSION:
        text: TextDescription = parse(TextDescription, dict(value), where)
        return text
    other: Description = parse(Description, dict(value), where)
    return other


def read_description(folder: str | pathlib.Path) -> dict[str, Any]:
    """The content of `network.json`, checked field by field; see `Description` and
    `TextDescription`.

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
    if isinstance(value, dict) and value.get("version", VERSION) not in range(1, TEXT_VERSION + 1):
        raise UserError(
            f"{path} has version {value['version']}, this library reads 1 to "
            f"{TEXT_VERSION}; "
            "install the version of supernet_jax that wrote it"
        )
    if isinstance(value, dict):
        value = classifier_manifest.brought_up(value)
    read = described if isinstance(value, dict) else functools.partial(parse, Description)
    known = read(value, str(path))
    if isinstance(known, Description):
        known.check(path)
    return value


def facts(description: Mapping[str, Any]) -> dict[str, str]:
    """What a file that can hold text says of its network: by name, JSON."""
    d = described(description)
    if isinstance(d, TextDescription):
        names = ("space", "arch", "macs", "perplexity", "sha256")
        texts = {name: files.dumps(description[name]) for name in names}
        return {**texts, "task": files.dumps(dataclasses.asdict(d.task))}
    return classifier_manifest.facts(d)


# ---- README.md


def model_card(
    description: Mapping[str, Any],
    *,
    folder: str = "FOLDER",
    snippets: Mapping[str, str] | None = None,
    text_snippets: Mapping[str, str] | None = None,
) -> str:
    """A short Markdown text that says what an extracted network is and how to use it.

    Args:
        description: as `describe` made it.
        folder: where the snippets load it from.
        snippets: by the name of a format, Python that makes `logits` of `inputs`, see
            `formats.format.Format`; those of weights need none.
        text_snippets: likewise for networks on text.
    """
    d = described(description)
    if isinstance(d, TextDescription):
        return _text_card(d, folder, text_snippets or {})
    return classifier_manifest.card(d, folder, snippets or {})


def _text_card(d: TextDescription, folder: str, snippets: Mapping[str, str]) -> str:
    own = f', space_file="{quoted(d.code.file)}"' if d.code else ""
    load = f'module, variables = sj.load("{quoted(folder)}"{own})'
    inputs = 'inputs = np.array([list("yours".encode())], np.int32)'
    use = ["logits = jax.jit(module.apply)(variables, inputs)"]
    if d.task.type == "NextToken" and d.task.fields["vocabulary"] == 256:  # of bytes
        use.append('print(sj.generate(module, variables, "import ", tokens=200, temperature=0.8))')
    lines = [
        *(f"# {d.space}, {d.macs:,} MACs", ""),
        f"Bytes of text ({d.task.type}: {files.dumps(d.task.fields)}).",
        f"One subnet of the supernet `{d.space}`, extracted as a plain Flax network.",
        *("", "| | |", "|---|---|"),
        *(f"| perplexity on {split} | {value:.4g} |" for split, value in d.perplexity.items()),
        f"| MACs | {d.macs:,} |",
        f"| parameters | {d.parameters:,} ({d.dtype}) |",
        "| input | `[B, T]`, whole numbers: bytes |",
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
    for name in [name for name in d.formats if name in snippets]:
        code = _bytes_to_bytes(d, snippets[name].replace("FOLDER", quoted(folder)).splitlines())
        lines += [f"As {name}:", "", *code_block(code), ""]
    lines += ["Source:", "", *(f"- {key}: {value}" for key, value in d.source.items())]
    return "\n".join([*lines, f"- arch: `{files.dumps(d.arch)}`"]) + "\n"


def _bytes_to_bytes(d: TextDescription, code: Sequence[str]) -> list[str]:
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
