"""From a configuration to what it describes: data, space and recipe, and how to evaluate."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from supernet_jax import data
from supernet_jax.data import Dataset, augment
from supernet_jax.elastic import taps
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.space import Space, geometry, output_shape
from supernet_jax.errors import LOG, UserError
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.evaluate import EvaluationData, How
from supernet_jax.experiment import augmentation, config
from supernet_jax.experiment.config import Config
from supernet_jax.runtime import cache, sharding
from supernet_jax.storage import user_code
from supernet_jax.tasks import (
    ImageClassification,
    NextToken,
    SequenceClassification,
    SpeakerVerification,
    Task,
    Translation,
    offered,
)
from supernet_jax.training import recipe, samplers
from supernet_jax.training.gradients import combine
from supernet_jax.training.samplers import Sampler, sampler


class Experiment(NamedTuple):
    """A configuration with its data, space and recipe built.

    Attributes:
        config: the configuration.
        dataset: its images or text.
        space: its search space.
        prepare: inputs as the data has them -> those of the task, without augmentation.
        recipe: how to train it.
        mesh: the devices, `data` x `model`.
    """

    config: Config
    dataset: Dataset
    space: Space
    prepare: Callable[[Array], Array]
    recipe: recipe.Recipe
    mesh: Mesh

    @property
    def rules(self) -> sharding.Rules:
        """How parameters, and all of the training state, are split over the devices."""
        settings = self.config.train
        if settings.shard_params:
            return sharding.SHARDED
        return sharding.OVER_MODEL if settings.model_devices > 1 else sharding.REPLICATED

    @property
    def reading(self) -> data.Reading:
        """Who decodes images that are not in memory."""
        return data.Reading(self.config.data.threads, self.config.data.workers)


def build(settings: Config) -> Experiment:
    """Loads the data and builds the space and the recipe of a configuration.

    Raises:
        UserError: what the data or a part of the configuration says is wrong.
    """
    cache.enable()  # before the first block is described, which takes a while where none was kept
    if not isinstance(settings, Config):
        raise UserError(
            f"a configuration is wanted, as sj.Config(...), but {str(settings)[:60]!r} was given; "
            "the one of a config file is `load_file(path)[0]` of supernet_jax.experiment.config"
        )
    dataset = _loaded(settings)
    for note in dataset.notes:
        _warn(note)
    task = task_of(settings, dataset)
    more = user_code.taken(settings.space, **offered(task))
    space = part_of("space", settings.space, Space, **more)
    if space.task != task:
        raise UserError(
            f"config.space: {type(settings.space).__name__} builds a space for {space.task}, but "
            f"the data {dataset.name} is for {task}; choose a space for such data, or give yours "
            "the task that its build takes"
        )
    geometry(space, space.sizes[0])  # a block that cannot be is refused before any work
    _check_scores(space, dataset)
    prepare = _prepare(dataset)
    recipe = _recipe(settings, space, prepare)
    return Experiment(settings, dataset, space, prepare, recipe, mesh_of(settings, jax.devices()))


USUAL: dict[type, Callable[..., Task]] = {data.Tokens: NextToken, data.Pairs: Translation}
FOR_ALL_DATA = ("name", "data_dir", "held_out", "split_seed", "second")


def _loaded(settings: Config) -> Dataset:
    """The data of a configuration, without settings that are for other data."""
    d = settings.data
    kind = data.kind(d.name, data_dir=d.data_dir)
    for field in dataclasses.fields(d):
        value = getattr(d, field.name)
        if field.name in FOR_ALL_DATA or value == field.default:
            continue
        wanted = ("text", "speech") if field.name == "length" else ("images",)
        if kind not in wanted:
            raise UserError(
                f"data.{field.name.replace('_', '-')} is {value}, which is for "
                f"{' and '.join(wanted)}, but {d.name} is {kind}; leave it out"
            )
    dataset = data.load(
        d.name,
        data_dir=d.data_dir,
        held_out=int(d.held_out) if d.held_out >= 1 else d.held_out,
        seed=d.split_seed,
        length=d.length,
        size=d.size,
        storage=d.storage,
        crop=d.crop,
        upright=d.upright,
        background=d.background,
    )
    count = len(dataset.train.labels)
    if kind == "ids of tokens" and count < settings.train.batch:
        raise UserError(
            f"{d.name} is too little for one batch: {count} sequences to train on, but train.batch "
            f"is {settings.train.batch}; give more, or smaller batches"
        )
    if kind == "text" and count < settings.train.batch:
        raise UserError(
            f"{d.name} is too little text for one batch: {count} examples of "
            f"{dataset.train.images.shape[1]} bytes to train on, but train.batch is "
            f"{settings.train.batch}; give more text, shorter examples (--data.length) or smaller "
            "batches"
        )
    return dataset


def _about(dataset: Dataset) -> dict[str, Any]:
    """What parts of a configuration may ask of the data, by name."""
    if dataset.tokens is not None:
        classes = {"classes": len(dataset.class_names)} if dataset.class_names else {}
        return {**dataset.tokens._asdict(), **classes}
    if dataset.speech is not None:
        return dataset.speech._asdict()
    return dataclasses.asdict(_image_task(dataset))


def _image_task(dataset: Dataset) -> ImageClassification:
    return ImageClassification(dataset.train.images.shape[-1], len(dataset.class_names))


def task_of(settings: Config, dataset: Dataset) -> Task:
    """What networks for a data set are for: what the configuration says, or what is usual."""
    if settings.task is not None:
        about = {"dataset": dataset, **_about(dataset)}
        return part_of("task", settings.task, Task, **user_code.taken(settings.task, **about))
    if dataset.tokens is not None:
        if dataset.class_names:
            return SequenceClassification(**_about(dataset))
        return USUAL[type(dataset.tokens)](*dataset.tokens)
    if dataset.speech is not None:
        return SpeakerVerification(*dataset.speech)
    return _image_task(dataset)


def _check_scores(space: Space, dataset: Dataset) -> None:
    """Makes sure that the task can score what networks of the space put out on the data.

    Raises:
        UserError: it cannot, or not each example by itself.
    """
    task, several = space.task, 2
    put_out = output_shape(space, space.sizes[0])
    outputs = jax.ShapeDtypeStruct((several, *put_out.shape[1:]), jnp.float32)
    targets = jax.ShapeDtypeStruct((several, *dataset.train.labels.shape[1:]), jnp.int32)
    given = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
    try:
        scores = jax.eval_shape(task.score, outputs, targets)
    except UserError:
        raise
    except Exception as error:
        reason = user_code.told(error, user_code.source(type(task)))
        raise UserError(
            f"the task {task.name} cannot score {given} of {several} examples: {reason}"
        ) from error
    wrong = [name for name, score in scores.items() if score.shape[:1] != (several,)]
    if wrong or "loss" not in scores or scores["loss"].shape != (several,):
        seen = {name: list(score.shape) for name, score in scores.items()}
        raise UserError(
            f"the task {task.name} scores {given} of {several} examples as {seen}; each score must "
            f"have a row for each example, and 'loss' must be [{several}]"
        )


def _prepare(dataset: Dataset) -> Callable[[Array], Array]:
    """What makes the task's inputs of those of the data, without augmentation."""
    if dataset.tokens is not None:
        return _as_ids
    if dataset.speech is not None:
        return jnp.asarray  # networks normalise each utterance by itself
    return functools.partial(augment.normalise, mean=dataset.mean, std=dataset.std)


