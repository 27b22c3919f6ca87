"""The losses of the library as parts of a configuration."""

import dataclasses
import functools

from supernet_jax import losses
from supernet_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class AlphaDivergence:
    """In-place distillation by the adaptive alpha-divergence (AlphaNet)."""

    smoothing: float = 0.1
    """label smoothing of the largest subnet's cross-entropy"""
    alpha_min: float = -1.0
    """the alpha that is chosen where it gives the larger divergence"""
    alpha_max: float = 1.0
    """the other one"""
    clip: float = 5.0
    """upper limit of the importance weights"""

    def build(self) -> losses.Loss:
        """The loss."""
        require(self.clip > 0, f"loss.clip is {self.clip}, must be above 0")
        divergence = functools.partial(
            losses.adaptive_alpha_divergence,
            alpha_min=self.alpha_min,
            alpha_max=self.alpha_max,
            clip=self.clip,
        )
        return losses.in_place_distillation(divergence, smoothing=self.smoothing)


@dataclasses.dataclass(frozen=True)
class SoftCrossEntropy:
    """In-place distillation by soft cross-entropy (BigNAS): its gradient is that of KL."""

    smoothing: float = 0.1
    """label smoothing of the largest subnet's cross-entropy"""

    def build(self) -> losses.Loss:
        """The loss."""
        return losses.in_place_distillation(losses.soft_cross_entropy, smoothing=self.smoothing)


@dataclasses.dataclass(frozen=True)
class HardLabels:
    """Cross-entropy to the labels for every subnet: no distillation."""

    smoothing: float = 0.1
    """label smoothing"""

    def build(self) -> losses.Loss:
        """The loss."""
        return losses.hard_labels(smoothing=self.smoothing)
