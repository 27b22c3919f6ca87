"""The steps of an extraction, from a run to folders: one network, or many with shared programs.

One network: its subnet is calibrated and run as it is, sliced. Many: calibration, accuracies and
the supernet's logits come from programs that serve all of them (see `evaluate`), one of each per
size; what is extracted is a program of its own in any case.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from supernet_jax.data import decode
from supernet_jax.data.preparation import Preparation
from supernet_jax.elastic import blockwise, choices, shared_params, strategies
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.notation import to_notation
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.evaluation.evaluate import EvaluationData
from supernet_jax.experiment import build, run
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.run import Run
from supernet_jax.networks import extract, manifest, network_folder
from supernet_jax.networks.formats import table
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.networks.manifest import Description
from supernet_jax.networks.network import Network, Variables
from supernet_jax.runtime import hardware
from supernet_jax.storage import files, whole_folder
from supernet_jax.tasks import ImageClassification, Size

PROOF_IMAGES = 64  # real images on which logits are compared


class Wanted(NamedTuple):
    """How networks are written.

    Attributes:
        formats: at least one, as `formats.table.chosen` gave them.
        pixels: whether programs take uint8 images and normalise them.
        size: pixels of the images that programs take; None for those of the data set.
    """

    formats: tuple[Format, ...] = table.FORMATS[:1]
    pixels: bool = False
    size: int | None = None


class Subnet(NamedTuple):
    """What is known of a subnet inside the supernet.

    Attributes:
        arch: concrete, no batch axes.
        stats: calibrated, at the union's shapes.
        logits: of the proof images, float32 `[B, K]`.
        accuracy: share of images classified correctly in [0, 1], by split.
        calibration: number of batches and of images in each, of `stats`.
    """

    arch: Arch
    stats: Tree
    logits: np.ndarray
    accuracy: Mapping[str, float]
    calibration: tuple[int, int]


def take_out(
    opened: Run, arch: Arch, folder: pathlib.Path, wanted: Wanted | None = None
) -> dict[str, Any]:
    """Calibrates, extracts, proves and writes one subnet. Returns its description.

    Of a run without parameters only those of the subnet are read.

    Raises:
        UserError: the folder is taken, or the network's logits are not the supernet's, or not
            those of what was written.
    """
    opened = opened if opened.params is not None else run.with_part(opened, arch)
    built, params = opened.experiment, opened.params
    data = build.evaluation_data(built, "test")
    stats = calibrated(opened, arch, data.calibration)
    module, variables = extract.extract(built.space, params, arch, stats)
    images = proof_images(built)
    proof = extract.prove(
        built.space, params, arch, stats, module, variables, built.prepare(jnp.asarray(images))
    )
    held_out = build.evaluation_data(built, "held-out")
    values = {
        "held-out": _measured(built, module, variables, held_out),
        "test": _measured(built, module, variables, data),
    }
    made = _Made(arch, module, variables, proof, values, _size(data.calibration))
    return _save(opened, made, folder, wanted or Wanted(), images)


def take_out_many(
    opened: Run, archs: Sequence[Arch], folders: Sequence[pathlib.Path], wanted: Wanted
) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
    """As `take_out` for each of several archs, with programs that serve all of them.

    Of a run without parameters those of one subnet after the other are read, which is then taken
    out by itself: memory is that of the largest. So is each of text.

    Yields:
        Each folder as it is written, and its description; those of one size together.
    """
    if opened.params is None or not _is_of_images(opened.experiment):
        for arch, folder in zip(archs, folders, strict=True):
            yield folder, take_out(opened, arch, folder, wanted)
        return
    images = proof_images(opened.experiment)
    prepared = opened.experiment.prepare(jnp.asarray(images))
    for place, subnet in _subnets(opened, archs, prepared):
        module, variables = extract.extract(
            opened.experiment.space, opened.params, subnet.arch, subnet.stats
        )
        proof = extract.compare(module, variables, prepared, subnet.logits)
        found = (proof, subnet.accuracy, subnet.calibration)
        made = _Made(subnet.arch, module, variables, *found)
        yield folders[place], _save(opened, made, folders[place], wanted, images)


def folder_names(opened: Run, archs: Sequence[Arch]) -> list[str]:
    """A name for each arch's folder, which depends on nothing but the arch and its space."""
    space = opened.experiment.space
    macs = costs.macs(space)
    notations = [files.dumps(to_notation(space.menu, arch)) for arch in archs]
    digests = [hashlib.sha256(notation.encode()).hexdigest()[:8] for notation in notations]
    return [f"macs-{int(macs(a))}-{d}" for a, d in zip(archs, digests, strict=True)]


