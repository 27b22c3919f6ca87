"""A trained run, opened at one of its checkpoints."""

import functools
import html
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from supernet_jax.elastic import choices, space_identity
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import LOG, UserError
from supernet_jax.experiment import build
from supernet_jax.experiment import config as config_module
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.networks import extract
from supernet_jax.runtime import sharding
from supernet_jax.storage import checkpoint, files
from supernet_jax.storage.paths import expanded


class Run(NamedTuple):
    """A trained run: its experiment, and the parameters of one of its checkpoints.

    Attributes:
        folder: of the run.
        experiment: built from its `config.json`.
        params: shared parameters (their average, where training kept one), on the mesh, split as
            the configuration has it; None where they have not been read.
        step: of the checkpoint.
        trained_on: fingerprint of the images that it was trained on; those of the experiment may
            be others.
        part: whether `params` are only what one subnet needs.
    """

    folder: pathlib.Path
    experiment: Experiment
    params: Tree
    step: int
    trained_on: str
    part: bool = False

    @property
    def space(self) -> Space:
        """The search space."""
        return self.experiment.space

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.experiment.config

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self._about()})"

    def _repr_html_(self) -> str:
        return (
            f"<b>Run</b> <code>{html.escape(str(self.folder))}</code>: {html.escape(self._about())}"
        )

    def _about(self) -> str:
        archs = choices.count(self.space.menu)
        return (
            f"step {self.step} of {self.config.train.steps}, space {self.space.name} of {archs:,} "
            f"archs, data {self.experiment.dataset.name}"
        )


def open_run(
    folder: str | os.PathLike[str],
    config: Config | Mapping[str, type] | str | os.PathLike[str] | None = None,
    *,
    read: bool = True,
) -> Run:
    """Opens a run folder at its last checkpoint.

    Args:
        folder: of the run.
        config: for runs with parts of the user's own: the config file that defines them (it is
            run), a configuration that has them, or the dataclasses by name.
        read: whether to read the parameters; without, see `with_params` and `with_part`.

    Raises:
        UserError: not a run folder, no usable checkpoint, or one of another space or held-out
            split.
    """
    folder = expanded(folder)
    try:
        is_there = folder.is_dir()
    except OSError as error:  # a folder above it is closed to this user
        raise files.unreadable(folder, error) from error
    if not is_there:
        raise UserError(f"there is no run folder {folder}; `supernet train` makes one")
    settings = config_module.read(folder / "config.json", types_of(config))
    experiment = build.build(settings)
    kept = folder / "checkpoints"
    steps = checkpoint.steps(kept)
    if not steps:
        raise UserError(f"{folder} has no checkpoint yet; run `supernet train` on it first")
    meta = checkpoint.read_meta(kept, step=steps[-1])
    space_identity.check_space(meta, experiment.space)
    _check_split(folder, meta, experiment.config)
    run = Run(folder, experiment, None, steps[-1], str(meta.get("data")))
    _warn(run)
    return with_params(run) if read else run


def opened(run: Run | str | os.PathLike[str], *, read: bool = True) -> Run:
    """A run as it is, with its parameters if they are wanted; or one opened by its folder."""
    if not isinstance(run, Run | str | os.PathLike):
        raise UserError(f"a run is wanted, or its folder, but a {type(run).__name__} was given")
    if not isinstance(run, Run):
        return open_run(run, read=read)
    return with_params(run) if read and run.params is None else run


def types_of(config: Any) -> Mapping[str, type] | None:
    """The dataclasses of a configuration, by name; see `open_run`."""
    if isinstance(config, Config):
        return {type(part).__name__: type(part) for part in config_module.parts(config)}
    if config is None or isinstance(config, Mapping):
        return config
    if not isinstance(config, str | os.PathLike):
        raise UserError(
            f"config is a {type(config).__name__}; give the config file that defines your own "
            "parts, or the configuration"
        )
    return config_module.load_file(os.fspath(config))[1]


def _warn(run: Run) -> None:
    """Says what may be other than it seems."""
    now, steps = run.experiment.dataset.fingerprint, run.config.train.steps
    what = run.space.task.metric.examples
    if run.trained_on != now:
        LOG.warning(
            f"warning: {run.experiment.dataset.name} no longer gives the {what} that {run.folder} "
            f"was trained on (fingerprint {now}, then {run.trained_on}); held-out {what} may be "
            "ones that it has seen"
        )
    if 0 < run.step < steps:
        LOG.warning(f"warning: {run.folder} has been trained for {run.step} of {steps} steps")


def with_params(run: Run) -> Run:
    """The run with all shared parameters."""
    where = functools.partial(sharding.place, run.experiment.mesh, rules=run.experiment.rules)
    kept, subtree = run.folder / "checkpoints", _subtree(run)
    params = checkpoint.restore_params(kept, step=run.step, subtree=subtree, sharding=where)
    return run._replace(params=params)


def with_part(run: Run, arch: Arch) -> Run:
    """The run with what one subnet needs of the shared parameters, and with a space like it.

    Nothing else is read or held. In calibration, extraction and proof it does as the whole run.
    """
    kept, space = run.folder / "checkpoints", run.experiment.space
    part = extract.read_part(kept, space, arch, step=run.step, subtree=_subtree(run))
    params = sharding.replicate(run.experiment.mesh, part.params)
    own = run.experiment._replace(space=part.space)
    return run._replace(params=params, experiment=own, part=True)


def _subtree(run: Run) -> str:
    return "ema" if run.experiment.config.train.ema else "params"


def _check_split(folder: pathlib.Path, meta: Mapping[str, Any], settings: Config) -> None:
    """Images held out now must have been held out of training."""
    trained = meta.get("config", {}).get("data", {})
    for name in ("held_out", "split_seed"):
        own = getattr(settings.data, name)
        if trained.get(name, own) != own:
            raise UserError(
                f"{folder / 'config.json'} says data.{name} is {own}, but the checkpoint was "
                f"trained with {trained[name]}, so images held out now would be ones that it has "
                "seen; put the old value back"
            )
