"""An optimiser of one's own: Lion, with the library's learning rate.

supernet train docs/examples/optimizer.py --out runs/lion
supernet train docs/examples/optimizer.py --out runs/lion --optimizer.learning-rate 3e-4
"""

import dataclasses

import optax

import supernet_jax as sj
from supernet_jax.training.optimizers import schedules


@dataclasses.dataclass(frozen=True)
class Lion:
    """Lion (Chen et al. 2023, arXiv:2302.06675): each element moves by the rate, up or down."""

    learning_rate: float = 1e-3
    """peak learning rate; published: 3 to 10 times lower than AdamW's"""
    warmup: float = 0.05
    """share of the steps spent warming up"""
    weight_decay: float = 1e-2
    """on kernels only; published: 3 to 10 times higher than AdamW's"""

    def schedule(self, *, steps: int) -> optax.Schedule:
        """Learning rate by step, of a run of so many steps."""
        return schedules.checked_warmup_cosine(self.learning_rate, self.warmup, steps)

    def build(self, *, steps: int) -> optax.GradientTransformation:
        """The optimiser for a run of so many steps."""
        rate = self.schedule(steps=steps)
        return optax.lion(rate, weight_decay=self.weight_decay, mask=schedules.decay_mask)


config = sj.Config(optimizer=Lion())
