"""The spaces of the library as parts of a configuration."""

import dataclasses

from supernet_jax.config.checks import require
from supernet_jax.elastic.space import Space
from supernet_jax.spaces import mobilenet, ofa


@dataclasses.dataclass(frozen=True)
class AttentiveNAS:
    """The AttentiveNAS/AlphaNet space (ImageNet-sized images, 4.4e11 archs)."""

    dropout: float = 0.2
    """rate before the classifier, largest subnet only"""
    drop_path: float = 0.2
    """drop-connect rate of the last block, largest subnet only"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        _require_rates(self.dropout, self.drop_path)
        return mobilenet.attentivenas(
            classes=classes,
            input_channels=input_channels,
            dropout=self.dropout,
            drop_path=self.drop_path,
        )


@dataclasses.dataclass(frozen=True)
class Cifar:
    """A small MobileNetV3-like space for 32x32 images."""

    resolutions: tuple[int, ...] = (24, 32)
    """input sizes on offer, pixels; images are resized inside the network"""
    dropout: float = 0.1
    """rate before the classifier, largest subnet only"""
    drop_path: float = 0.0
    """drop-connect rate of the last block, largest subnet only"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        _require_resolutions(self.resolutions, 8)
        _require_rates(self.dropout, self.drop_path)
        return mobilenet.cifar(
            classes=classes,
            input_channels=input_channels,
            resolutions=tuple(sorted(set(self.resolutions))),
            dropout=self.dropout,
            drop_path=self.drop_path,
        )


@dataclasses.dataclass(frozen=True)
class Digits:
    """A tiny MobileNetV3-like space for 8x8 images."""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        return mobilenet.digits(classes=classes, input_channels=input_channels)


@dataclasses.dataclass(frozen=True)
class OfaMobileNetV3:
    """Once-for-All's MobileNetV3 space (ImageNet-sized images, 2e19 subnets per resolution)."""

    width: float = 1.0
    """factor of all channels; published: 1.0 and 1.2"""
    resolutions: tuple[int, ...] = tuple(range(128, 225, 4))
    """input sizes on offer, pixels; each that training draws takes a program of its own"""
    dropout: float = 0.1
    """rate before the classifier, largest subnet only"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        require(0.1 <= self.width <= 10, f"space.width is {self.width}, must be from 0.1 to 10")
        _require_resolutions(self.resolutions, 32)
        _require_rates(self.dropout)
        return ofa.ofa_mobilenetv3(
            width=self.width,
            resolutions=tuple(sorted(set(self.resolutions))),
            classes=classes,
            input_channels=input_channels,
            dropout=self.dropout,
        )


@dataclasses.dataclass(frozen=True)
class OfaSmall:
    """A small space of the same family as Once-for-All's, for 32x32 images."""

    resolutions: tuple[int, ...] = (24, 32)
    """input sizes on offer, pixels; images are resized inside the network"""
    dropout: float = 0.0
    """rate before the classifier, largest subnet only"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        _require_resolutions(self.resolutions, 8)
        _require_rates(self.dropout)
        return ofa.ofa_small(
            classes=classes,
            input_channels=input_channels,
            resolutions=tuple(sorted(set(self.resolutions))),
            dropout=self.dropout,
        )


def _require_resolutions(resolutions: tuple[int, ...], low: int) -> None:
    require(
        bool(resolutions) and min(resolutions) >= low,
        f"space.resolutions is {resolutions}; give sizes of at least {low} pixels",
    )


def _require_rates(dropout: float, drop_path: float = 0.0) -> None:
    for name, rate in (("dropout", dropout), ("drop-path", drop_path)):
        require(0 <= rate < 1, f"space.{name} is {rate}, but must be in [0, 1)")