def is_finished(opened: Run, arch: Arch, folder: pathlib.Path, wanted: Wanted) -> bool:
    """Whether an earlier, perhaps interrupted, command has written this very network there.

    Raises:
        UserError: the folder holds something else, or cannot be looked into.
    """
    try:
        if whole_folder.is_free(folder):
            return False
    except OSError as error:
        raise files.unreadable(folder, error, kind="folder") from error
    there = manifest.described(manifest.read_description(folder), "network.json")
    space, source = opened.experiment.space, there.source
    size = _fed_size(opened.experiment, wanted)
    own = {
        "arch": to_notation(space.menu, arch),
        "checkpoint": opened.step,
        "run": os.path.realpath(opened.folder),
        "preparation": preparation_of(opened.experiment),
        "formats": {f.name: (size, wanted.pixels) for f in wanted.formats},
    }
    theirs = {
        "arch": there.arch,
        "checkpoint": source.get("checkpoint"),
        "run": os.path.realpath(str(source.get("run"))),
        "preparation": there.preparation if isinstance(there, Description) else None,
        "formats": {name: (f.size, f.pixels) for name, f in there.formats.items()},
    }
    other = [key for key in own if own[key] != theirs[key]]
    if other:
        seen = "; ".join(f"{key} is {theirs[key]} there and {own[key]} now" for key in other)
        raise UserError(f"{folder} holds another network ({seen}); choose another --out")
    return True


def proof_images(built: Experiment) -> np.ndarray:
    """Real test images, uint8 `[B, H, W, C]`, or text `[B, T]`."""
    return np.asarray(built.dataset.test.images[:PROOF_IMAGES])


class _Made(NamedTuple):
    arch: Arch
    module: Network
    variables: Variables
    proof: float
    values: Mapping[str, float]  # of the task's metric, by split
    calibration: tuple[int, int]  # batches, images in each


def _save(
    opened: Run, made: _Made, folder: pathlib.Path, wanted: Wanted, images: np.ndarray
) -> dict[str, Any]:
    built = opened.experiment
    description = _description(opened, made, len(images))
    size = _fed_size(built, wanted)
    export = Export(made.module, made.variables, description, size, wanted.pixels)
    return network_folder.save(
        folder,
        made.module,
        made.variables,
        description=description,
        write=table.writer(wanted.formats, export, table.fed(images, export)),
        card=table.card(wanted.formats),
    )


def _description(opened: Run, made: _Made, proof_examples: int) -> dict[str, Any]:
    """What `network.json` says."""
    built = opened.experiment
    dataset = built.dataset
    network = (built.space, made.arch, made.module, made.variables)
    source = {
        "run": str(opened.folder),
        "checkpoint": opened.step,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "split_seed": built.config.data.split_seed,
        "held_out_limit": built.config.evaluation.limit,
        "parameters_read": "slices" if opened.part else "whole",
    }
    if not _is_of_images(built):
        return extract.describe_any(
            *network,
            values=made.values,
            calibration=made.calibration,
            source=source,
            proof=made.proof,
            proof_examples=proof_examples,
        )
    return extract.describe(
        *network,
        mean=dataset.mean,
        std=dataset.std,
        preparation=preparation_of(built),
        classes=dataset.class_names,
        accuracy=made.values,
        calibration=made.calibration,
        source=source,
        proof=made.proof,
        proof_images=proof_examples,
    )


def _is_of_images(built: Experiment) -> bool:
    return isinstance(built.space.task, ImageClassification)


def _size(calibration: Any) -> tuple[int, int]:
    """Batches, and images in each."""
    return calibration.shape[0], calibration.shape[1]


def preparation_of(built: Experiment) -> Preparation | None:
    """How images of a run's data become pixels wherever nothing is random; None for others."""
    if not built.dataset.is_of_images:
        return None
    _, height, width, _ = built.dataset.test.images.shape
    d = built.config.data
    centre = None if d.crop == "stretch" else decode.CENTRE
    return Preparation(height, width, centre, upright=d.upright, background=d.background)


