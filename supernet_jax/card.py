"""The model card of an extracted network."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from supernet_jax.extracted import SOURCES, Description, Exported
from supernet_jax.schema import parse


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
    snippets = snippets or {}
    flax = [name for name in d.formats if name in SOURCES]
    lines = [*_facts(d), ""]
    if flax or not d.formats:
        lines += [f"In Flax{_from(flax)}:", "", *_block(_flax(d, folder)), ""]
    for name, exported in d.formats.items():
        if name in snippets:
            kind = "uint8 pixels" if exported.pixels else "float32, normalised"
            shape = f"`[B, {exported.size}, {exported.size}, {d.input_channels}]`"
            lines += [f"As {name}, images {shape}, {kind}:", ""]
            lines += [*_block(_program(d, exported, snippets[name], folder)), ""]
    lines += ["Source:", "", *(f"- {key}: {value}" for key, value in d.source.items())]
    lines += [f"- arch: `{json.dumps(d.arch)}`"]
    return "\n".join(lines) + "\n"


def _facts(d: Description) -> list[str]:
    shown = d.classes if len(d.classes) <= 20 else (*d.classes[:20], f"... {len(d.classes)} in all")
    accuracy = [f"| accuracy on {split} | {share:.2%} |" for split, share in d.accuracy.items()]
    formats = [
        f"| same as {name} | logits within {e.difference:.1e} of the largest, {e.images} images |"
        for name, e in d.formats.items()
    ]
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
    own = f', space_file="{d.code.file}"' if d.code else ""
    return [
        "import jax, numpy as np",
        "from supernet_jax import extracted",
        "",
        f'module, variables = extracted.load("{folder}"{own})',
        *_normalised(d, d.resolution, "yours, any size"),
        "logits = jax.jit(module.apply)(variables, inputs)",
        "print(logits.argmax(-1))  # numbers of classes, in the order above",
    ]


def _program(d: Description, exported: Exported, snippet: str, folder: str) -> list[str]:
    imports, _, body = snippet.replace("FOLDER", folder).partition("\n\n")
    mean, images, inputs = _normalised(d, exported.size, "yours")
    pixels = [images.replace("images", "inputs", 1)]
    return [
        *imports.splitlines(),
        "import numpy as np",
        "",
        *(pixels if exported.pixels else [mean, images, inputs]),
        *body.splitlines(),
        "print(logits.argmax(-1))  # numbers of classes, in the order above",
    ]


def _normalised(d: Description, size: int, whose: str) -> list[str]:
    return [
        f"mean, std = np.array({list(d.mean)}), np.array({list(d.std)})",
        f"images = np.zeros((1, {size}, {size}, {d.input_channels}), np.uint8)  # {whose}",
        'inputs = ((images / 255 - mean) / std).astype("float32")',
    ]


def _from(formats: Sequence[str]) -> str:
    return f", from what is written as {' or '.join(formats)}" if formats else ""


def _block(lines: Sequence[str]) -> list[str]:
    return ["```python", *lines, "```"]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
