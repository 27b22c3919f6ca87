"""Loggers by the names that `--log` takes."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from supernet_jax.errors import LOG, one_of
from supernet_jax.reporting.loggers.logger import Logger
from supernet_jax.reporting.loggers.mlflow import MLflow
from supernet_jax.reporting.loggers.tensorboard import TensorBoard
from supernet_jax.reporting.loggers.wandb import Wandb
from supernet_jax.runtime import distributed
from supernet_jax.storage import user_code

KINDS: dict[str, Callable[..., Any]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": functools.partial(Wandb, package="trackio"),
    "mlflow": MLflow,
}


@contextlib.contextmanager
def opened(names: Sequence[str], folder: str | os.PathLike[str] | None) -> Iterator[list[Logger]]:
    """The loggers of a run, in process 0, closed at the end; in other processes none.

    Raises:
        UserError: there is none of a name, or one cannot be used. Nothing has been written then.
    """
    found: list[Logger] = []
    for name in names:
        one_of("--log", name, KINDS)
    if names:
        distributed.once(lambda: found.extend(KINDS[n](folder) for n in dict.fromkeys(names)))
    try:
        yield found
    finally:
        for logger in found:
            try:
                logger.close()
            except Exception as error:  # clients of others raise anything
                text = user_code.told(error, None)
                LOG.warning(f"warning: {logger.name} could not be closed ({text})")