def _fed_size(built: Experiment, wanted: Wanted) -> tuple[int, ...]:
    """Height and width of the images that programs take; nothing for text.

    Raises:
        UserError: something is asked for that only images have.
    """
    if not _is_of_images(built):
        if wanted.pixels or wanted.size is not None:
            option = "--pixels" if wanted.pixels else "--input-size"
            raise UserError(
                f"{option} is for images, but the run is for {built.space.task.name}; leave it out"
            )
        return ()
    if wanted.size is not None:
        return wanted.size, wanted.size
    _, height, width, _ = built.dataset.test.images.shape
    return height, width


# ---------------------------------------------------------------------------- one by itself


def calibrated(opened: Run, arch: Arch, calibration: Any) -> Tree:
    """The statistics of one subnet at the union's shapes, on batches `[A, B, ...]`."""
    space, prepare = opened.experiment.space, opened.experiment.prepare

    @jax.jit
    def statistics(params: Tree, images: Any) -> Tree:
        return evaluate.calibrate(
            space,
            params,
            arch,
            images,
            size=space.size_of(arch),
            strategy=strategies.sliced,
            prepare=prepare,
        )

    return statistics(opened.params, calibration)


def _measured(
    built: Experiment, module: Network, variables: Variables, data: EvaluationData
) -> float:
    """The task's metric of a split, by the extracted network itself."""
    task = built.space.task

    @jax.jit
    def scores(variables: Any, inputs: Any, targets: Any) -> Any:
        return task.score(jnp.asarray(module.apply(variables, built.prepare(inputs))), targets)

    batches = zip(data.inputs, data.targets, strict=True)
    found = [jax.device_get(scores(variables, *batch)) for batch in batches]
    real = np.asarray(data.real).reshape(-1)
    return float(
        task.value({name: np.concatenate([s[name] for s in found])[real] for name in found[0]})
    )


# ---------------------------------------------------------------------------- many together


def _subnets(opened: Run, archs: Sequence[Arch], images: jax.Array) -> Iterator[tuple[int, Subnet]]:
    """What is known of each arch, and its place among them; as many at once as are evaluated."""
    built, space = opened.experiment, opened.experiment.space
    how = dataclasses.replace(build.evaluation_how(built), dtype=jnp.float32)
    splits = {split: build.evaluation_data(built, split) for split in ("held-out", "test")}
    ends = np.cumsum([0, *(len(data.real) for data in splits.values())])
    together = EvaluationData(  # so that one program scores both splits
        splits["test"].calibration,
        *(
            jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)
            for each in zip(*(data[1:] for data in splits.values()), strict=True)
        ),
    )
    unravel = ravel_pytree(shared_params.zero_stats(space))[1]
    logits = functools.cache(functools.partial(_logits_program, how))
    for where, stats in evaluate.calibrated(how, opened.params, choices.stack(archs), together):
        part = [archs[place] for place in where]
        right = _right(how, opened, part, stats, together)
        for i, arch in enumerate(part):
            own = unravel(jnp.asarray(stats[i]))
            given = (opened.params, own, images, jax.tree.map(jnp.asarray, arch))
            with jax.default_matmul_precision("highest"):
                found = np.asarray(logits(space.size_of(arch))(*given))
            accuracy = {
                split: float(right[i, start:end].sum() / np.sum(np.asarray(data.real)))
                for (split, data), start, end in zip(
                    splits.items(), ends[:-1], ends[1:], strict=True
                )
            }
            used = _size(together.calibration)
            yield int(where[i]), Subnet(arch, own, found, accuracy, used)


def _right(
    how: evaluate.How, opened: Run, archs: Sequence[Arch], stats: np.ndarray, data: EvaluationData
) -> np.ndarray:
    """Which images are classified correctly, bool `[N, E, B]`."""
    right = np.zeros((len(archs), *data.real.shape), bool)
    scored = evaluate.scored(
        how, opened.params, choices.stack(archs), stats, data, batches=(0, len(data.real))
    )
    for where, scores in scored:
        right[where] = scores["right"]
    return right


def _logits_program(how: evaluate.How, size: Size) -> Any:
    """`(params, stats, images, arch) -> logits` for all archs of a size."""

    @functools.partial(jax.jit, compiler_options=hardware.runs_once())
    def run(params: Tree, stats: Tree, images: Any, arch: Arch) -> jax.Array:
        strategy = blockwise.traceable(how.strategy)
        output = strategy(how.space, params, arch, images, size=size, stats=stats)
        return output.logits

    return run