def _as_ids(tokens: Array) -> Array:
    return tokens.astype(jnp.int32)


def mesh_of(settings: Config, devices: list[jax.Device]) -> Mesh:
    """The mesh of a configuration, which works on any number of devices: as many of them share a
    copy of the parameters as divide both that number and `train.model_devices`.
    """
    return sharding.data_mesh(devices, model=math.gcd(settings.train.model_devices, len(devices)))


def rebuilt(experiment: Experiment, settings: Config) -> Experiment:
    """An experiment on the data and the space of another, for comparisons of ways to train.

    Raises:
        UserError: the settings are of other data or another space, or a part is wrong.
    """
    for name in ("data", "space"):
        if getattr(settings, name) != getattr(experiment.config, name):
            raise UserError(f"these settings have another {name}; build them from the start")
    recipe = _recipe(settings, experiment.space, experiment.prepare)
    return experiment._replace(config=settings, recipe=recipe)


@runtime_checkable
class Part(Protocol):
    """A part of a configuration that may be the user's own."""

    build: Callable[..., Any]


def part_of(name: str, part: Any, kind: type, **given: Any) -> Any:
    """What a part's `build` returns; what goes wrong in it is said with its place."""
    call = f"{type(part).__name__}.build({', '.join(given)})"
    if not isinstance(part, Part):
        raise UserError(f"config.{name} is {part!r}, which has no method {call}; give it one")
    try:
        made = part.build(**given)
    except UserError:
        raise
    except Exception as error:
        reason = user_code.told(error, user_code.source(type(part)))
        raise UserError(f"config.{name}: {call} fails: {reason}") from error
    if not isinstance(made, kind):
        raise UserError(
            f"config.{name}: {call} returns a {type(made).__name__}; it must return a "
            f"{kind.__name__}"
        )
    return made


