"""The AttentiveNAS/AlphaNet space: its numbers, for `spaces.mobilenet` to build."""

import dataclasses
from typing import ClassVar

from supernet_jax.elastic.space import Space
from supernet_jax.spaces import checks, mobilenet
from supernet_jax.spaces.mobilenet import Stage


def attentivenas(
    *,
    classes: int = 1000,
    input_channels: int = 3,
    dropout: float = 0.2,
    drop_path: float = 0.2,
) -> Space:
    """The AttentiveNAS/AlphaNet space, exactly: 440,301,256,704 archs, 203 to 1,939 M MACs."""
    return mobilenet.mobilenet(
        "attentivenas",
        resolutions=(192, 224, 256, 288),
        stem=(16, 24),
        stem_stride=2,
        stages=(
            Stage((16, 24), (1, 2), (3, 5), (1,), 1),
            Stage((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2),
            Stage((32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, squeeze=True),
            Stage((64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2),
            Stage((112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, squeeze=True),
            Stage((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, squeeze=True),
            Stage((216, 224), (1, 2), (3, 5), (6,), 1, squeeze=True),
        ),
        last=(1792, 1984),
        classes=classes,
        input_channels=input_channels,
        dropout=dropout,
        drop_path=drop_path,
    )


@dataclasses.dataclass(frozen=True)
class AttentiveNAS:
    """The AttentiveNAS/AlphaNet space (ImageNet-sized images, 4.4e11 archs)."""

    name: ClassVar[str] = "attentivenas"  # on the command line
    dropout: float = 0.2
    """dropout rate before the classifier, of the subnets that are regularised"""
    drop_path: float = 0.2
    """drop-connect rate of the last block, of the subnets that are regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_rates(self.dropout, self.drop_path)
        return attentivenas(
            classes=classes,
            input_channels=input_channels,
            dropout=self.dropout,
            drop_path=self.drop_path,
        )
