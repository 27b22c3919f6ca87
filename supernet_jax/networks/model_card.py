"""The model card of an extracted network."""

from collections.abc import Mapping, Sequence
from typing import Any

from supernet_jax.networks import preparation
from supernet_jax.networks.manifest import Description, Exported
from supernet_jax.networks.network_folder import SOURCES
from supernet_jax.storage import files
from supernet_jax.storage.typed_json import parse

NUMBERS = "print(logits.argmax(-1))  # numbers of classes, in the order above"


def model_card(
    description: Mapping[str, Any],
    *,
    folder: str = "FOLDER",
    snippets: Mapping[str, str] | None = None,
) -> str:
    """A short Markdown text that says what an extracted network is and how to use it.

    Args:
        description: as `describe` made it.
        folder: where the snippets load it from.
        snippets: by the name of a format, Python that makes `logits` of `inputs`, see
            `export.format.Format`; those of weights need none.
    """
    d = parse(Description, dict(description), "the description")
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


def _facts(d: Description) -> list[str]:
    shown = d.classes if len(d.classes) <= 20 else (*d.classes[:20], f"... {len(d.classes)} in all")
    accuracy = [f"| accuracy on {split} | {share:.2%} |" for split, share in d.accuracy.items()]
    formats = [
        f"| same as {name} | logits within {e.difference:.1e} of the largest, {e.images} images |"
        for name, e in d.formats.items()
    ]
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
        f"| calibration | {d.calibration.batches} batches of {d.calibration.batch} images |",
        f"| same as in the supernet | logits within {d.proof.difference:.1e} of the largest, "
        f"{d.proof.images} images |",
        *formats,
        "",
        "BatchNorm statistics are those of this subnet, calibrated as above. Larger differences",
        "than rounding appear where matrix products run at a lower precision than float32.",
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
