"""The losses of the library as parts of a configuration."""

import dataclasses
import functools
from typing import Literal

from supernet_jax import losses, relations
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
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> losses.Loss:
        """The loss."""
        require(self.clip > 0, f"loss.clip is {self.clip}, must be above 0")
        divergence = functools.partial(
            losses.adaptive_alpha_divergence,
            alpha_min=self.alpha_min,
            alpha_max=self.alpha_max,
            clip=self.clip,
        )
        return losses.in_place_distillation(
            divergence, smoothing=self.smoothing, hard_weight=self.hard_weight
        )


@dataclasses.dataclass(frozen=True)
class SoftCrossEntropy:
    """In-place distillation by soft cross-entropy (BigNAS): its gradient is that of KL."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """that the logits are divided by; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> losses.Loss:
        """The loss."""
        return _in_place(losses.soft_cross_entropy, self)


@dataclasses.dataclass(frozen=True)
class ReverseKL:
    """In-place distillation by KL(student || teacher), which seeks a mode of the teacher."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """that the logits are divided by; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> losses.Loss:
        """The loss."""
        return _in_place(losses.reverse_kl_divergence, self)


@dataclasses.dataclass(frozen=True)
class JensenShannon:
    """In-place distillation by the Jensen-Shannon divergence: symmetric and bounded."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """that the logits are divided by; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> losses.Loss:
        """The loss."""
        return _in_place(losses.jensen_shannon_divergence, self)


@dataclasses.dataclass(frozen=True)
class HardLabels:
    """Cross-entropy to the labels for every subnet: no distillation."""

    smoothing: float = 0.1
    """label smoothing"""

    def build(self) -> losses.Loss:
        """The loss."""
        return losses.hard_labels(smoothing=self.smoothing)


@dataclasses.dataclass(frozen=True)
class FeatureRelations:
    """In-place distillation by KL, and by relations of the features of `train.features`."""

    kind: Literal["similarity", "attention", "tokens"] = "similarity"
    """which images are alike, where an image responds, or which places attend to which"""
    weight: float = 1.0
    """of the relations, mean over blocks; the logits' divergence has 1"""
    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """that the logits are divided by; the loss is multiplied by its square"""
    hard_weight: float = 0.0
    """weight of the labels for the other subnets, in [0, 1]; the teacher has the rest"""

    def build(self) -> losses.Loss:
        """The loss."""
        kinds: dict[str, relations.Relation] = {
            "similarity": relations.similarity,
            "attention": relations.attention,
            "tokens": relations.tokens,
        }
        loss = _in_place(losses.kl_divergence, self)
        return relations.with_features(loss, kinds[self.kind], weight=self.weight)


@dataclasses.dataclass(frozen=True)
class OutsideTeacher:
    """KL to the network of `train.teacher` for every subnet, mixed with cross-entropy (OFA)."""

    smoothing: float = 0.1
    """label smoothing"""
    temperature: float = 1.0
    """that the logits are divided by; the loss is multiplied by its square"""
    hard_weight: float = 0.5
    """weight of the labels, in [0, 1]; the teacher has the rest"""

    def build(self) -> losses.Loss:
        """The loss."""
        divergence = losses.tempered(losses.kl_divergence, temperature=self.temperature)
        return losses.outside_distillation(
            divergence, smoothing=self.smoothing, hard_weight=self.hard_weight
        )


def _in_place(
    divergence: losses.Divergence,
    part: SoftCrossEntropy | ReverseKL | JensenShannon | FeatureRelations,
) -> losses.Loss:
    """In-place distillation by a divergence, with the numbers that these parts have alike."""
    softer = losses.tempered(divergence, temperature=part.temperature)
    return losses.in_place_distillation(
        softer, smoothing=part.smoothing, hard_weight=part.hard_weight
    )
