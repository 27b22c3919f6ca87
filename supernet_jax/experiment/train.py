"""What training a configuration takes."""

import pathlib
from typing import Any

import jax

from supernet_jax.elastic import space_identity
from supernet_jax.experiment import config_paths
from supernet_jax.experiment.build import Experiment
from supernet_jax.storage import checkpoint, typed_json
from supernet_jax.training.job import Job


def job(built: Experiment, folder: pathlib.Path) -> Job:
    """The training run of an experiment in a run folder."""
    settings = built.config.train
    return Job(
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
        rules=built.rules,
        reading=built.reading,
    )


def meta(built: Experiment) -> dict[str, Any]:
    """What is written beside each checkpoint: the whole configuration, and what it was run on."""
    return {
        "space": space_identity.describe_space(built.space),
        "config": config_paths.with_absolute_paths(typed_json.to_json(built.config)),
        "data": built.dataset.fingerprint,
        "jax": jax.__version__,
        "devices": built.mesh.size,
    }
