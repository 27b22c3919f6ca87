"""What training is made of: the recipe, which never changes, and the state, which every step does.

Shape letters: `B` examples of a step, `M` random members, `G` parts of a batch (usually one).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy, masked
from supernet_jax.training.gradients.combine import Combine
from supernet_jax.training.gradients.unit_sum import unit_sum
from supernet_jax.training.losses.loss import Loss
from supernet_jax.training.samplers import Sampler, SamplerState
from supernet_jax.training.teachers.largest import largest
from supernet_jax.training.teachers.teacher import Memory, Teacher

Metrics = dict[str, Array]
# (inputs as the data has them, key, ids of the examples) -> those of the task
Augment = Callable[[Tree, Array, Array], Tree]
# (inputs, targets, key, ids of the examples) -> (inputs, targets), mixtures of several examples
Mix = Callable[[Tree, Tree, Array, Array], tuple[Tree, Tree]]
Penalty = Callable[[Tree, Arch | Code], Array]


class Batch(NamedTuple):
    """Inputs and targets of a step.

    Attributes:
        inputs: `[B, ...]`, as the data has them.
        targets: `[B, ...]`.
        ids: int32 `[B]`, which example of the training data each is; augmentation depends on it.
        second: a batch of other examples, on which the sampler learns; None where it does not.
    """

    inputs: Tree
    targets: Tree
    ids: Array | np.ndarray
    second: "Batch | None" = None


@flax.struct.dataclass
class State:
    """All that training carries from step to step, and all that a checkpoint holds.

    Attributes:
        step: int32, number of finished steps.
        params: shared parameters.
        opt_state: of the optimiser.
        sampler: state of the sampler.
        ema: exponential moving average of `params`, or None.
        refused: int32, number of steps in a row that the guard did not apply.
        rollbacks: int32, how often training went back; a part of every random key, so that a
            repeated step is not the same step again.
        key: uint32, data of the random key of everything. It is no constant, so that runs which
            differ in their seed alone share one compiled program.
        teacher: memory of the teacher; empty for a member of the step.
    """

    step: Array
    params: Tree
    opt_state: Any
    sampler: SamplerState
    ema: Tree | None
    refused: Array
    rollbacks: Array
    key: Array
    teacher: Memory = ()


class Recipe(NamedTuple):
    """Everything static about training. Functions and plain numbers; never traced.

    Attributes:
        space: what is trained.
        sampler: which subnets train in a step.
        loss: of one member.
        optimizer: an optax chain.
        combine: of the members' gradients.
        augment: makes the task's inputs of the batch's.
        strategy: how random members run; `strategies.masked` or `strategies.switched`.
        seed: of everything random.
        dtype: of weights and activations in the forward and backward passes.
        ema_decay: of the average of the parameters; 0 keeps none.
        features: blocks whose outputs the loss wants, and values inside blocks (BLOCK/NAME).
        remat: whether gradients keep only what goes from block to block and compute the insides
            of blocks again: less memory, a forward pass more time. XLA undoes it on CPU.
        arch_shards: parts of a batch, `G`, on each of which a random member is another subnet, so
            that a step trains `M * G` of them at the cost of `M`. A subnet's BatchNorm sees the
            `B / G` examples of its part; its gradient is the mean over the parts. A multiple of the
            number of devices, each of which runs its parts one after the other.
        mix: examples with each other, and their targets; None for examples as they are.
        teacher: of the members. What it says without them, once in a step, is what the loss gets
            for every member, the largest too; otherwise the largest teaches those after it.
        norm_shards: parts of a batch on each of which every member runs by itself, one after the
            other on a device, so that BatchNorm sees the examples of a part alone. The gradient is
            the mean over the parts. A multiple of the number of devices; 1 for BatchNorm over the
            whole batch, whatever the devices. With `arch_shards`, 1 or as many.
        accumulate: micro-batches, `k`, whose gradients are averaged before members are combined:
            only `B / k` examples are in memory at a time, and BatchNorm sees only those. Without
            BatchNorm and dropout the step is that of the whole batch. With `arch_shards`, each
            part is split so, and with `norm_shards`.
        penalty: `(params, arch or code) -> []`, added to the loss of every member; None for none.
    """

    space: Space
    sampler: Sampler
    loss: Loss
    optimizer: optax.GradientTransformation
    augment: Augment
    combine: Combine = unit_sum()
    strategy: Strategy = masked
    seed: int = 0
    dtype: Any = jnp.float32
    ema_decay: float = 0.0
    features: tuple[str, ...] = ()
    remat: bool = False
    arch_shards: int = 1
    mix: Mix | None = None
    teacher: Teacher = largest()
    norm_shards: int = 1
    accumulate: int = 1
    penalty: Penalty | None = None
