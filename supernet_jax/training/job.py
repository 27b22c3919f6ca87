"""What a training run is given."""

import pathlib
from typing import Any, NamedTuple

from jax.sharding import Mesh

from supernet_jax import data
from supernet_jax.runtime import sharding
from supernet_jax.storage.checkpoint import Checkpoints
from supernet_jax.training import train_step
from supernet_jax.training.metrics_log import OnMetrics
from supernet_jax.training.recipe import Recipe


class Job(NamedTuple):
    """One training run.

    Attributes:
        recipe: what to train and how.
        examples: those to train on.
        steps: in all.
        batch: examples per step over all devices.
        mesh: the devices.
        checkpoints: where the state is kept.
        meta: JSON values written beside each checkpoint.
        metrics: path of a file of JSON lines.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of metrics.
        reading: who decodes examples that are not in memory.
        rules: how the state is split over the devices.
        step: that of a recipe which differs in the seed or the first state alone, so that nothing
            is compiled again; None to make it.
        second: those on which the sampler learns, or None.
        on_metrics: who gets each line of metrics, on the first process; see `metrics_log`.
    """

    recipe: Recipe
    examples: data.Images
    steps: int
    batch: int
    mesh: Mesh
    checkpoints: Checkpoints
    meta: dict[str, Any]
    metrics: pathlib.Path
    checkpoint_every: int
    log_every: int
    reading: data.Reading = data.Reading()
    rules: sharding.Rules = sharding.REPLICATED
    step: train_step.Step | None = None
    second: data.Images | None = None
    on_metrics: tuple[OnMetrics, ...] = ()
