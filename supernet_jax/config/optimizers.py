"""The optimisers of the library as parts of a configuration."""

import dataclasses

import optax

from supernet_jax import optim
from supernet_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class Sgd:
    """AlphaNet's recipe: clip by value, decay, Nesterov momentum, warm-up and cosine."""

    learning_rate: float = 0.1
    """peak learning rate; published: 0.1 per 256 images"""
    warmup: float = 0.02
    """share of the steps spent warming up"""
    momentum: float = 0.9
    """of Nesterov's method"""
    weight_decay: float = 1e-5
    """on kernels only"""
    clip: float = 1.0
    """largest absolute value of a gradient's element"""

    def schedule(self, *, steps: int) -> optax.Schedule:
        """Learning rate by step, of a run of so many steps."""
        return _schedule(self.learning_rate, self.warmup, steps)

    def build(self, *, steps: int) -> optax.GradientTransformation:
        """The optimiser for a run of so many steps."""
        schedule = self.schedule(steps=steps)
        _require_optimizer("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _require_optimizer("weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _require_optimizer("clip", self.clip, self.clip > 0, "above 0")
        return optim.alphanet_sgd(
            schedule,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_value=self.clip,
        )


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW with warm-up and cosine, for small experiments."""

    learning_rate: float = 1e-3
    """peak learning rate"""
    warmup: float = 0.02
    """share of the steps spent warming up"""
    weight_decay: float = 1e-4
    """on kernels only"""
    clip_norm: float = 1.0
    """largest global norm of the gradient"""

    def schedule(self, *, steps: int) -> optax.Schedule:
        """Learning rate by step, of a run of so many steps."""
        return _schedule(self.learning_rate, self.warmup, steps)

    def build(self, *, steps: int) -> optax.GradientTransformation:
        """The optimiser for a run of so many steps."""
        schedule = self.schedule(steps=steps)
        _require_optimizer("weight-decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _require_optimizer("clip-norm", self.clip_norm, self.clip_norm > 0, "above 0")
        return optim.adamw(schedule, weight_decay=self.weight_decay, clip_norm=self.clip_norm)


def _schedule(learning_rate: float, warmup: float, steps: int) -> optax.Schedule:
    _require_optimizer("learning-rate", learning_rate, learning_rate > 0, "above 0")
    _require_optimizer("warmup", warmup, 0 <= warmup < 1, "in [0, 1)")
    return optim.warmup_cosine(learning_rate, steps=steps, warmup_steps=round(warmup * steps))


def _require_optimizer(name: str, value: float, right: bool, allowed: str) -> None:
    require(right, f"optimizer.{name} is {value}, but must be {allowed}")
