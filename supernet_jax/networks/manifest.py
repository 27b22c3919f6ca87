"""What the folder of an extracted network says of it: `network.json` for programs, field by field,
and `README.md`, the model card, for people.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from supernet_jax.data import preparation
from supernet_jax.data.preparation import Preparation
from supernet_jax.errors import UserError
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.storage.typed_json import parse

# Version 1 had no `formats`; 2 had no `preparation`, and one `size` for both sides in `formats`.
FORMAT, VERSION = "supernet_jax network", 3
TEXT_VERSION = 4  # of networks for text; those for images have stayed as they were
LARGEST_RESOLUTION = 4096
WEIGHTS, TENSORS = "weights", "model.safetensors"  # where variables for Flax are
SOURCES = {"orbax": WEIGHTS, "safetensors": TENSORS}  # by the name of the format
NUMBERS = "print(logits.argmax(-1))  # numbers of classes, in the order above"


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
    """How many batches of how many training images the statistics were calibrated on; 0 of 0 for a
    network that has none.
    """

    batches: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Proof:
    """Largest difference of logits from the supernet's, relative to the largest logit, on so many
    images, or examples of text.
    """

    difference: float
    images: int


@dataclasses.dataclass(frozen=True)
class Exported:
    """One format of a network, loaded from its files by its own runtime and compared.

    Attributes:
        difference: largest one of a logit from the Flax network's, relative to the largest logit.
        images: on how many, or on how many examples of text.
        size: height and width, in pixels of the images that are fed; of text, which may be of any
            length, nothing.
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
    arch: object
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
    images: Description = parse(Description, dict(value), where)
    return images


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
        value = _brought_up(value)
    read = described if isinstance(value, dict) else functools.partial(parse, Description)
    known = read(value, str(path))
    if isinstance(known, Description) and not 0 < known.resolution <= LARGEST_RESOLUTION:
        raise UserError(
            f"{path} has resolution {known.resolution}, allowed are 1 to {LARGEST_RESOLUTION}"
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


def facts(description: Mapping[str, Any]) -> dict[str, str]:
    """What a file that can hold text says of its network: by name, JSON."""
    d = described(description)
    if isinstance(d, TextDescription):
        names = ("space", "arch", "macs", "perplexity", "sha256")
        texts = {name: files.dumps(description[name]) for name in names}
        return {**texts, "task": files.dumps(dataclasses.asdict(d.task))}
    values = {
        "mean": d.mean,
        "std": d.std,
        "preparation": d.preparation and dataclasses.asdict(d.preparation),
        "classes": d.classes,
        "space": d.space,
        "arch": d.arch,
        "resolution": d.resolution,
        "macs": d.macs,
        "accuracy": d.accuracy,
        "sha256": d.sha256,
    }
    return {name: files.dumps(value) for name, value in values.items()}


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
    flax = [name for name in d.formats if name in SOURCES]
    programs = [name for name in d.formats if name in (snippets or {})]
    lines = [*_facts(d), ""]
    if flax or not d.formats:
        lines += [f"In Flax{_from(flax)}:", "", *_block(_flax(d, folder)), ""]
    if programs:
        lines += [*_inputs(d, d.formats[programs[0]]), ""]  # all of them take the same
    for name in programs:
        lines += [f"As {name}, of these `inputs`:", ""]
        lines += [*_block(_program((snippets or {})[name], folder)), ""]
    lines += ["Source:", "", *(f"- {key}: {value}" for key, value in d.source.items())]
    lines += [f"- arch: `{files.dumps(d.arch)}`"]
    return "\n".join(lines) + "\n"


def _text_card(d: TextDescription, folder: str, snippets: Mapping[str, str]) -> str:
    own = f', space_file="{_quoted(d.code.file)}"' if d.code else ""
    load = f'module, variables = sj.load("{_quoted(folder)}"{own})'
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
        lines += [f"In Flax{_from(flax)}:", "", *_block([*imports, load, inputs, *use]), ""]
    for name in [name for name in d.formats if name in snippets]:
        code = _bytes_to_bytes(d, snippets[name].replace("FOLDER", _quoted(folder)).splitlines())
        lines += [f"As {name}:", "", *_block(code), ""]
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


def _facts(d: Description) -> list[str]:
    shown = d.classes if len(d.classes) <= 20 else (*d.classes[:20], f"... {len(d.classes)} in all")
    accuracy = [f"| accuracy on {split} | {share:.2%} |" for split, share in d.accuracy.items()]
    formats = [
        f"| same as {name} | logits within {e.difference:.1e} of the largest, {e.images} images |"
        for name, e in d.formats.items()
    ]
    batches, count = d.calibration.batches, d.calibration.batch
    calibrated, statistics = [], []
    if batches:
        calibrated = [f"| calibration | {batches} batches of {count} images |"]
        statistics = ["BatchNorm statistics are those of this subnet, calibrated as above."]
    taken = d.preparation.words if d.preparation else "not recorded: prepare it as for training"
    return [
        f"# {d.space}, {d.macs:,} MACs",
        "",
        f"Image classification into {len(d.classes)} classes: {', '.join(shown)}.",
        f"One subnet of the supernet `{d.space}`, extracted as a plain Flax network.",
        "",
        "| | |",
        "|---|---|",
        *accuracy,
        f"| MACs | {d.macs:,} |",
        f"| parameters | {d.parameters:,} ({d.dtype}) |",
        f"| of an image | {taken} |",
        f"| input | `[B, H, W, {d.input_channels}]`, resized to {d.resolution} x {d.resolution} |",
        f"| normalisation | pixels in 0..1, mean {_numbers(d.mean)}, std {_numbers(d.std)} |",
        *calibrated,
        f"| same as in the supernet | logits within {d.proof.difference:.1e} of the largest, "
        f"{d.proof.images} images |",
        *formats,
        "",
        *statistics,
        "Larger differences than rounding appear where matrix products run at a lower precision",
        "than float32.",
    ]


def _flax(d: Description, folder: str) -> list[str]:
    own = f', space_file="{_quoted(d.code.file)}"' if d.code else ""
    load = f'module, variables = sj.load("{_quoted(folder)}"{own})'
    run = ["logits = jax.jit(module.apply)(variables, inputs)", NUMBERS]
    if d.preparation is not None and d.input_channels in preparation.MODES:
        made = f'inputs = sj.inputs("{_quoted(folder)}", ["IMAGE"])  # files, yours'
        return ["import jax", "import supernet_jax as sj", "", load, made, *run]
    given = d.preparation or preparation.Preparation(d.resolution, d.resolution, None)
    zeros = _zeros(d, given.height, given.width)
    imports = ["import jax, numpy as np", "import supernet_jax as sj", ""]
    return [*imports, load, zeros, *_normalised(d), *run]


def _inputs(d: Description, exported: Exported) -> list[str]:
    """How to make what a program takes."""
    height, width = exported.size
    kind = "uint8 pixels" if exported.pixels else "float32, normalised"
    shape = f"`[B, {height}, {width}, {d.input_channels}]`"
    lines = [f"The other formats take `inputs`, images {shape}, {kind}:", ""]
    numbers = ["inputs = images"] if exported.pixels else _normalised(d)
    how = d.preparation
    if how is None or d.input_channels not in preparation.MODES:
        return lines + _block(["import numpy as np", "", _zeros(d, height, width), *numbers])
    given = f'{width}, {height}, "{preparation.MODES[d.input_channels]}", {how.centre}'
    if how.upright or how.background != "none":
        given += f', {how.upright}, "{how.background}"'
    made = [
        f'images = [prepared(file, {given}) for file in ["IMAGE"]]  # files, yours',
        f"images = np.stack(images).reshape(-1, {height}, {width}, {d.input_channels})",
    ]
    function = ["", "", *preparation.text().splitlines(), "", ""]
    lines += _block(["import numpy as np", *function, *made, *numbers])
    if (height, width) != (how.height, how.width):
        lines += ["", f"The accuracies are of images of {how.width} x {how.height} pixels."]
    return lines


def _program(snippet: str, folder: str) -> list[str]:
    return [*snippet.replace("FOLDER", _quoted(folder)).splitlines(), NUMBERS]


def _zeros(d: Description, height: int, width: int) -> str:
    return f"images = np.zeros((1, {height}, {width}, {d.input_channels}), np.uint8)  # yours"


def _normalised(d: Description) -> list[str]:
    return [
        f"mean, std = np.array({list(d.mean)}), np.array({list(d.std)})",
        'inputs = ((images / 255 - mean) / std).astype("float32")',
    ]


def _quoted(text: str) -> str:
    """A text as it stands between the double quotes of a Python literal."""
    plain = (c if c.isprintable() and c not in '"\\' else repr(c)[1:-1] for c in text)
    return "".join('\\"' if c == '"' else c for c in plain)


def _from(formats: Sequence[str]) -> str:
    return f", from what is written as {' or '.join(formats)}" if formats else ""


def _block(lines: Sequence[str]) -> list[str]:
    return ["```python", *lines, "```"]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
