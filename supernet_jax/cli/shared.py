"""What several commands share."""

import json
import math
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import jax

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near
from supernet_jax.experiment import build, config, read_archs, results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.storage import files

CLASSES = {"attentivenas": 1000, "ofa_mobilenetv3": 1000}  # of published spaces; 10 elsewhere
CHANNELS = {"digits": 1}
SEARCH_FILE = "search.json"  # of a run folder: the result of its last search


def one_of(option: str, value: str, allowed: Iterable[str]) -> None:
    """Raises a `UserError` unless an option's value is among those allowed."""
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(
            f"{option} is {value!r}, allowed: {', '.join(allowed)}{near(value, allowed)}"
        )


def at_least(option: str, value: float, low: float) -> None:
    """Raises a `UserError` unless an option's number is large enough, and one of 32 bits."""
    if not value >= low:
        raise UserError(f"{option} is {value}, but must be at least {low}")
    if value >= 2**32:  # JAX would take the last bits alone
        raise UserError(f"{option} is {value}, but must be at most {2**32 - 1}")


def open_run(folder: pathlib.Path, file: pathlib.Path | None, *, read: bool = True) -> Run:
    """Opens a run folder; `file` is the config file that defines the user's own parts, `read` says
    whether its parameters are read.
    """
    types = config.load_file(file)[1] if file is not None else None
    run = experiment_run.open_run(folder, types, read=read)
    if run.trained_on != run.experiment.dataset.fingerprint:
        print(
            f"supernet: warning: {run.experiment.dataset.name} no longer gives the images that "
            f"{folder} was trained on (fingerprint {run.experiment.dataset.fingerprint}, then "
            f"{run.trained_on}); held-out images may be ones that it has seen",
            file=sys.stderr,
        )
    steps = run.experiment.config.train.steps
    if 0 < run.step < steps:
        print(
            f"supernet: warning: {folder} has been trained for {run.step} of {steps} steps",
            file=sys.stderr,
        )
    return run


def space_of(name: str) -> Space:
    """The space of that name, or of a config file."""
    if name in config.SPACES:
        classes, channels = CLASSES.get(name, 10), CHANNELS.get(name, 3)
        return config.SPACES[name].build(classes=classes, input_channels=channels)
    if name.endswith(".py") or pathlib.Path(name).exists():
        return build.build(config.load_file(name)[0]).space
    known = ", ".join(config.SPACES)
    hint = near(name, config.SPACES)
    raise UserError(f"there is no space {name!r}, only {known} or a config file{hint}")


def supernet_parameters(space: Space) -> int:
    """Number of shared parameters of a space, over all rows of a bank."""
    shapes = jax.tree.leaves(shared_params.parameter_shapes(space))
    return sum(math.prod(leaf.shape) for leaf in shapes)


def read_search(run: Run) -> dict[str, Any]:
    """The result of the run's last search.

    Raises:
        UserError: there was none, or its file cannot be read.
    """
    path = run.folder / SEARCH_FILE
    if not os.path.lexists(path):
        raise UserError(f"{run.folder} has no search yet; run `supernet search {run.folder}`")
    text = files.read_text(path, kind="result of a search")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{files.unreadable(path, error, kind='result of a search')}; "
            f"`supernet search {run.folder}` writes one"
        ) from None


def front(run: Run) -> list[Arch]:
    """Archs of the front of the run's last search, cheapest first."""
    result = read_search(run)
    try:
        archs = json.dumps([entry["arch"] for entry in result["front"]])
        return read_archs.read_archs(run.experiment.space, archs)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{run.folder / SEARCH_FILE} is not the result of a search of this run ({error}); "
            f"`supernet search {run.folder}` writes one"
        ) from None


def check_writable(option: str, path: pathlib.Path) -> None:
    """Raises a `UserError` if a file is there already, or cannot be made where it is to be."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; choose another {option}")
    if not os.path.isdir(path.absolute().parent):
        raise UserError(f"there is no folder {path.parent}; make it or choose another {option}")
    if not files.is_writable(path):
        raise UserError(
            f"this user cannot write to the folder {path.parent}; choose another {option}"
        )


def keeps_results(run: Run, out: pathlib.Path | None) -> bool:
    """Whether results can be kept in the run's folder; if they cannot, that is said.

    Raises:
        UserError: they cannot, and no other place is given.
    """
    if files.is_writable(results.file_of(run)) and files.is_writable(run.folder):
        return True
    if out is None:
        raise UserError(
            f"this user cannot write to {run.folder}, where results are kept; give --out FILE, and "
            "they are written there alone"
        )
    print(
        f"supernet: note: this user cannot write to {run.folder}, so no record is kept there: "
        f"results are in {out} alone, and an interrupted command begins anew",
        file=sys.stderr,
    )
    return False
