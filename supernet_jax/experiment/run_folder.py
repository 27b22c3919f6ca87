"""A run folder: made, locked while it is written, and held to its configuration."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from supernet_jax.errors import LOG, UserError
from supernet_jax.experiment import config, config_paths
from supernet_jax.experiment.config import Config
from supernet_jax.storage import checkpoint, files, lock, paths, typed_json, user_code

# Settings that change nothing of what is trained, so that a run may go on with others.
HARMLESS = (
    "train.log_every",
    "train.checkpoint_every",
    "evaluation.",
    "data.threads",
    "data.workers",
    "searcher",
    "costs",
)
LEFT_SECONDS = 3600  # after which nobody is still writing a temporary file of a run


@contextlib.contextmanager
def writing(folder: pathlib.Path, settings: Config) -> Iterator[None]:
    """While entered, this process alone writes the run folder, which is of this configuration.

    Raises:
        UserError: as `start_run`, or another process writes it.
    """
    _check_own(folder)
    describe_config(settings)  # which fails before there is a folder
    files.make_folder(folder)
    with lock.held(folder):
        files.remove_left_over(folder, seconds=LEFT_SECONDS)
        start_run(folder, settings)
        yield


def start_run(folder: pathlib.Path, settings: Config) -> None:
    """Makes a run folder, or makes sure that an existing one is of the same configuration.

    What does not change how a run is trained (`HARMLESS`) may differ; the folder then takes it
    over, and so do later evaluations.

    Raises:
        UserError: the folder holds something else or a run of another configuration, or it cannot
            be made.
    """
    path = folder / "config.json"
    _check_own(folder)
    if path.exists():
        old = _read_config(path)
        if _has_begun(folder):
            changed = _check_same(folder, old, settings)
            if not changed:
                return
            for difference in changed:
                LOG.warning(f"{folder}: {difference}")
    files.write_json(path, describe_config(settings))


def _check_own(folder: pathlib.Path) -> None:
    """Raises a `UserError` if a folder holds anything but a run, or what was left of a first start
    that failed, as on a full disk; or if its name is one that no array store takes.
    """
    paths.absolute(folder)
    with files.reading(folder):
        if not folder.exists() or (folder / "config.json").exists():
            return
        if not folder.is_dir():
            raise UserError(
                f"cannot write {folder}, which is a file, not the folder of a run; choose another "
                "--out"
            )
        other = [p.name for p in folder.iterdir() if not _left_over(p)]
    if other:
        raise UserError(
            f"{folder} already holds something that is not a run ({other[0]}); choose another --out"
        )


def _left_over(path: pathlib.Path) -> bool:
    empty = path.name == "checkpoints" and path.is_dir() and not checkpoint.steps(path)
    return empty or lock.FILE in path.name or path.name.startswith(".config.json.")


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether anything was trained; a run that failed before may begin with another config."""
    metrics = folder / "metrics.jsonl"
    logged = files.size_of(metrics) > 0
    return logged or bool(checkpoint.steps(folder / "checkpoints"))


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    old = files.read_json(path)
    if not isinstance(old, dict) or old.get("type") != config.Config.__name__:
        raise UserError(f"{path} is not that of a run; choose another --out")
    return {key: value for key, value in old.items() if key != config.FILES}


def _check_same(folder: pathlib.Path, old: dict[str, Any], settings: Config) -> list[str]:
    """The harmless differences of a run's configuration to another one; of others, an error."""
    own = {type(part).__name__: type(part) for part in config.parts(settings)}
    types = {**config.LIBRARY, **own}
    old = config_paths.with_absolute_paths(typed_json.completed(old, types))
    differing = dict(
        _differences(old, config_paths.with_absolute_paths(typed_json.to_json(settings)))
    )
    harmful = {name: said for name, said in differing.items() if not name.startswith(HARMLESS)}
    if harmful.keys() == {"train.steps"} and old["train"]["steps"] < settings.train.steps:
        _check_goes_further(folder, old["train"]["steps"], settings)
    elif harmful:
        shown = "; ".join(list(harmful.values())[:4])
        raise UserError(
            f"{folder} already holds a run of another configuration ({shown}); choose another "
            "--out, or give the same configuration to go on with it"
        )
    return list(differing.values())


def _check_goes_further(folder: pathlib.Path, before: int, settings: Config) -> None:
    """Raises a `UserError` unless more steps are the same training, longer."""
    if not _alike_for(before, settings):
        raise UserError(
            f"{folder} is a run of {before} steps, and what it does in a step (learning rate, "
            f"sampler) depends on that number, so it cannot go on to {settings.train.steps}; to "
            f"train its weights further give another --out and --start-from {folder}"
        )


def _alike_for(steps: int, settings: Config) -> bool:
    """Whether the first `steps` of these settings are those of a run of just so many."""
    for part in (settings.sampler, settings.combine, settings.teacher):
        if "steps" in user_code.taken(part, space=None, steps=steps):
            return False
    try:
        rates = [settings.optimizer.schedule(steps=n) for n in (steps, settings.train.steps)]
    except AttributeError:  # an optimiser of the user's own that does not say
        return False
    own, other = (np.asarray([float(rate(step)) for step in range(steps)]) for rate in rates)
    return bool(np.array_equal(own, other))


def _differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Names of what differs, and how."""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield where, f"{where} is {_shown(old)} there and {_shown(new)} now"


def _shown(value: Any) -> str:
    whole = isinstance(value, dict) and "type" in value
    return f"a {value['type']}" if whole else json.dumps(value)


def describe_config(settings: Config) -> dict[str, Any]:
    """What `config.json` holds: the configuration, its paths absolute, and the user's files that
    it needs.
    """
    own = config.user_files(settings)
    return {
        **config_paths.with_absolute_paths(typed_json.to_json(settings)),
        **({config.FILES: own} if own else {}),
    }
