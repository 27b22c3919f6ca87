"""A configuration to begin with, proposed for images that nobody has trained on yet, with reasons.

The numbers follow the library's own configurations (configs/): AlphaNet's training, a space whose
first stride fits the size of the images, a rate that grows with the batch.
"""

import math
import os
import textwrap
from typing import Any, NamedTuple

import numpy as np

from supernet_jax import spaces
from supernet_jax.data import Survey
from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.experiment.config import Config
from supernet_jax.training import losses, optimizers, samplers

EPOCHS = 100  # of training, where time allows
FEWEST = 300  # steps, where time allows
MOST_HELD_OUT = 5000  # images, as of CIFAR-10
WIDTH = 96  # characters of a line of the file


class Machine(NamedTuple):
    """What training has.

    Attributes:
        backend: "cpu", "gpu" or "tpu".
        devices: number.
        device: their kind.
        cores: of the processor, that this process may use.
        memory: bytes of the host.
    """

    backend: str
    devices: int
    device: str
    cores: int
    memory: int


class Part(NamedTuple):
    """A part of a proposed configuration.

    Attributes:
        name: field of `Config`.
        kind: its class.
        why: a reason for the part.
        values: fields that are not left at their defaults.
        reasons: by field.
    """

    name: str
    kind: type
    why: str
    values: dict[str, Any]
    reasons: dict[str, str]


def machine(backend: str, devices: int, device: str) -> Machine:
    """This machine with these devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(backend, devices, device, cores or 1, memory)


def propose(survey: Survey, here: Machine, *, data_dir: str | None = None) -> list[Part]:
    """The parts of a configuration for some images on some machine.

    Args:
        survey: of the images.
        here: the machine.
        data_dir: where a relative path, or TFDS, has its data.

    Raises:
        UserError: there are too few images to hold any out.
    """
    total = sum(survey.counts)
    parts = total if survey.tests else total - max(1, round(0.2 * total))
    held_out = _held_out(survey, parts)
    train = parts - held_out
    space, pixels = _space(survey, here, train)
    batch = _batch(here, train, large=space.kind is spaces.AttentiveNAS)
    steps = _rounded(max(FEWEST, EPOCHS * train / batch))
    rate = 0.1 if space.kind is spaces.AttentiveNAS else 0.2
    return [
        space,
        _data(survey, here, pixels, held_out, train, data_dir, space.kind),
        Part(
            "sampler",
            samplers.Sandwich,
            "The largest, the smallest and two random subnets learn in every step.",
            {"n_random": 2},
            {},
        ),
        Part(
            "loss",
            losses.AlphaDivergence,
            "The largest learns the labels; the others learn from the largest.",
            {"smoothing": 0.1},
            {},
        ),
        Part(
            "optimizer",
            optimizers.Sgd,
            f"{rate} for each 256 images of a batch; halve it if the loss does not fall.",
            {
                "learning_rate": float(f"{rate * batch / 256:.3g}"),
                "weight_decay": 1e-5 if space.kind is spaces.AttentiveNAS else 1e-4,
                "warmup": 0.05,
            },
            {},
        ),
        _training(steps, batch, train),
        _evaluation(here, held_out, train),
    ]


def shortened(parts: list[Part], steps: int, why: str) -> list[Part]:
    """The same with fewer steps."""
    return [
        part._replace(
            values={**part.values, **_every(steps)}, reasons={**part.reasons, "steps": why}
        )
        if part.kind is config.Train
        else part
        for part in parts
    ]


def built(parts: list[Part]) -> Config:
    """The configuration."""
    return Config(**{part.name: part.kind(**part.values) for part in parts})


def text(parts: list[Part], head: str) -> str:
    """The configuration as a Python file, with its reasons as comments.

    Args:
        parts: of it.
        head: its docstring; paragraphs are separated by empty lines.
    """
    paragraphs = [
        one if one.startswith("    ") else textwrap.fill(one, WIDTH) for one in head.split("\n\n")
    ]
    docstring = "\n\n".join(paragraphs).replace("\\", "\\\\").replace('"""', "'''")
    lines = [f'"""{docstring}\n"""', "", "import supernet_jax as sj", "", "config = sj.Config("]
    for part in parts:
        lines += _comment(part.why, 4)
        start = f"    {part.name}={_public(part.kind)}("
        values = ", ".join(f"{name}={_spelt(value)}" for name, value in part.values.items())
        if not part.reasons and len(f"{start}{values}),") <= WIDTH:
            lines.append(f"{start}{values}),")
            continue
        lines.append(start)
        for name, value in part.values.items():
            lines += _comment(part.reasons.get(name, ""), 8)
            lines.append(f"        {name}={_spelt(value)},")
        lines.append("    ),")
    return "\n".join([*lines, ")"]) + "\n"


