"""MLflow, through its client.

MLflow is optional: `pip install "supernet_jax[mlflow]"` brings its small package, which logs to a
server or to a database of SQLite. Where to is what MLFLOW_TRACKING_URI says.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet_jax.reporting.loggers.logger import (
    PROJECT,
    Continued,
    curves,
    loaded,
    settings_of,
)


class MLflow:
    """A log in MLflow. Steps that it has are left out when they are trained again.

    The experiment is that of MLFLOW_EXPERIMENT_NAME, or `supernet_jax`; the name is that of the run
    folder.

    Args:
        folder: of the run.

    Raises:
        UserError: MLflow is not installed.
    """

    name = "mlflow"

    def __init__(self, folder: str | os.PathLike[str]):
        loaded(self.name, "mlflow")
        self._log = Continued(self.name, folder)
        self._client: Any = None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a line of metrics."""
        from mlflow.entities import Metric

        if self._log.is_new(step):
            client, run = self._opened()
            now = int(1000 * time.time())
            metrics = [Metric(name, v, now, step) for name, v in curves(values).items()]
            client.log_batch(run, metrics=metrics)
            self._log.after(step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Logs a picture, uint8 `[height, width, 3]`."""
        client, run = self._opened()
        client.log_image(run, picture, key=name, step=step)

    def close(self) -> None:
        """Marks the run as finished until more is logged."""
        client, self._client = self._client, None
        if client is not None:
            client.set_terminated(self._log.begin())

    def _opened(self) -> tuple[Any, str]:
        """The client, and the id of the run at the server, which goes on where it was."""
        import mlflow

        if self._client is None:
            client = mlflow.MlflowClient()
            begun = self._log.place is not None
            run = self._log.begin(lambda: self._created(client))
            if begun:
                client.update_run(run, status="RUNNING")
            self._client = client
        return self._client, self._log.begin()

    def _created(self, client: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(name)
        place = client.create_experiment(name) if experiment is None else experiment.experiment_id
        made = client.create_run(place, run_name=self._log.folder.name).info.run_id
        client.log_dict(made, settings_of(self._log.folder), "config.json")
        return str(made)
