"""From a configuration to everything that a command needs, and run folders on disk.

A run folder holds `config.json`, `metrics.jsonl`, `checkpoints/`, `evaluations.jsonl`, and what
searches and extractions add.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from supernet_jax import augment, checkpoint, choices, config, data, sharding, train
from supernet_jax.choices import Arch, Array
from supernet_jax.config import Config
from supernet_jax.data import Dataset
from supernet_jax.elastic import Tree
from supernet_jax.errors import UserError
from supernet_jax.evaluate import EvaluationData
from supernet_jax.network import Space


class Experiment(NamedTuple):
    """A configuration with its data, space and recipe built.

    Attributes:
        config: the configuration.
        dataset: its images.
        space: its search space.
        prepare: uint8 images -> the network's float input, without augmentation.
        recipe: how to train it.
        mesh: the devices, all on one axis.
    """

    config: Config
    dataset: Dataset
    space: Space
    prepare: Callable[[Array], Array]
    recipe: train.Recipe
    mesh: Mesh


def build(settings: Config) -> Experiment:
    """Loads the data and builds the space and the recipe of a configuration.

    Raises:
        UserError: what the data or a part of the configuration says is wrong.
    """
    d = settings.data
    held_out = int(d.held_out) if d.held_out >= 1 else d.held_out
    dataset = data.load(
        d.name, data_dir=d.data_dir, held_out=held_out, seed=d.split_seed, size=d.size
    )
    classes, channels = len(dataset.class_names), dataset.train.images.shape[-1]
    space = settings.space.build(classes=classes, input_channels=channels)
    prepare = functools.partial(augment.normalise, mean=dataset.mean, std=dataset.std)
    recipe = _recipe(settings, space, prepare)
    return Experiment(settings, dataset, space, prepare, recipe, sharding.data_mesh())


def _recipe(settings: Config, space: Space, prepare: Callable[[Array], Array]) -> train.Recipe:
    d, t = settings.data, settings.train

    def augmented(images: Array, key: Array, ids: Array) -> Array:
        if d.pad or d.flip:
            images = augment.augment(images, key, ids, pad=d.pad, flip=d.flip)
        return prepare(images)

    return train.Recipe(
        space=space,
        sampler=settings.sampler.build(menu=space.menu),
        loss=settings.loss.build(),
        optimizer=settings.optimizer.build(steps=t.steps),
        augment=augmented,
        strategy=config.strategy(t.strategy, job="train", backend=jax.default_backend()),
        seed=t.seed,
        dtype=config.dtype(t.dtype),
        ema_decay=t.ema,
    )


def evaluation_data(experiment: Experiment, split: str) -> EvaluationData:
    """Calibration batches of the training images, and a whole split, on the mesh.

    Args:
        experiment: whose data.
        split: "held-out" (drawn from the training data) or "test".
    """
    dataset, settings = experiment.dataset, experiment.config.evaluation
    sharding.check_divides("evaluation.batch", settings.batch, experiment.mesh)
    images = {"held-out": dataset.held_out, "test": dataset.test}[split]
    if settings.limit and split == "held-out":
        images = data.Images(*(part[: settings.limit] for part in images))
    calibration = data.calibration_subset(
        dataset.train,
        batches=settings.calibration_batches,
        batch=settings.batch,
        seed=experiment.config.data.split_seed,
    )
    host = EvaluationData(calibration, *data.padded_batches(images, settings.batch))
    return sharding.split(experiment.mesh, host, axis=1)


class Run(NamedTuple):
    """A trained run: its experiment, and the parameters of one of its checkpoints.

    Attributes:
        folder: of the run.
        experiment: built from its `config.json`.
        params: shared parameters (their average, where training kept one), on the mesh.
        step: of the checkpoint.
    """

    folder: pathlib.Path
    experiment: Experiment
    params: Tree
    step: int


def open_run(folder: pathlib.Path, types: Mapping[str, type] | None = None) -> Run:
    """Opens a run folder at its last checkpoint.

    Args:
        folder: of the run.
        types: the user's own configuration dataclasses, by name.

    Raises:
        UserError: not a run folder, no usable checkpoint, or one of another space.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; `supernet train` makes one")
    experiment = build(config.read(folder / "config.json", types))
    kept = folder / "checkpoints"
    steps = checkpoint.steps(kept)
    if not steps:
        raise UserError(f"{folder} has no checkpoint yet; run `supernet train` on it first")
    checkpoint.check_space(checkpoint.read_meta(kept), experiment.space)
    subtree = "ema" if experiment.config.train.ema else "params"
    where = sharding.replicated(experiment.mesh)
    params = checkpoint.restore_params(kept, subtree=subtree, sharding=where)
    step = steps[-1]
    return Run(folder, experiment, params, step)


def start_run(folder: pathlib.Path, settings: Config) -> None:
    """Makes a run folder, or makes sure that an existing one is of the same configuration.

    Raises:
        UserError: the folder holds something else, or a run of another configuration.
    """
    path = folder / "config.json"
    if path.exists():
        _check_same(path, settings)
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} already holds something that is not a run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(config.to_json(settings), indent=1) + "\n")
    temporary.replace(path)


def _check_same(path: pathlib.Path, settings: Config) -> None:
    try:
        old = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path} is damaged; choose another --out") from None
    differing = list(_differences(old, config.to_json(settings)))
    if differing:
        shown = "; ".join(differing[:4])
        raise UserError(
            f"{path.parent} already holds a run of another configuration ({shown}); choose another "
            "--out, or give the same configuration to go on with it"
        )


def _differences(old: Any, new: Any, where: str = "") -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where} is {json.dumps(old)} there and {json.dumps(new)} now"


def describe_config(settings: Config) -> dict[str, Any]:
    """The configuration as JSON values."""
    return config.to_json(settings)


def read_archs(space: Space, text: str) -> list[Arch]:
    """Reads archs from what a user gave: a name, JSON, or a file of JSON.

    Args:
        space: whose archs.
        text: `smallest`, `largest`, an arch in the notation of the space as JSON, or a path of a
            JSON file with one arch, a list of them, or results that hold them under "arch".

    Raises:
        UserError: not readable as any of those; an arch that is not in the space.
    """
    if text in ("smallest", "largest"):
        pick = choices.smallest if text == "smallest" else choices.largest
        return [pick(space.menu)]
    if text.lstrip().startswith(("{", "[")):
        source, content = "the given JSON", text
    else:
        source, content = text, _read_text(text)
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{source} is not valid JSON: {error}") from None
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UserError(f"{source} holds no arch")
    archs = []
    for i, item in enumerate(items):
        notation = item["arch"] if isinstance(item, dict) and "arch" in item else item
        try:
            archs.append(choices.from_notation(space.menu, notation))
        except UserError as error:
            place = f"{source}, arch {i}" if len(items) > 1 else source
            raise UserError(f"{place}: {error} (space {space.name})") from None
    return archs


def _read_text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}; give a JSON file, an arch as JSON, `smallest` or `largest`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def with_evaluation(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with other evaluation settings."""
    evaluation = dataclasses.replace(experiment.config.evaluation, **changes)
    settings = dataclasses.replace(experiment.config, evaluation=evaluation)
    return experiment._replace(config=settings)
