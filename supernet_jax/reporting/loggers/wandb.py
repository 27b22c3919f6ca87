"""Weights & Biases, and trackio, which takes the same calls.

Both are optional: `pip install "supernet_jax[wandb]"`, `pip install "supernet_jax[trackio]"`. W&B
sends what it is given to its server, or with WANDB_MODE=offline writes it into the run folder;
trackio keeps it on this machine, unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL names another.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from supernet_jax.errors import UserError, one_of, require
from supernet_jax.reporting.loggers.logger import (
    PROJECT,
    Continued,
    curves,
    loaded,
    settings_of,
)
from supernet_jax.storage.buckets import Bucket


class Wandb:
    """A log in Weights & Biases or trackio. Steps that it has are left out when they are trained
    again.

    The project is that of WANDB_PROJECT or TRACKIO_PROJECT, else `supernet_jax`; the name is that
    of the run folder, in trackio with a number behind it, since only the name tells runs apart.

    Args:
        folder: of the run.
        package: "wandb" or "trackio".

    Raises:
        UserError: the package is not installed, or wandb has no key for its server and is not
            offline.
    """

    def __init__(self, folder: str | os.PathLike[str], *, package: str = "wandb"):
        one_of("package", package, ("wandb", "trackio"))
        self.name, self._package = package, loaded(package, package)
        self._log = Continued(package, folder)
        self._run: Any = None
        if package == "wandb":
            _check_key(self._package)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a line of metrics."""
        if self._log.is_new(step):
            self._opened().log(curves(values), step=step)
            self._log.after(step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Logs a picture, uint8 `[height, width, 3]`, after all that was logged before."""
        run = self._opened()
        last = self._log.place.step if self._log.place else 0
        there = run.step if self.name == "wandb" else 0  # as its server says, with other pictures
        run.log({name: self._package.Image(picture)}, step=max(step, last + 1, there))

    def close(self) -> None:
        """Waits until all was sent, or in offline mode written."""
        run, self._run = self._run, None
        if run is not None:
            # What trackio knows of itself would be finished once more when Python ends.
            finish = self._package.finish if self.name == "trackio" else run.finish
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                finish()

    def _opened(self) -> Any:
        """The run at the backend, which goes on where it was."""
        if self._run is None:
            folder, log = self._log.folder, self._log.begin()
            project = os.environ.get(f"{self.name.upper()}_PROJECT", PROJECT)
            how: dict[str, Any] = {"project": project, "config": settings_of(folder)}
            if self.name == "wandb":
                how |= {"id": log, "name": folder.name}
                how["settings"] = self._package.Settings(console="off", silent=True)
                if not isinstance(folder, Bucket):
                    how["dir"] = str(folder / "loggers")
            else:
                how |= {"name": f"{folder.name}-{log}", "embed": False}
            with contextlib.redirect_stdout(sys.stderr):
                self._run = self._package.init(resume="allow", **how)
        return self._run


def _check_key(wandb: Any) -> None:
    """Raises a `UserError` where wandb would ask for a key, or fail for want of one."""
    if wandb.setup().settings.mode != "online":
        return
    try:
        has_key = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:  # a key that cannot be one
        raise UserError(f"the key of wandb is not valid ({error}); run `wandb login`") from None
    require(
        has_key,
        "the logger wandb has no key for its server: run `wandb login`, set WANDB_API_KEY, or set "
        "WANDB_MODE=offline to keep the log in the run folder",
    )
