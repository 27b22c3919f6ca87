"""The smallest space in which everything happens that the theorem is about.

Two stages whose first blocks take either kind of shortcut, of optional depth, one with two kernels
and one with squeeze-and-excitation at stride 2; dropout and drop-connect are there to be turned on.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from supernet_jax.elastic import ensembles
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import ElasticBlock, Transform, Tree
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import low_rank
from supernet_jax.nn.blocks.mobilenet import HARD_SWISH
from supernet_jax.spaces import (
    autoformer,
    bert_supernet,
    darts,
    decoder,
    efficient_tdnn,
    fbnet,
    hat,
    maestro,
    mcuformer,
    nas_bench_201,
    nasvit,
    once_for_all,
    single_path_nas,
    spos,
    text_encoder,
    vit_resnas,
    vit_supernet,
)
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.tasks import (
    HiddenTokens,
    ImageClassification,
    NextToken,
    SequenceClassification,
    SpeakerVerification,
    Translation,
)


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
def three_stages() -> Space:
    """The stages of the preset for digits, of which the second alone has several blocks."""
    return mobilenet(
        "three_stages",
        resolutions=(8,),
        stem=(8, 16),
        stem_stride=1,
        stages=(
            Stage((8, 16), (1,), (3, 5), (1, 2), 1),
            Stage((16, 24), (1, 2), (3,), (2, 3, 4), 2, squeeze=True),
            Stage((24, 32), (1,), (3,), (2, 3, 4), 2, squeeze=True),
        ),
        last=(48, 64),
        classes=10,
        input_channels=1,
        head_ratio=2,
    )


@functools.cache
def tokens() -> Space:
    """A vision transformer of 1 or 2 blocks; the shared weights are wider than any arch."""
    return autoformer.autoformer(
        "tokens",
        embed_dims=(4, 6),
        depths=(1, 2),
        num_heads=(1, 3),
        mlp_ratios=(1.5,),
        width=7,
        resolution=6,
        patch=2,
        head_dim=2,
        distance=1,  # some of the 3 x 3 patches are farther apart
        classes=5,
        input_channels=2,
        drop_path=0.4,
    )


@functools.cache
def two_factors() -> Space:
    """A vision transformer of two-factor layers, two ranks, and patches of 2, 3 or, with a border,
    4 pixels.
    """
    return mcuformer.mcuformer(
        "two_factors",
        resolutions=(6,),
        patches=(2, 3, 4),
        embed_dims=(4, 6),
        depths=(1, 2),
        num_heads=(2,),
        mlp_ratios=(1.5,),
        rank_ratios=(0.5, 1.0),
        head_dim=2,
        distance=1,
        classes=5,
        input_channels=2,
        drop_path=0.4,
        deviation=0.3,
    )


@functools.cache
def factored() -> Space:
    """A perceptron of two layers of two factors, of any rank."""
    return maestro.maestro_mlp(
        "factored",
        resolution=2,
        hidden=(6,),
        task=ImageClassification(2, 5),
        outputs=5,
        input_channels=2,
    )


@functools.cache
def hybrid(resolutions: tuple[int, ...] = (6,)) -> Space:
    """A stage whose second block is attention, between fewer places than there are biases for, and
    a stage that halves images of odd sizes.
    """
    return nasvit.nasvit(
        "hybrid",
        resolutions=resolutions,
        stem=(4,),
        stem_stride=1,
        stages=(
            Stage((4, 6), (1, 2), (3,), (1,), 2, squeeze=True),
            Stage((6,), (1,), (3,), (1,), 2),
        ),
        last=(12,),
        plain=0,
        classes=5,
        input_channels=2,
        head_dim=2,
        value_ratio=2,
        window=5,
        head_ratio=2,
        drop_path=0.4,
    )


@functools.cache
def staged() -> Space:
    """Two stages of two blocks, of which the second may be left out, and a reduction between."""
    return vit_resnas.vit_resnas(
        "staged",
        widths=((2, 4), (6,)),
        num_heads=((1, 2), (2,)),
        hidden=((3,), (3, 5)),
        head_dims=(2, 3),
        blocks=2,
        resolution=8,
        patch=2,
        middle=3,
        classes=5,
        input_channels=2,
        drop_path=0.4,
    )


@functools.cache
def decoding() -> Space:
    """A decoder of 1 or 2 blocks, whose heads of queries share one of two, tied."""
    return decoder.decoder(
        "decoding",
        widths=(4, 6),
        depths=(1, 2),
        heads=(2, 4),
        hidden=(3, 5),
        head_dim=2,
        kv_heads=2,
        task=NextToken(11, 5),
        longest=8,
        drop_path=0.4,
    )


@functools.cache
def decoding_untied() -> Space:
    """With learned positions, heads of keys and values as many as those of queries, and logits of
    their own.
    """
    return decoder.decoder(
        "decoding_untied",
        widths=(4, 6),
        depths=(1, 2),
        heads=(1, 3),
        hidden=(3, 5),
        head_dim=2,
        task=NextToken(11, 5),
        rotary=False,
        longest=8,
        tied=False,
        activation="gelu",
    )


@functools.cache
def encoding() -> Space:
    """An encoder of 1 or 2 blocks."""
    return text_encoder.text_encoder(
        "encoding",
        widths=(4, 6),
        depths=(1, 2),
        heads=(1, 3),
        hidden=(3, 5),
        head_dim=2,
        task=HiddenTokens(11, 5),
        longest=8,
        types=2,
        drop_path=0.4,
    )


@functools.cache
def translating() -> Space:
    """An encoder and a decoder of 1 or 2 layers, whose heads have 4, 6 or 12 channels."""
    return hat.hat(
        "translating",
        encoder_widths=(4, 6),
        decoder_widths=(4, 6),
        encoder_hidden=(5,),
        decoder_hidden=(3,),
        encoder_layers=(1, 2),
        decoder_layers=(1, 2),
        encoder_heads=(1, 2),
        decoder_heads=(2,),
        memory_heads=(3,),
        attended=(-1, 1),
        qkv=12,
        task=Translation(11, 4, 3),
        dropout=0.4,
    )


@functools.cache
def hearing() -> Space:
    """A time-delay network of 1 or 2 blocks, of three groups each, for voices of 6 or 7 frames."""
    return efficient_tdnn.efficient_tdnn(
        "hearing",
        frames=(6, 7),
        depths=(1, 2),
        widths=(12, 24),
        kernels=(1, 3),
        last_widths=(5, 6),
        task=SpeakerVerification(4, 7, 3),
        groups=3,
        bottleneck=3,
        features=4,
    )


@functools.cache
def to_adapt() -> Space:
    """Kernels of two sizes: of one block by a transform, of the others by a crop. Its first block
    may have a convolution as its shortcut, or none.
    """
    space = mobilenet(
        "to_adapt",
        resolutions=(8,),
        stem=(8,),
        stem_stride=1,
        stages=(Stage((4, 8), (1, 2), (3, 5), (2,), 1),),
        last=(12,),
        classes=5,
        input_channels=2,
        head_ratio=2,
    )
    return dataclasses.replace(
        space,
        blocks={
            name: _scaled(block) if name == "stage1_block2" else block
            for name, block in space.blocks.items()
        },
    )


@functools.cache
def adapted() -> Space:
    """Adapters on kernels of all kinds, behind one of them another transform."""
    leaves = ("stage1_.*/kernel", "head/classifier/kernel")
    return low_rank.adapted(to_adapt(), leaves=leaves, ranks=(1, 3))


def _scaled(block: ElasticBlock) -> ElasticBlock:
    kernel = lambda spec: spec.kernel  # noqa: E731
    return dataclasses.replace(
        block,
        transforms=(
            Transform(("depthwise", "kernel"), kernel, _one, _scaled_crop),
            Transform(("project_norm", "scale"), kernel, _ones, _added),
        ),
    )


def _one(key: Array, shape: tuple[int, ...]) -> Tree:
    return {"scale": jnp.full((), 1.5)}


def _scaled_crop(params: Tree, kernel: Array, size: int) -> Array:
    border = (kernel.shape[0] - size) // 2
    return params["scale"] * kernel[border : border + size, border : border + size]


def _ones(key: Array, shape: tuple[int, ...]) -> Tree:
    return {"shift": jax.random.normal(key, shape[-1:])}


def _added(params: Tree, weights: Array, size: int) -> Array:
    """Fills channels that a masked subnet does not have."""
    shift = 0.1 * size * params["shift"][: weights.shape[-1]]
    return weights + jnp.broadcast_to(shift, weights.shape)


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


@functools.cache
def vit() -> Space:
    """A vision transformer of 1 or 2 blocks, of which heads and hidden channels are elastic."""
    return vit_supernet.vit_supernet(
        "vit",
        width=6,
        depths=(1, 2),
        heads=(1, 3),
        hidden=(3, 5),
        head_dim=2,
        resolution=6,
        patch=2,
        classes=5,
        input_channels=2,
        drop_path=0.4,
    )


@functools.cache
def bert() -> Space:
    """An encoder of 1 or 2 blocks with a pooler and a classifier."""
    return bert_supernet.bert_supernet(
        "bert",
        width=6,
        depths=(1, 2),
        heads=(1, 3),
        hidden=(3, 5),
        head_dim=2,
        task=SequenceClassification(11, 5, 4),
        vocabulary=13,
        longest=8,
        drop_path=0.4,
    )


@functools.cache
def cells() -> Space:
    """Two cells of choice blocks, of three edges each."""
    return nas_bench_201.nas_bench_201(
        "cells",
        resolution=6,
        channels=3,
        cells=1,
        task=ImageClassification(2, 5),
        outputs=5,
        input_channels=2,
        stages=2,
        nodes=3,
    )


@functools.cache
def fbnet_layers() -> Space:
    """A layer of FBNet that may be skipped and one that halves the image."""
    return fbnet.fbnet(
        "fbnet_layers",
        resolutions=(6,),
        classes=5,
        input_channels=2,
        stem=4,
        stem_stride=1,
        stages=(fbnet.Stage(4, 1, 1), fbnet.Stage(6, 1, 2)),
        head=8,
        operations=("skip", "k5_e1_g2", "k3_e3"),
    )


@functools.cache
def cell_edges(nodes: int = 2) -> Space:
    """A reduction cell of DARTS; of two nodes it has five edges."""
    return _darts("cell_edges", nodes, genotypes=False)


@functools.cache
def cell_genotypes(nodes: int = 2) -> Space:
    """The same cell, whose nodes have two inputs each."""
    return _darts("cell_genotypes", nodes, genotypes=True)


def _darts(name: str, nodes: int, *, genotypes: bool) -> Space:
    return darts.darts(
        name,
        genotypes=genotypes,
        resolution=4,
        channels=2,
        cells=1,
        nodes=nodes,
        task=ImageClassification(2, 5),
        outputs=5,
        input_channels=2,
    )


@functools.cache
def superkernels() -> Space:
    """Two blocks of one kernel each, whose weights decide between its parts; one may be skipped."""
    return single_path_nas.single_path_nas(
        "superkernels",
        resolution=6,
        stem=2,
        stem_stride=1,
        first=2,
        stages=((4, 2),),
        blocks=2,
        kernels=(3, 5),
        expands=(2, 3),
        last=4,
        middle=6,
        classes=5,
        input_channels=2,
    )


@functools.cache
def shuffled_halves() -> Space:
    """A block of SPOS beside the half of its input and one that halves the image, each of two kinds
    and two widths.
    """
    return spos.spos(
        "shuffled_halves",
        resolutions=(6,),
        classes=5,
        input_channels=2,
        stem=4,
        stem_stride=1,
        stages=(spos.Stage(4, 1, 1), spos.Stage(8, 1)),
        head=8,
        operations=("choice_5", "choice_x"),
        widths=(0.5, 1.5),
    )


@functools.cache
def parted_members() -> Space:
    """Stem, two blocks, of which one halves images and one may be left out, and head."""
    return mobilenet(
        "members",
        resolutions=(6, 8),
        stem=(4, 6),
        stem_stride=1,
        stages=(Stage((4, 6), (1, 2), (1, 3), (2,), 2),),
        last=(8,),
        classes=5,
        input_channels=2,
        head_ratio=2,
        dropout=0.3,
        drop_path=0.4,
    )


@functools.cache
def parted() -> Space:
    """Ensembles of two, which part behind any of their blocks, or not at all."""
    return ensembles.ensemble(parted_members())
