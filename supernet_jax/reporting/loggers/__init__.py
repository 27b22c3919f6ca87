"""Loggers: a run's curves and pictures in TensorBoard, Weights & Biases, trackio or MLflow.

Each is given to `sj.train` as `on_metrics`, or by its name to `--log` of the command line. None of
the packages is a dependency; each has an extra of its name.
"""

from supernet_jax.reporting.loggers.logger import Logger
from supernet_jax.reporting.loggers.mlflow import MLflow
from supernet_jax.reporting.loggers.named import opened
from supernet_jax.reporting.loggers.pictures import log_front
from supernet_jax.reporting.loggers.tensorboard import TensorBoard
from supernet_jax.reporting.loggers.wandb import Wandb
