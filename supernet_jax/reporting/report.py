"""The report of a run: one HTML file that needs nothing else."""

import os
import pathlib
from collections.abc import Mapping

from supernet_jax.errors import UserError
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.reporting import page
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded


def report(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    config: Config | Mapping[str, type] | str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Writes one HTML file about a run: training, front, networks, and what is still missing.

    Args:
        run: or its folder, in whatever state it is, also while it is training.
        out: file to write, `report.html` of the run's folder without; an older report there is
            replaced.
        config: as of `open_run`, for the charts that need a space or a sampler of the user's own.

    Returns:
        The path of the file.

    Raises:
        UserError: it is no run folder, or the file cannot be written.
    """
    if isinstance(run, Run):
        folder, config = run.folder, run.config if config is None else config
    else:
        folder = expanded(run)
    path = folder / "report.html" if out is None else expanded(out)
    named = os.fspath(config) if isinstance(config, str | os.PathLike) else ""
    text = page.text(folder, types=experiment_run.types_of(config), config_file=named)
    _check_free(path)  # after the run was found to be one
    files.write_text(path, text)
    return path


def _check_free(path: pathlib.Path) -> None:
    """Raises a `UserError` unless the report may be written there."""
    if files.is_folder(path):
        raise UserError(f"{path} is a folder; --out is a file, as report.html")
    if files.exists(path) and not page.is_report(path):
        raise UserError(f"{path} exists already and is no report; choose another --out")
    if not files.may_hold(path.absolute().parent):
        raise UserError(f"there is no folder {path.parent}; make it or choose another --out")