def _public(kind: type) -> str:
    """A part of a configuration as users name it, by the room or the door that it comes from."""
    doors = ("spaces", "samplers", "losses", "gradients", "optimizers")
    door = [name for name in kind.__module__.split(".") if name in doors]
    return ".".join(["sj", *door, kind.__name__])


def _comment(why: str, indent: int) -> list[str]:
    start = f"{' ' * indent}# "
    plain = " ".join(why.split())
    return textwrap.wrap(plain, WIDTH, initial_indent=start, subsequent_indent=start)


def _spelt(value: Any) -> str:
    """A value as Python; text in double quotes where it can be."""
    if isinstance(value, str) and value.isprintable() and not {'"', "\\"} & set(value):
        return f'"{value}"'
    return repr(value)


def _held_out(survey: Survey, train: int) -> int:
    """How many training images are held out for search."""
    share = 0.2 if train < 2000 else 0.1
    room = train - len(survey.class_names)
    if room < 1:
        raise UserError(
            f"{survey.name} has {sum(survey.counts)} images in {len(survey.class_names)} classes, "
            "too few to hold any out for search; add images"
        )
    return max(1, min(round(share * train), MOST_HELD_OUT, room))


def _space(survey: Survey, here: Machine, train: int) -> tuple[Part, int]:
    """The search space, and the largest size in pixels at which it sees images."""
    short = round(float(np.median([min(size) for size in survey.sizes] or [32])))
    if short <= 12:
        why = f"The shorter side of the images has {short} pixels: the space for 8 x 8."
        return Part("space", spaces.Digits, why, {}, {}), 8
    if here.backend != "cpu" and short >= 160 and train >= 5000:
        why = (
            f"The published space, for 192 to 288 pixels: the shorter side of the images has "
            f"{short}, there are enough of them, and there is an accelerator."
        )
        return Part("space", spaces.AttentiveNAS, why, {"dropout": 0.2, "drop_path": 0.2}, {}), 224
    most = 32 if here.backend == "cpu" else 64
    largest = max(16, min(short, most) // 8 * 8)
    smaller = max(8, largest * 3 // 4 // 8 * 8)
    sizes = (smaller, largest) if largest > 16 else (largest,)
    seen = " or ".join(map(str, sizes))
    why = f"The shorter side of the images has {short} pixels; the network sees {seen} of them."
    if short > largest:
        why += " More pixels show more and take longer: raise data.size and the resolutions."
    reasons = {"resolutions": "in pixels; the time of a step grows with their square"}
    values = {"resolutions": sizes, "dropout": 0.1}
    return Part("space", spaces.Cifar, why, values, reasons), largest


def _data(
    survey: Survey,
    here: Machine,
    pixels: int,
    held_out: int,
    train: int,
    data_dir: str | None,
    space: type,
) -> Part:
    """Where images come from, and how they are cut and augmented."""
    values: dict[str, Any] = {"name": survey.name}
    reasons: dict[str, str] = {}
    if data_dir is not None:
        values["data_dir"] = data_dir
    values["held_out"] = held_out
    reasons["held_out"] = f"of {train + held_out:,} training images, to search on"
    shapes = set(survey.sizes)
    height, width = next(iter(survey.sizes), (pixels, pixels))
    square = len(shapes) == 1 and height == width
    size = None if square and height <= 2 * pixels else pixels
    random_crops = survey.in_files and size is not None and space is spaces.AttentiveNAS
    if size is not None:
        values["size"] = size
        seen = f"{height} x {width}" if len(shapes) == 1 else "of several sizes"
        reasons["size"] = f"the images are {seen}; all become squares of so many pixels a side"
        if random_crops:
            values["crop"] = "random"
            reasons["crop"] = "a random part of each, as ImageNet is trained; files are streamed"
        elif any(max(s) > 1.15 * min(s) for s in shapes):
            values["crop"] = "centre"
            reasons["crop"] = "not square: the middle is taken; stretch would distort it"
    decoded = sum(survey.counts) + survey.tests
    decoded *= (size or height) * (size or width) * survey.channels
    if survey.in_files and size is not None and not random_crops and 4 * decoded > here.memory:
        values["storage"] = "stream"
        reasons["storage"] = "decoded, they take more than a quarter of this machine's memory"
    if survey.rotated:
        values["upright"] = True
        reasons["upright"] = f"{survey.rotated} of {len(survey.sizes)} images note a rotation"
    if survey.transparent:
        values["background"] = "white"
        reasons["background"] = (
            f"{survey.transparent} of {len(survey.sizes)} images have an alpha channel: white "
            "behind it, in place of whatever colours it hides"
        )
    side = size or height
    if not random_crops and side >= 16:
        values["pad"] = side // 8
        reasons["pad"] = "shifts of up to an eighth of the image"
    if survey.channels == 3:
        values["flip"] = True
        reasons["flip"] = "set it to False where left and right matter, as in text"
    return Part("data", config.Data, "", values, reasons)


def _batch(here: Machine, train: int, *, large: bool) -> int:
    """Images per step: a power of two that leaves some steps in an epoch, over all devices."""
    most = 64 if here.backend == "cpu" else 128 if large else 256
    return _divisible(min(most, max(8, train // 4)), here.devices)


def _divisible(wanted: int, devices: int) -> int:
    """The power of two below, or else what all devices can share."""
    power = 2 ** max(1, int(math.log2(max(2, wanted))))
    return max(devices, power // devices * devices, 2)


def _evaluation(here: Machine, held_out: int, train: int) -> Part:
    slow = here.backend == "cpu"
    evaluated = min(held_out, 2000) if slow else held_out
    values: dict[str, Any] = {
        "calibration_batches": 4,
        "batch": _divisible(min(256, evaluated, train), here.devices),
        "chunk": 8 if slow else 16,
    }
    reasons = {}
    if evaluated < held_out:
        values["limit"] = evaluated
        reasons["limit"] = "enough to tell subnets apart; without a limit all are taken"
    why = "Each subnet is calibrated on training images, then judged on those held out."
    return Part("evaluation", config.Evaluation, why, values, reasons)


def _training(steps: int, batch: int, train: int) -> Part:
    epochs = steps * batch / train
    return Part(
        "train",
        config.Train,
        "",
        {"batch": batch, **_every(steps)},
        {
            "batch": "a smaller batch needs less memory, and a lower rate",
            "steps": f"each image is seen {epochs:.0f} times; more is better, up to a point",
        },
    )


def _every(steps: int) -> dict[str, int]:
    return {
        "steps": steps,
        "checkpoint_every": max(1, min(1000, steps // 10)),
        "log_every": max(1, min(50, steps // 100)),
    }


def _rounded(steps: float) -> int:
    """Two digits that matter, rounded up."""
    unit = 10 ** max(0, int(math.log10(max(1, steps))) - 1)
    return math.ceil(steps / unit) * unit
