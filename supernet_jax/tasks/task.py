"""The door of tasks: what goes into a network, what comes out, and how good that is.

Shape letters: `B` examples.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any  # nested dicts of arrays, or one array
# The value of a space's static decision, as the resolution of images or the length of sequences; a
# tuple of values where it has several such decisions, and () where it has none.
Size = int | tuple[int, ...]
Scores = Mapping[str, Array]  # by name, what was measured of each example: `[B, ...]`


class Metric(NamedTuple):
    """The number by which the networks of a task are compared.

    Attributes:
        name: as in records and metrics: "accuracy".
        unit: "%" for a share of 0 to 1, which is shown in per cent; else a word or nothing.
        higher_is_better: whether a search makes it larger.
        mean_of: name of the boolean score whose mean it is, so that candidates can race where
            higher is better; or None.
        examples: what people call what is measured: the accuracy is that of images.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True
    mean_of: str | None = None
    examples: str = "examples"

    def score(self, value: float) -> float:
        """What a search makes larger: the value, or its negative. Its own inverse."""
        return value if self.higher_is_better else -value

    def shown(self, value: float) -> str:
        """A value as people read it."""
        return f"{value:.2%}" if self.unit == "%" else f"{value:.4g} {self.unit}".strip()


@runtime_checkable
class Task(Protocol):
    """What a supernet is for. A frozen dataclass of this form, the library's or a user's own.

    Attributes:
        name: what messages call it.
        metric: by which networks are compared.
        guess: loss in nats of who knows nothing; training that is ten times worse has collapsed.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def metric(self) -> Metric:
        """By which networks are compared."""

    @property
    def guess(self) -> float:
        """Loss in nats of who knows nothing."""

    def inputs(self, size: Size) -> Tree:
        """`jax.ShapeDtypeStruct` of what one example is when the first block gets it, with a
        leading axis of 1.
        """

    def fit(self, inputs: Tree, size: Size) -> Tree:
        """Inputs `[B, ...]` of any size, brought to a size."""

    def score(self, outputs: Array, targets: Tree) -> Scores:
        """What is measured of each example, `[B, ...]`, in a traced program.

        "loss" is among it: the loss of each example in nats, `[B]`. Targets are those of the data,
        or mixtures of them where training mixes examples.
        """

    def value(self, scores: Scores) -> Any:
        """The metric of examples, by all their scores at once; of NumPy or JAX arrays."""


@runtime_checkable
class HasLogits(Protocol):
    """A task whose networks put out something else than the logits that are trained."""

    def logits(self, outputs: Array, targets: Tree) -> Array:
        """What losses get in training, of members and of teachers: logits `[B, ..., K]`."""


@runtime_checkable
class HasEmbeddings(Protocol):
    """A task whose networks put out embeddings, beside what trains them."""

    def embeddings(self, outputs: Array) -> Array:
        """Those among what a network puts out, `[B, E]`."""


def trained_logits(task: Task, outputs: Array, targets: Tree) -> Array:
    """What losses get of a network's outputs: those, or what the task makes of them."""
    return task.logits(outputs, targets) if isinstance(task, HasLogits) else outputs


def offered(task: Any) -> dict[str, Any]:
    """What the `build` of a space may take: the task, and by their names the fields of it."""
    return {"task": task, **dataclasses.asdict(task)}


def ready(task: Task, inputs: Tree, size: Size, dtype: Any) -> Tree:
    """Inputs `[B, ...]` as the first block takes them: of the right size, floats of `dtype`."""
    return jax.tree.map(lambda x: cast(x, dtype), task.fit(inputs, size))


def cast(x: Array, dtype: Any) -> Array:
    """Floats in a dtype; whole numbers, as ids of tokens, stay what they are."""
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
