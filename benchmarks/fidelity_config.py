"""A reduced space, in which subnets can also be trained alone: 5,184 archs at 16 pixels.

    supernet train benchmarks/fidelity_config.py --out runs/reduced --data.data-dir DIR
    python benchmarks/fidelity.py --data-dir DIR --out runs/fidelity

The second command trains subnets alone and supernets in several ways, and tells how well each way
ranks subnets (docs/results.md). DIR holds CIFAR-10 as TFDS prepares it (docs/data.md). Hardware:
two CPU cores.
"""

import dataclasses
import json
from typing import Any

import jax

from supernet_jax.elastic import notation
from supernet_jax.elastic.choices import Menu
from supernet_jax.elastic.space import Space
from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training.losses import SoftCrossEntropy
from supernet_jax.training.optimizers import AdamW
from supernet_jax.training.samplers import Sampler, Sandwich


@dataclasses.dataclass(frozen=True)
class Reduced:
    """Two stages of MobileNet-like blocks."""

    pixels: int = 16
    """width and height of the input"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        return mobilenet(
            "reduced",
            resolutions=(self.pixels,),
            stem=(8, 16),
            stem_stride=1,
            stages=(
                Stage((8, 16, 24), (1, 2, 3), (3, 5), (2, 4), 2),
                Stage((16, 32, 48), (1, 2, 3), (3, 5), (2, 4), 2, squeeze=True),
            ),
            last=(64, 96),
            classes=classes,
            input_channels=input_channels,
            head_ratio=2,
        )


@dataclasses.dataclass(frozen=True)
class Alone:
    """One subnet, trained by itself, as an ordinary network with its own labels.

    The arch is the sampler's state, so one compiled program trains any of them.
    """

    arch: str = ""
    """in the notation of its space, as JSON"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        own: Any = notation.from_notation(menu, json.loads(self.arch))
        one = jax.tree.map(lambda leaf: leaf[None], own)
        return Sampler(
            fixed=(),
            n_random=1,
            init=lambda key: jax.tree.map(jax.numpy.asarray, one),
            sample=lambda state, key, step, score: state,
            update=lambda state, metrics: state,
        )


config = Config(
    space=Reduced(),
    data=Data(name="tfds:cifar10", held_out=10_000, size=16, pad=2, flip=True),
    sampler=Sandwich(n_random=2),
    loss=SoftCrossEntropy(smoothing=0.0),
    optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2, warmup=0.05),
    train=Train(steps=1000, batch=64, checkpoint_every=500, log_every=50),
    evaluation=Evaluation(calibration_batches=4, batch=250, chunk=8),
)
