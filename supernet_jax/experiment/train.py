"""Training a configuration in a run folder, or going on where an interrupted run stopped."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from supernet_jax import __version__
from supernet_jax.elastic import banks, space_identity
from supernet_jax.elastic.space import Space
from supernet_jax.errors import LOG, UserError, require
from supernet_jax.experiment import base_weights, build, config_paths, run_folder, teaching
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed, sharding, stopping
from supernet_jax.spaces import Adapted
from supernet_jax.storage import checkpoint, files, paths, typed_json
from supernet_jax.storage.paths import expanded
from supernet_jax.training import loop, train_step
from supernet_jax.training.job import Job
from supernet_jax.training.metrics_log import OnMetrics


def train(
    config: Config,
    folder: str | os.PathLike[str],
    *,
    start_from: Run | str | os.PathLike[str] | None = None,
    devices: int = 0,
    on_metrics: OnMetrics | Sequence[OnMetrics] = (),
) -> Run:
    """Trains a supernet; a folder that holds an unfinished run of the same configuration goes on.

    Args:
        config: what to train.
        folder: of the run, made if it is not there. `supernet train` goes on with it, too.
        start_from: a run of the same space, or its folder, whose weights this one begins with
            instead of random ones. Of a space with a bank also a run of it before it was split:
            each row begins with the weights of which it was a part.
        devices: use only so many; 0 uses all.
        on_metrics: a function of a step and of what its line of `metrics.jsonl` holds,
            `{name: number}`, called when the line was written, in process 0; or several. Those of
            `sj.loggers` draw curves. Nothing of what is trained depends on it, and one that fails
            is left out with a warning.

    Returns:
        The trained run.

    Raises:
        UserError: the configuration does not fit its data or the devices; the folder holds
            something else, another process writes it, or it cannot be written; training diverges.
        KeyboardInterrupt: Ctrl-C, or another signal asked to stop (`stopping.Stopped`). What was
            trained is saved, and the same call goes on from there: the parameters become bitwise
            those of a run that was not interrupted.
    """
    folder = expanded(folder)
    listeners = tuple(on_metrics) if isinstance(on_metrics, list | tuple) else (on_metrics,)
    for listener in listeners:
        require(callable(listener), f"on_metrics is {listener!r}, but must be a function")
    with stopping.listening(program=False):
        built = experiment(config, devices=devices)
        _check_alike(built)
        first = start_from.folder if isinstance(start_from, Run) else start_from
        source = None if first is None else expanded(first)
        if source is not None and not checkpoint.steps(folder / "checkpoints"):
            _check_start(source, built)  # before anything is written
        with _writing(folder, config):
            _warn_of_other_images(built, folder / "checkpoints")
            work = job(built, folder)._replace(on_metrics=listeners)
            if work.checkpoints.latest() is None:
                source = _remembered(folder, source)
                if source is not None:
                    loop.begin(work, _weights_of(source, built))
                elif isinstance(config.space, Adapted):
                    loop.begin(work, base_weights.load(config.space, built))
            elif source is not None and jax.process_index() == 0:
                LOG.warning(f"{folder} goes on from its checkpoint, not from {source}")
            state, finished = loop.fit(work)
            work.checkpoints.close()
            if not finished:
                stopping.stop(int(state.step))
    trained = state.params if state.ema is None else state.ema
    return Run(folder, built, trained, int(state.step), built.dataset.fingerprint)


def experiment(config: Config, *, devices: int = 0) -> Experiment:
    """A configuration built for training on some devices, or on all for 0.

    Raises:
        UserError: it does not fit its data, or the devices.
    """
    if devices < 0 or devices > len(jax.devices()):
        raise UserError(
            f"--devices is {devices}, but there are {len(jax.devices())}; 0 uses all of them"
        )
    built = teaching.taught(build.build(config))
    if devices:
        built = built._replace(mesh=build.mesh_of(config, jax.devices()[:devices]))
    wanted, model = config.train.model_devices, built.mesh.shape["model"]
    if model < wanted and jax.process_index() == 0:
        LOG.warning(
            f"warning: train.model-devices is {wanted}, which does not divide the number of "
            f"devices ({built.mesh.size}); {model} share a copy of the parameters"
        )
    sharding.check_divides("train.batch", config.train.batch, built.mesh.size)
    train_step.check_parts(built.recipe, config.train.batch, built.mesh)
    sharding.check_divides("evaluation.batch", config.evaluation.batch, built.mesh.size)
    return built


def _check_alike(built: Experiment) -> None:
    """Raises a `UserError` unless all processes train the same: it would not fail, but mix."""
    described = typed_json.to_json(built.config)
    described["data"].pop("data_dir", None)  # the same images may lie elsewhere on each machine
    digest = hashlib.sha256(files.dumps(described).encode()).hexdigest()[:12]
    distributed.check_alike("versions of supernet_jax", __version__)
    distributed.check_alike("configurations", digest)
    distributed.check_alike("fingerprints of the data", built.dataset.fingerprint)


@contextlib.contextmanager
def _writing(folder: pathlib.Path, settings: Config) -> Iterator[None]:
    """While entered, this job alone writes the run folder: process 0 sees to it for all."""
    with contextlib.ExitStack() as stack:
        error = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(run_folder.writing(folder, settings))
            except UserError as met:
                error = met
        distributed.all_or_none(error)
        yield


def _remembered(folder: pathlib.Path, source: pathlib.Path | None) -> pathlib.Path | None:
    """The run whose weights a run without any begins with: that which is given, or was before the
    run was stopped; None for random weights.
    """
    file = folder / "start_from.json"
    if source is not None:
        if jax.process_index() == 0:
            files.write_json(file, {"start_from": str(paths.absolute(source))})
        return source
    if not files.exists(file):
        return None
    told = files.read_json(file)
    if not isinstance(told, dict) or not isinstance(told.get("start_from"), str):
        raise UserError(f"{file} does not name a run; give --start-from, or another --out")
    if jax.process_index() == 0:
        LOG.warning(f"{folder} begins with the weights of {told['start_from']}, as told before")
    return expanded(told["start_from"])


def _check_start(folder: pathlib.Path, built: Experiment) -> Space:
    """The space of a run whose weights this one may begin with.

    Raises:
        UserError: there is no such run, or it is of another space, or its bank has rows that this
            one's would merge.
    """
    before = space = built.space
    if space.bank is not None:
        before = experiment_run.open_run(folder, built.config, read=False).space
        if not space_identity.alike_but_for_banks(before, space):
            before = space
    space_identity.check_space(checkpoint.read_meta(folder / "checkpoints"), before)
    if before is not space:
        banks.parents(before, space)
    return before


def _weights_of(folder: pathlib.Path, built: Experiment) -> Any:
    """The parameters of another run of the same space (their average, where it kept one).

    Where the space has a bank and that of the run has none, or a coarser one, each row begins as a
    copy of that from which it goes on.
    """
    before, space = _check_start(folder, built), built.space
    found = base_weights.of_run(
        folder, lambda meta: space_identity.check_space(meta, before), built
    )
    return found if before is space else banks.fork(found, before, space)


def _warn_of_other_images(built: Experiment, folder: pathlib.Path) -> None:
    """Says so where a run goes on with images that it did not begin with."""
    if not checkpoint.steps(folder):
        return
    before, now = checkpoint.read_meta(folder).get("data"), built.dataset.fingerprint
    if before != now and jax.process_index() == 0:
        LOG.warning(
            f"warning: {built.dataset.name} no longer gives the "
            f"{built.space.task.metric.examples} that this run was "
            f"trained on (fingerprint {now}, then {before}); it goes on with the new ones"
        )


def job(built: Experiment, folder: pathlib.Path) -> Job:
    """The training run of an experiment in a run folder."""
    settings = built.config.train
    examples, second = build.training_examples(built)
    return Job(
        recipe=built.recipe,
        examples=examples,
        second=second,
        steps=settings.steps,
        batch=settings.batch,
        mesh=built.mesh,
        checkpoints=checkpoint.Checkpoints(folder / "checkpoints"),
        meta=meta(built),
        metrics=folder / "metrics.jsonl",
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        rules=built.rules,
        reading=built.reading,
    )


def meta(built: Experiment) -> dict[str, Any]:
    """What is written beside each checkpoint: the whole configuration, and what it was run on."""
    return {
        "space": space_identity.describe_space(built.space),
        "config": config_paths.with_absolute_paths(typed_json.to_json(built.config)),
        "data": built.dataset.fingerprint,
        "metric": built.space.task.metric._asdict(),
        "jax": jax.__version__,
        "devices": built.mesh.size,
    }
