"""`supernet train`: train a supernet, or go on where an interrupted run stopped."""

import dataclasses
import pathlib
import sys
from typing import Annotated, Any

import jax
import tyro

from supernet_jax import checkpoint, config, data, experiment, fit, sharding
from supernet_jax.commands import common
from supernet_jax.config import Config
from supernet_jax.errors import UserError
from supernet_jax.experiment import Experiment

EXAMPLES = """
supernet train configs/digits.py --out runs/digits
supernet train configs/cifar10.py --out runs/cifar10 --train.steps 2000
supernet train configs/cifar10.py --help          (lists what can be set)
The same command again goes on where an interrupted run stopped."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a supernet from a config file; its fields can be overridden."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: pathlib.Path
    """run folder; it goes on if it holds an unfinished run of the same configuration"""
    devices: int = 0
    """use only so many devices; 0 uses all"""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes train together; `auto` on a TPU pod or under
    Slurm, which know it themselves"""
    processes: int = 1
    """number of those processes"""
    process: int = 0
    """which of them this is, from 0"""


def run(arguments: Arguments) -> None:
    """Trains, and says how to go on."""
    _join(arguments)
    built = _on_devices(experiment.build(arguments.config), arguments.devices)
    sharding.check_divides("train.batch", arguments.config.train.batch, built.mesh)
    sharding.check_arch_shards(built.recipe.arch_shards, built.config.train.batch, built.mesh)
    sharding.check_divides("evaluation.batch", arguments.config.evaluation.batch, built.mesh)
    if jax.process_index() == 0:
        experiment.start_run(arguments.out, arguments.config)
        _warn_of_other_images(built, arguments.out / "checkpoints")
    state, finished = fit.fit(job(built, arguments.out))
    if jax.process_index() != 0:
        return
    if finished:
        print(f"trained {int(state.step)} steps; next: supernet search {arguments.out}")
    else:
        print(
            f"stopped at step {int(state.step)} of {arguments.config.train.steps} and saved; "
            "the same command goes on from there"
        )


def job(built: Experiment, folder: pathlib.Path) -> fit.Job:
    """The training run of an experiment in a run folder."""
    settings = built.config.train
    return fit.Job(
        recipe=built.recipe,
        images=built.dataset.train,
        steps=settings.steps,
        batch=settings.batch,
        mesh=built.mesh,
        checkpoints=checkpoint.Checkpoints(folder / "checkpoints"),
        meta=meta(built),
        metrics=folder / "metrics.jsonl",
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        rules=sharding.SHARDED if settings.shard_params else sharding.REPLICATED,
        reading=data.Reading(built.config.data.threads, built.config.data.workers),
    )


def meta(built: Experiment) -> dict[str, Any]:
    """What is written beside each checkpoint: the whole configuration, and what it was run on."""
    return {
        "space": checkpoint.describe_space(built.space),
        "config": config.to_json(built.config),
        "data": built.dataset.fingerprint,
        "jax": jax.__version__,
        "devices": built.mesh.size,
    }


def _warn_of_other_images(built: Experiment, folder: pathlib.Path) -> None:
    """Says so where a run goes on with images that it did not begin with."""
    if not checkpoint.steps(folder):
        return
    before, now = checkpoint.read_meta(folder).get("data"), built.dataset.fingerprint
    if before != now:
        print(
            f"supernet: warning: {built.dataset.name} no longer gives the images that this run was "
            f"trained on (fingerprint {now}, then {before}); it goes on with the new ones",
            file=sys.stderr,
        )


def _join(arguments: Arguments) -> None:
    """Connects the processes that train together, if there are several."""
    if arguments.coordinator is None:
        if arguments.processes != 1 or arguments.process != 0:
            raise UserError("--processes and --process need --coordinator HOST:PORT of process 0")
        return
    if arguments.coordinator == "auto":
        jax.distributed.initialize()
        return
    host, _, port = arguments.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator is {arguments.coordinator!r}, not HOST:PORT or auto")
    common.at_least("--processes", arguments.processes, 1)
    if not 0 <= arguments.process < arguments.processes:
        raise UserError(
            f"--process is {arguments.process}, but must be 0 to {arguments.processes - 1}: there "
            f"are --processes {arguments.processes}"
        )
    jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.process)


def _on_devices(built: Experiment, count: int) -> Experiment:
    if count < 0 or count > len(jax.devices()):
        raise UserError(
            f"--devices is {count}, but there are {len(jax.devices())}; 0 uses all of them"
        )
    return built._replace(mesh=sharding.data_mesh(jax.devices()[:count])) if count else built
