"""`supernet extract`: take one subnet out as an ordinary network, and prove it is the same."""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from supernet_jax import choices, evaluate, experiment, extract, extracted, network
from supernet_jax.choices import Arch
from supernet_jax.commands import common
from supernet_jax.elastic import Tree
from supernet_jax.errors import UserError
from supernet_jax.experiment import Experiment, Run

EXAMPLES = """
supernet extract runs/digits --arch largest --out networks/largest
supernet extract runs/digits --arch front:0 --out networks/cheapest
supernet extract runs/digits --arch arch.json --out networks/mine"""
PROOF_IMAGES = 64  # real images on which logits are compared
WHOLE = 2**28  # bytes of shared parameters up to which all of them are read


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Take one subnet out of a run as an ordinary network, and prove that it is the same."""

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """run folder"""
    arch: str
    """an arch as JSON or in a JSON file, `smallest`, `largest`, or front:N of the last search"""
    out: pathlib.Path
    """folder to write"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for runs that use such"""
    read: Literal["auto", "whole", "slices"] = "auto"
    """which parameters are read: `slices` only those of the subnet, `whole` all of them, so that
    the proof also covers what was left out; `auto` takes slices above 256 MiB"""


def run(arguments: Arguments) -> None:
    """Extracts one subnet into a folder."""
    extract.check_free(arguments.out)
    opened = common.open_run(arguments.run, arguments.config, read=False)
    arch = _arch(opened, arguments.arch)
    description = take_out(with_parameters(opened, arch, arguments.read), arch, arguments.out)
    print(
        f"wrote {arguments.out}: {description['macs']:,} MACs, {description['parameters']:,} "
        f"parameters, test accuracy {description['accuracy']['test']:.2%}; its logits differ from "
        f"the supernet's by {description['proof']['difference']:.1e} of the largest"
    )
    print(f"next: read {arguments.out / 'README.md'}; it shows how to load the network")


def with_parameters(opened: Run, arch: Arch, read: str) -> Run:
    """The run with what `--read` says of its parameters."""
    size = 4 * common.supernet_parameters(opened.experiment.space)  # float32
    if read == "whole" or (read == "auto" and size <= WHOLE):
        return opened if opened.params is not None else experiment.with_params(opened)
    return experiment.with_part(opened, arch)


def _arch(opened: Run, text: str) -> Arch:
    space = opened.experiment.space
    if text.startswith("front:"):
        front = common.front(opened)
        number = text.removeprefix("front:")
        if not number.isdecimal() or int(number) >= len(front):
            raise UserError(
                f"--arch is {text!r}, but the front has front:0 to front:{len(front) - 1}"
            )
        return front[int(number)]
    archs = experiment.read_archs(space, text)
    if len(archs) != 1:
        raise UserError(
            f"--arch takes one arch, but was given {len(archs)}; pass one of them as JSON, or the "
            "file of one"
        )
    return archs[0]


def take_out(opened: Run, arch: Arch, folder: pathlib.Path) -> dict[str, Any]:
    """Calibrates, extracts, proves and writes one subnet. Returns its description.

    Raises:
        UserError: the folder is taken, or the network's logits are not the supernet's.
    """
    built = opened.experiment
    space, dataset, settings = built.space, built.dataset, built.config.evaluation
    data = experiment.evaluation_data(built, "test")
    stats = _calibrate(opened, arch, data.calibration)
    module, variables = extract.extract(space, opened.params, arch, stats)
    images = built.prepare(jnp.asarray(dataset.test.images[:PROOF_IMAGES]))
    difference = extract.prove(space, opened.params, arch, stats, module, variables, images)
    held_out = experiment.evaluation_data(built, "held-out")
    description = extract.describe(
        space,
        arch,
        module,
        variables,
        mean=dataset.mean,
        std=dataset.std,
        classes=dataset.class_names,
        accuracy={
            "held-out": _accuracy(built, module, variables, held_out),
            "test": _accuracy(built, module, variables, data),
        },
        calibration=(data.calibration.shape[0], data.calibration.shape[1]),
        source={
            "run": str(opened.folder),
            "checkpoint": opened.step,
            "data": dataset.name,
            "data_fingerprint": dataset.fingerprint,
            "split_seed": built.config.data.split_seed,
            "held_out_limit": settings.limit,
            "parameters_read": "slices" if opened.part else "whole",
        },
        proof=difference,
        proof_images=len(images),
    )
    extract.save(folder, module, variables, description=description)
    return description


def _calibrate(opened: Run, arch: Arch, calibration: Any) -> Tree:
    space, prepare = opened.experiment.space, opened.experiment.prepare
    resolution = choices.get(space.menu, space.resolution).values[
        int(choices.get(arch, space.resolution))
    ]

    @jax.jit
    def statistics(params: Tree, images: Any) -> Tree:
        return evaluate.calibrate(
            space,
            params,
            arch,
            images,
            resolution=int(resolution),
            strategy=network.sliced,
            prepare=prepare,
        )

    return statistics(opened.params, calibration)


def _accuracy(
    built: Experiment, module: extracted.Network, variables: Any, data: evaluate.EvaluationData
) -> float:
    """Share of a split that the extracted network itself classifies correctly."""

    @jax.jit
    def right(variables: Any, images: Any, labels: Any) -> Any:
        logits: Any = module.apply(variables, built.prepare(images))
        return jnp.sum((labels >= 0) & (jnp.argmax(logits, -1) == labels))

    batches = zip(data.images, data.labels, strict=True)
    correct = sum(int(right(variables, images, labels)) for images, labels in batches)
    return correct / int(np.sum(np.asarray(data.labels) >= 0))
