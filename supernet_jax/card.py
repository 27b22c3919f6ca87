"""The model card of an extracted network."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from supernet_jax.extracted import Description
from supernet_jax.schema import parse


def model_card(description: Mapping[str, Any], *, folder: str = "FOLDER") -> str:
    """A short Markdown text that says what an extracted network is and how to use it.

    Args:
        description: as `describe` made it.
        folder: where the snippet loads it from.
    """
    d = parse(Description, dict(description), "the description")
    shown = d.classes if len(d.classes) <= 20 else (*d.classes[:20], f"... {len(d.classes)} in all")
    accuracy = [f"| accuracy on {split} | {share:.2%} |" for split, share in d.accuracy.items()]
    own = f', space_file="{d.code.file}"' if d.code else ""
    lines = [
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
        "",
        "BatchNorm statistics are those of this subnet, calibrated as above. Larger differences",
        "than rounding appear where matrix products run at a lower precision than float32.",
        "",
        "```python",
        "import jax, numpy as np",
        "from supernet_jax import extracted",
        "",
        f'module, variables = extracted.load("{folder}"{own})',
        f"mean, std = np.array({list(d.mean)}), np.array({list(d.std)})",
        f"images = np.zeros((1, {d.resolution}, {d.resolution}, {d.input_channels}), np.uint8)"
        "  # yours, any size",
        'inputs = ((images / 255 - mean) / std).astype("float32")',
        "logits = jax.jit(module.apply)(variables, inputs)",
        "print(logits.argmax(-1))  # numbers of classes, in the order above",
        "```",
        "",
        "Source:",
        "",
        *(f"- {key}: {value}" for key, value in d.source.items()),
        f"- arch: `{json.dumps(d.arch)}`",
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
