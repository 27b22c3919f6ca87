"""The teacher of a training run, which evaluation does not need."""

from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.experiment import build, config, read_archs, run, take_out
from supernet_jax.experiment.build import Experiment
from supernet_jax.networks import extract
from supernet_jax.runtime import sharding
from supernet_jax.storage import user_code
from supernet_jax.training.teachers import ExtractedNetwork, Largest, Teacher
from supernet_jax.training.teachers.outside_network import OutsideNetwork


def taught(experiment: Experiment) -> Experiment:
    """An experiment with the teacher of its configuration.

    Raises:
        UserError: there is no such teacher, it is for other images or classes, or two are named.
    """
    settings, folder = experiment.config, experiment.config.train.teacher
    part: Any = settings.teacher
    if folder is not None:
        if part != Largest():
            raise UserError(
                f"train.teacher is {folder}, and teacher is {type(part).__name__}; leave one of "
                "them out, for there is one teacher"
            )
        part = ExtractedNetwork(folder, settings.train.teacher_file)
    offered = user_code.taken(
        part,
        space=experiment.space,
        steps=settings.train.steps,
        features=settings.train.features,
        dtype=config.dtype(settings.train.dtype),
        dataset=experiment.dataset,
        subnet=_subnet,
    )
    teacher = build.part_of("teacher", part, Teacher, **offered)
    return experiment._replace(recipe=experiment.recipe._replace(teacher=teacher))


def _subnet(folder: str, arch: str, file: str | None) -> OutsideNetwork:
    """A subnet of another run, as `supernet extract` would write it, calibrated on its images.

    Args:
        folder: of the other run; only what the subnet needs of its parameters is read.
        arch: which subnet; see `read_archs.read_archs`.
        file: config file that defines parts of the user's own, or None.

    Raises:
        UserError: there is no such run or arch, the run is not on images, or several are
            given.
    """
    opened = run.open_run(folder, file, read=False)
    if not opened.experiment.dataset.is_of_images:
        other = "speech" if opened.experiment.dataset.tokens is None else "text"
        raise UserError(f"the teacher {folder} is a run on {other}; give one on images")
    archs = read_archs.read_archs(opened, arch)
    if len(archs) != 1:
        raise UserError(f"teacher.arch {arch} is {len(archs)} archs; give the one that teaches")
    part = run.with_part(opened, archs[0])
    built, dataset = part.experiment, part.experiment.dataset
    images = sharding.split(built.mesh, build.calibration(built), axis=1)
    stats = take_out.calibrated(part, archs[0], images)
    module, variables = extract.extract(built.space, part.params, archs[0], stats)
    names = dataset.class_names, dataset.mean, dataset.std
    return OutsideNetwork(folder, module, variables, *names)
