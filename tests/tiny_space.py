"""The smallest space in which everything happens that the theorem is about.

Two stages whose first blocks take either kind of shortcut, of optional depth, one with two kernels
and one with squeeze-and-excitation at stride 2; dropout and drop-connect are there to be turned on.
"""

import functools

from supernet_jax.elastic.space import Space
from supernet_jax.nn.blocks.mobilenet import HARD_SWISH
from supernet_jax.spaces import once_for_all
from supernet_jax.spaces.mobilenet import Stage, mobilenet


@functools.cache
def tiny() -> Space:
    """256 archs of up to 4 blocks, for 8x8 images in two colours."""
    return mobilenet(
        "tiny",
        resolutions=(6, 8),
        stem=(4, 8),
        stem_stride=1,
        stages=(
            Stage((4, 8), (1, 2), (3, 5), (1,), 1),
            Stage((8, 12), (1, 2), (3,), (1, 2), 2, squeeze=True),
        ),
        last=(12, 16),
        classes=5,
        input_channels=2,
        head_ratio=2,
        dropout=0.3,
        drop_path=0.4,
    )


@functools.cache
def deep() -> Space:
    """One stage of five blocks, of which the last four are alike and run in a loop."""
    return mobilenet(
        "deep",
        resolutions=(8,),
        stem=(8,),
        stem_stride=1,
        stages=(Stage((8,), (2, 3, 5), (3,), (1, 2), 2, squeeze=True),),
        last=(16,),
        classes=3,
        input_channels=2,
        head_ratio=2,
        drop_path=0.3,
    )


@functools.cache
def transforming() -> Space:
    """Kernels made by learned transforms, each block with choices of its own.

    The first block of the stage has no shortcut, the second may be skipped.
    """
    return once_for_all.ofa(
        "transforming",
        resolutions=(8,),
        stem=8,
        stem_stride=1,
        first=8,
        stages=(once_for_all.Stage(16, 2, HARD_SWISH),),  # the block before it has ReLU
        kernels=(3, 5, 7),
        expands=(2, 4),
        depths=(1, 2),
        middle=24,
        last=32,
        classes=5,
        input_channels=2,
        dropout=0.3,
    )
