"""What the folder of an image classifier says of it: its part of `manifest`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from supernet_jax.data import preparation
from supernet_jax.data.preparation import Preparation
from supernet_jax.errors import UserError
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
from supernet_jax.tasks import ImageClassification, Metric, Size

# Version 1 had no `formats`; 2 had no `preparation`, and one `size` for both sides in `formats`.
VERSION = 3
LARGEST_SIZE = 4096  # of a side, pixels
NUMBERS = "print(logits.argmax(-1))  # numbers of classes, in the order above"


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
        static: values of the space's static decisions after the resolution, as the size of patches;
            left out of the file where there are none.
        topology: one of the library's that connects the blocks; left out of the file for a chain,
            or the user's.
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
    static: tuple[int, ...] = ()
    topology: Topology | None = None

    @property
    def size(self) -> Size:
        """As `Network.size`."""
        return (self.resolution, *self.static) if self.static else self.resolution

    @property
    def task(self) -> ImageClassification:
        """What the network is for."""
        return ImageClassification(self.input_channels, len(self.classes))

    @property
    def metric(self) -> Metric:
        """Of the task."""
        return self.task.metric

    @property
    def taken(self) -> list[Any]:
        """What the network takes and says, for its digest."""
        known = [self.resolution, self.input_channels, self.mean, self.std, self.classes]
        return [*known, self.static] if self.static else known

    @property
    def prepared(self) -> list[Any]:
        """How files become inputs, for the digest: nothing where that is not known."""
        return [] if self.preparation is None else [dataclasses.asdict(self.preparation)]

    def check(self, path: object) -> None:
        """Makes sure that the network can be made.

        Raises:
            UserError: a resolution that is out of range; the message names the path.
        """
        if not 0 < self.resolution <= LARGEST_SIZE:
            raise UserError(
                f"{path} has resolution {self.resolution}, allowed are 1 to {LARGEST_SIZE}"
            )

    def check_logits(self, shape: tuple[int, ...]) -> None:
        """Makes sure that a network has a logit for each class.

        Args:
            shape: of its logits for one image.

        Raises:
            UserError: it has more or fewer.
        """
        if shape != (1, len(self.classes)):
            raise UserError(
                f"network.json names {len(self.classes)} classes, but the network has "
                f"{list(shape)[1:]} logits"
            )


def brought_up(value: dict[str, Any]) -> dict[str, Any]:
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


def facts(d: Description) -> dict[str, str]:
    """As `manifest.facts`."""
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


def card(d: Description, place: Place, snippets: Mapping[str, str]) -> str:
    """As `manifest.model_card`."""
    flax = [name for name in d.formats if name in SOURCES]
    programs = [name for name in d.formats if name in snippets]
    lines = [*_facts(d), ""]
    if flax or not d.formats:
        lines += [f"In Flax{written_as(flax)}:", "", *code_block(_flax(d, place.address)), ""]
    if programs:
        lines += place.fetched_first
        lines += [*_inputs(d, d.formats[programs[0]]), ""]  # all of them take the same
    for name in programs:
        lines += [f"As {name}, of these `inputs`:", ""]
        lines += [*code_block(_program(snippets[name], place.folder)), ""]
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


def _flax(d: Description, address: str) -> list[str]:
    own = f', space_file="{quoted(d.code.file)}"' if d.code else ""
    load = f'module, variables = sj.load("{quoted(address)}"{own})'
    run = ["logits = jax.jit(module.apply)(variables, inputs)", NUMBERS]
    if d.preparation is not None and d.input_channels in preparation.MODES:
        made = f'inputs = sj.inputs("{quoted(address)}", ["IMAGE"])  # files, yours'
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
        return lines + code_block(["import numpy as np", "", _zeros(d, height, width), *numbers])
    given = f'{width}, {height}, "{preparation.MODES[d.input_channels]}", {how.centre}'
    if how.upright or how.background != "none":
        given += f', {how.upright}, "{how.background}"'
    made = [
        f'images = [prepared(file, {given}) for file in ["IMAGE"]]  # files, yours',
        f"images = np.stack(images).reshape(-1, {height}, {width}, {d.input_channels})",
    ]
    function = ["", "", *preparation.text().splitlines(), "", ""]
    lines += code_block(["import numpy as np", *function, *made, *numbers])
    if (height, width) != (how.height, how.width):
        lines += ["", f"The accuracies are of images of {how.width} x {how.height} pixels."]
    return lines


def _program(snippet: str, folder: str) -> list[str]:
    return [*snippet.replace("FOLDER", quoted(folder)).splitlines(), NUMBERS]


def _zeros(d: Description, height: int, width: int) -> str:
    return f"images = np.zeros((1, {height}, {width}, {d.input_channels}), np.uint8)  # yours"


def _normalised(d: Description) -> list[str]:
    return [
        f"mean, std = np.array({list(d.mean)}), np.array({list(d.std)})",
        'inputs = ((images / 255 - mean) / std).astype("float32")',
    ]


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
