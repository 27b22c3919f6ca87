"""What happens to a step's examples before the network sees them, by the settings of the data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from supernet_jax.data import augment, autoaugment
from supernet_jax.elastic.choices import Array
from supernet_jax.errors import UserError
from supernet_jax.experiment.config import Data
from supernet_jax.tasks import HiddenTokens, ImageClassification, Task
from supernet_jax.training.recipe import Mix

EVALUATION_KEY = 0  # seed of what is hidden where nothing is trained


def augmented(
    settings: Data, prepare: Callable[[Array], Array], images: Array, key: Array, ids: Array
) -> Array:
    """A step's images: cropped and flipped, by a policy, with parts erased, and as numbers.

    Args:
        settings: of the data.
        prepare: uint8 images -> the network's float input.
        images: uint8 `[B, H, W, C]`.
        key: of the step.
        ids: int32 `[B]`, of the examples; what is random depends on these two alone.
    """
    s = settings
    if s.pad or s.flip:
        images = augment.augment(images, key, ids, pad=s.pad, flip=s.flip)
    policy_key, erase_key = (jax.random.fold_in(key, 2**31 + i) for i in (1, 2))
    if s.policy == "autoaugment":
        images = autoaugment.auto_augment(images, policy_key, ids, deviation=s.deviation)
    elif s.policy == "randaugment":
        images = autoaugment.rand_augment(
            images,
            policy_key,
            ids,
            layers=s.layers,
            magnitude=s.magnitude,
            deviation=s.deviation,
            increasing=s.increasing,
        )
    if s.erase:
        images = augment.erase(images, erase_key, ids, probability=s.erase)
    return prepare(images)


def unchanged(prepare: Callable[[Array], Array], inputs: Array, key: Array, ids: Array) -> Array:
    """A step's inputs that are not augmented, as those of text; arguments are those of
    `augmented`.
    """
    del key, ids
    return prepare(inputs)


def begun_elsewhere(
    prepare: Callable[[Array], Array], features: Array, key: Array, ids: Array
) -> Array:
    """A step's utterances, each from a random frame on; arguments are those of `augmented`."""
    return prepare(augment.begun_elsewhere(features, key, ids))


def mix(settings: Data, task: Task) -> Mix | None:
    """What mixes a step's images with each other, or hides bytes of its text, if anything does.

    Raises:
        UserError: labels are to be mixed that are not of classes.
    """
    if isinstance(task, HiddenTokens):
        return lambda inputs, targets, key, ids: task.hide(inputs, key, ids)
    if not (settings.mixup or settings.cutmix):
        return None
    if not isinstance(task, ImageClassification):
        raise UserError(
            f"data.mixup and data.cutmix mix labels of classes, but the task is {task.name}; set "
            "both to 0"
        )
    return functools.partial(
        augment.mix,
        mixup_alpha=settings.mixup,
        cutmix_alpha=settings.cutmix,
        classes=task.classes,
    )


def evaluated(task: Task, inputs: np.ndarray, targets: np.ndarray) -> tuple[Any, Any]:
    """Examples of a split, as the data has them, with what the task hides of them; what it hides
    depends on the place of an example in the split alone.

    Args:
        task: of the space.
        inputs: `[E, B, ...]`.
        targets: `[E, B, ...]`.
    """
    if not isinstance(task, HiddenTokens):
        return inputs, targets
    flat = inputs.reshape(-1, inputs.shape[-1])
    key = jax.random.key(EVALUATION_KEY)
    hidden = jax.device_get(jax.jit(task.hide)(flat, key, np.arange(len(flat), dtype=np.int32)))
    made, wanted = (part.reshape(inputs.shape) for part in hidden)
    return made, wanted