def _recipe(settings: Config, space: Space, prepare: Callable[[Array], Array]) -> recipe.Recipe:
    d, t = settings.data, settings.train
    taps.check(space, t.features)
    more = user_code.taken(settings.sampler, space=space, steps=t.steps)
    length = user_code.taken(settings.combine, steps=t.steps)
    drawing = part_of("sampler", settings.sampler, Sampler, menu=space.menu, **more)
    sampler.check(drawing)
    changed = {
        "images": functools.partial(augmentation.augmented, d, prepare),
        "speech": functools.partial(augmentation.begun_elsewhere, prepare),
        "text": functools.partial(augmentation.unchanged, prepare),
        "ids of tokens": functools.partial(augmentation.unchanged, prepare),
    }
    return recipe.Recipe(
        space=space,
        sampler=drawing,
        loss=part_of("loss", settings.loss, Callable),  # type: ignore[arg-type]
        combine=part_of("combine", settings.combine, combine.Combine, **length),
        optimizer=part_of(
            "optimizer", settings.optimizer, optax.GradientTransformation, steps=t.steps
        ),
        augment=changed[data.kind(d.name, data_dir=d.data_dir)],
        strategy=config.strategy(
            t.strategy,
            backend=jax.default_backend(),
            work=t.batch * costs.union_macs(space),
            devices=jax.device_count(),
            codes=samplers.draws_codes(drawing),
        ),
        seed=t.seed,
        dtype=config.dtype(t.dtype),
        ema_decay=t.ema,
        remat=t.remat,
        arch_shards=t.arch_shards,
        norm_shards=t.norm_shards,
        accumulate=t.accumulate,
        features=t.features,
        mix=augmentation.mix(d, space.task),
        penalty=settings.penalty and part_of("penalty", settings.penalty, Callable, space=space),  # type: ignore[arg-type]
    )


def _warn(text: str) -> None:
    if jax.process_index() == 0:
        LOG.warning(f"warning: {text}")


def training_examples(experiment: Experiment) -> tuple[data.Images, data.Images | None]:
    """The examples on which weights learn, and those on which the sampler does, if it does.

    Raises:
        UserError: one of two parts has less than a batch, where both could have more.
    """
    dataset, settings = experiment.dataset, experiment.config.data
    if not samplers.learns_apart(experiment.recipe.sampler):
        return dataset.train, None
    if settings.second == 0:
        return dataset.train, dataset.held_out
    parts = data.second_part(dataset.train, settings.second, seed=settings.split_seed)
    sizes, batch = [len(part.labels) for part in parts], experiment.config.train.batch
    if min(sizes) < batch <= sum(sizes) // 2:
        raise UserError(
            f"data.second {settings.second} leaves {sizes[0]:,} training examples to the weights "
            f"and {sizes[1]:,} to the sampler, one of them fewer than a batch of {batch}; give a "
            "share nearer to one half, or lower --train.batch"
        )
    return parts


def evaluation_how(experiment: Experiment) -> How:
    """How the subnets of an experiment are evaluated, by its config."""
    settings = experiment.config
    evaluation = settings.evaluation
    return How(
        space=experiment.space,
        prepare=experiment.prepare,
        strategy=config.strategy(
            evaluation.strategy,
            backend=jax.default_backend(),
            work=evaluation.batch * costs.union_macs(experiment.space),
            devices=jax.device_count(),
        ),
        dtype=config.dtype(settings.train.dtype),
        chunk=evaluation.chunk,
    )


def evaluation_data(experiment: Experiment, split: str) -> EvaluationData:
    """Calibration batches of the training images, and a whole split, on the mesh.

    Args:
        experiment: whose data.
        split: "held-out" (drawn from the training data) or "test".
    """
    dataset, settings = experiment.dataset, experiment.config.evaluation
    sharding.check_divides("evaluation.batch in config.json", settings.batch, experiment.mesh.size)
    images = {"held-out": dataset.held_out, "test": dataset.test}[split]
    if settings.limit and split == "held-out":
        images = data.Images(*(part[: settings.limit] for part in images))
    padded = data.padded_batches(images, settings.batch)
    real = np.arange(len(padded[1]) * settings.batch) < len(images.labels)
    inputs, targets = augmentation.evaluated(experiment.space.task, *padded)
    real = real.reshape(-1, settings.batch)
    host = EvaluationData(calibration(experiment), inputs, targets, real)
    return sharding.split(experiment.mesh, host, axis=1)


def calibration(experiment: Experiment) -> np.ndarray:
    """Training examples by which subnets are calibrated, uint8 `[A, B, ...]` on the host."""
    settings = experiment.config.evaluation
    return data.calibration_subset(
        experiment.dataset.train,
        batches=settings.calibration_batches,
        batch=settings.batch,
        seed=experiment.config.data.split_seed,
    )


def random_examples(experiment: Experiment, batch: int, *, seed: int) -> tuple[Any, Array]:
    """Training examples as networks take them, and their targets: `[batch, ...]`, or all."""
    several = data.shuffled(experiment.dataset.train, seed=seed)
    count = min(batch, len(several.labels))
    some = data.Images(*(part[:count] for part in several))
    padded = data.padded_batches(some, count)[:2]
    raw, targets = (part[0] for part in augmentation.evaluated(experiment.space.task, *padded))
    return experiment.prepare(jnp.asarray(raw)), jnp.asarray(targets)
