"""HAT's spaces (arXiv 2005.14187): translation transformers whose encoder and decoder are elastic.

One width for the encoder and one for the decoder; hidden channels and heads for each layer by
itself; the number of the decoder's layers, and for each of them to how many of the encoder's last
layers it attends (*arbitrary encoder-decoder attention*, section 2.1). Queries, keys and values
have the same channels in every subnet, so that a number of heads has no weights of its own.
"""

import dataclasses
import math
from typing import Any, ClassVar

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic, union_spec
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.nn.blocks.text_transformer import LogitsSpec, TiedLogits, TokenLogits
from supernet_jax.nn.blocks.translation_transformer import (
    EncoderDecoder,
    ScaledEmbedding,
    ScaledEmbeddingSpec,
    TranslationDecoder,
    TranslationDecoderSpec,
    TranslationEncoder,
    TranslationEncoderSpec,
    gate,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import Task, Translation

MEMORIES = {-1: 1, 1: 2, 2: 3}  # layers of the encoder that are attended to, by HAT's number
USUAL = Translation(32_768, 30, 30)  # where no data says; what it says is not counted as published


def hat(
    name: str,
    *,
    encoder_widths: tuple[int, ...],
    decoder_widths: tuple[int, ...],
    encoder_hidden: tuple[int, ...],
    decoder_hidden: tuple[int, ...],
    encoder_layers: tuple[int, ...],
    decoder_layers: tuple[int, ...],
    encoder_heads: tuple[int, ...],
    decoder_heads: tuple[int, ...],
    memory_heads: tuple[int, ...],
    attended: tuple[int, ...],
    qkv: int,
    task: Translation,
    shared: bool = True,
    dropout: float = 0.0,
) -> Space:
    """A translation transformer.

    Its menu is the notation of the published configurations, without `-subtransformer` and with
    underscores. Decisions of layers that an arch skips change nothing, and may be left out at the
    end of the lists.

    Args:
        name: of the space.
        encoder_widths: channels of a token in the encoder on offer, smallest first.
        decoder_widths: likewise in the decoder.
        encoder_hidden: channels between the linear layers on offer in every layer of the encoder.
        decoder_hidden: likewise of the decoder.
        encoder_layers: numbers of layers on offer.
        decoder_layers: likewise.
        encoder_heads: of self-attention on offer in every layer of the encoder.
        decoder_heads: likewise of the decoder.
        memory_heads: of attention to the encoder on offer in every layer of the decoder.
        attended: to which layers of the encoder on offer in every layer of the decoder: -1 to the
            last one, 1 to the last two, 2 to the last three.
        qkv: channels of queries, keys and values.
        task: what it is for.
        shared: whether encoder, decoder and logits use one table.
        dropout: rate behind the embeddings and behind each part of a layer.

    Raises:
        UserError: sizes that do not fit each other.
    """
    _require(name, encoder_widths, decoder_widths, encoder_layers, attended, shared)
    for lists in (encoder_heads, decoder_heads, memory_heads):
        require(
            all(qkv % heads == 0 for heads in lists),
            f"space.qkv is {qkv}, of which each of the heads {lists} must be a divisor",
        )
    depth = {"encoder": ("encoder_layer_num",), "decoder": ("decoder_layer_num",)}

    def each(part: str, count: int, values: tuple[int, ...]) -> list[Choice]:
        return [Choice(values, depth=(depth[part], i)) for i in range(count)]

    deep, long = encoder_layers[-1], decoder_layers[-1]
    menu: Menu = {
        "encoder_embed_dim": Choice(encoder_widths),
        "decoder_embed_dim": Choice(decoder_widths),
        "encoder_ffn_embed_dim_all": each("encoder", deep, encoder_hidden),
        "decoder_ffn_embed_dim_all": each("decoder", long, decoder_hidden),
        "encoder_layer_num": Choice(encoder_layers),
        "decoder_layer_num": Choice(decoder_layers),
        "encoder_self_attention_heads_all": each("encoder", deep, encoder_heads),
        "decoder_self_attention_heads_all": each("decoder", long, decoder_heads),
        "decoder_ende_attention_heads_all": each("decoder", long, memory_heads),
        "decoder_arbitrary_ende_attn_all": each("decoder", long, attended),
    }
    tables = {"menu": menu, "shared": shared, "vocabulary": task.vocabulary, "dropout": dropout}
    same: dict[str, Any] = {"qkv": qkv, "dropout": dropout}
    memories = max(MEMORIES[option] for option in attended)
    blocks = {"encoder_embed": _embedding("encoder", encoder_widths, **tables)}
    for i in range(deep):
        own = {**same, "width": encoder_widths[-1]}
        blocks[f"encoder{i + 1}"] = _encoder(menu, i, own)
    blocks["decoder_embed"] = _embedding("decoder", decoder_widths, **tables)
    for i in range(long):
        own = {**same, "width": decoder_widths[-1]}
        blocks[f"decoder{i + 1}"] = _decoder(menu, i, memories, own)
    blocks["head"] = elastic(
        TiedLogits if shared else TokenLogits,
        lambda c: LogitsSpec(c, task.vocabulary),
        menu=menu,
        decisions=[("decoder_embed_dim",)],
        group="embed" if shared else None,
    )
    topology = EncoderDecoder(task.source, deep, long, memories)
    uncounted = ("encoder_embed", "decoder_embed", "head")
    return Space(name, menu, blocks, topology, task, uncounted=uncounted)


def _require(
    name: str,
    encoder_widths: tuple[int, ...],
    decoder_widths: tuple[int, ...],
    encoder_layers: tuple[int, ...],
    attended: tuple[int, ...],
    shared: bool,
) -> None:
    """Raises a `UserError` for settings that cannot be together."""
    for option in attended:
        require(
            option in MEMORIES,
            f"space.attended has {option}, but must be of -1, 1 and 2: the last of the encoder's "
            "layers, the last two or the last three",
        )
    most = max(MEMORIES[option] for option in attended)
    require(
        encoder_layers[-1] >= most,
        f"space.attended is {attended}, which asks for {most} layers of the encoder, but it has "
        f"{encoder_layers[-1]} at most; offer fewer, or more layers",
    )
    for part, widths in (("encoder", encoder_widths), ("decoder", decoder_widths)):
        require(
            widths[-1] >= 4 and widths[-1] % 2 == 0,
            f"space.{part}-widths is {widths}; the largest must be even and at least 4, for sines "
            "and cosines of positions",
        )
    require(
        not shared or encoder_widths[-1] == decoder_widths[-1],
        f"the space {name} has one table for encoder and decoder, but their largest widths are "
        f"{encoder_widths[-1]} and {decoder_widths[-1]}; make them equal, or set "
        "--space.no-shared",
    )


def _embedding(
    part: str, widths: tuple[int, ...], *, menu: Menu, shared: bool, vocabulary: int, dropout: float
) -> ElasticBlock:
    """That of the encoder or the decoder."""
    return elastic(
        ScaledEmbedding,
        lambda c: ScaledEmbeddingSpec(vocabulary, c, widths[-1], dropout),
        menu=menu,
        decisions=[(f"{part}_embed_dim",)],
        channels=lambda spec: (None,),
        relaxed=("tokens",),
        group="embed" if shared else None,
    )


def _encoder(menu: Menu, i: int, same: dict[str, Any]) -> ElasticBlock:
    """Layer `i` of the encoder; `same` are the fields that its specs share."""
    heads = menu["encoder_self_attention_heads_all"][i].values
    decisions = [
        ("encoder_embed_dim",),
        ("encoder_self_attention_heads_all", i),
        ("encoder_ffn_embed_dim_all", i),
    ]

    def spec(c: int, h: int, hidden: int) -> TranslationEncoderSpec:
        return TranslationEncoderSpec(c, heads=h, hidden=hidden, **same)

    return elastic(
        TranslationEncoder,
        spec,
        menu=menu,
        decisions=decisions,
        depth=(("encoder_layer_num",), i),
        union=_union(menu, decisions, spec, heads=math.lcm(*heads)),
        channels=lambda spec: (spec.c_in, None),
        gates=lambda spec: _taken("heads", heads, spec.heads),
        relaxed=("attention", "attention_norm", "mlp", "mlp_norm"),
    )


def _decoder(menu: Menu, i: int, memories: int, same: dict[str, Any]) -> ElasticBlock:
    """Layer `i` of the decoder, which is given the outputs of so many layers of the encoder."""
    heads = menu["decoder_self_attention_heads_all"][i].values
    memory_heads = menu["decoder_ende_attention_heads_all"][i].values
    counts = tuple(MEMORIES[option] for option in menu["decoder_arbitrary_ende_attn_all"][i].values)
    decisions = [
        ("decoder_embed_dim",),
        ("encoder_embed_dim",),
        ("decoder_self_attention_heads_all", i),
        ("decoder_ende_attention_heads_all", i),
        ("decoder_ffn_embed_dim_all", i),
        ("decoder_arbitrary_ende_attn_all", i),
    ]

    def spec(c: int, e: int, h: int, m: int, hidden: int, attended: int) -> TranslationDecoderSpec:
        return TranslationDecoderSpec(
            c, e, heads=h, memory_heads=m, hidden=hidden, memories=MEMORIES[attended], **same
        )

    most = {"heads": math.lcm(*heads), "memory_heads": math.lcm(*memory_heads)}
    return elastic(
        TranslationDecoder,
        spec,
        menu=menu,
        decisions=decisions,
        depth=(("decoder_layer_num",), i),
        union=_union(menu, decisions, spec, **most),
        channels=lambda spec: (spec.c_in, None, *(spec.c_memory,) * memories),
        gates=lambda spec: {
            **_taken("heads", heads, spec.heads),
            **_taken("memory_heads", memory_heads, spec.memory_heads),
            **_taken("memories", counts, spec.memories),
        },
        relaxed=("attention", "attention_norm", "memory", "memory_norm", "mlp", "mlp_norm"),
    )


def _union(menu: Menu, decisions: list[Any], spec: Any, **fixed: int) -> Any:
    """The largest spec, with heads of which those of all specs are made."""
    table = choices.tabulate(menu, decisions, spec)
    return union_spec(tuple(dict.fromkeys(table.reshape(-1).tolist())), **fixed)


def _taken(kind: str, options: tuple[int, ...], taken: int) -> dict[str, float]:
    """The gates of a kind of decision: 1 of the option that was taken, 0 of the others."""
    return {gate(kind, option): float(option == taken) for option in options}


def _built(offers: "HatWmt14EnDe | HatIwslt14DeEn", task: Any) -> Space:
    """The space of a configuration; without a task of so many ids as are usual."""
    if task is not None and not isinstance(task, Translation):
        raise UserError(
            f"the space {offers.name} translates, but the task of the data is {task.name}; give "
            "pairs of sentences, as --data.name source:reversal, or choose another space"
        )
    checks.require_rates(offers.dropout)
    require(offers.qkv > 0, f"space.qkv is {offers.qkv}, but must be at least 1")
    lists = checks.ascending(
        encoder_widths=offers.encoder_widths,
        decoder_widths=offers.decoder_widths,
        encoder_hidden=offers.encoder_hidden,
        decoder_hidden=offers.decoder_hidden,
        encoder_layers=offers.encoder_layers,
        decoder_layers=offers.decoder_layers,
        encoder_heads=offers.encoder_heads,
        decoder_heads=offers.decoder_heads,
        memory_heads=offers.memory_heads,
    )
    require(bool(offers.attended), "space.attended is (); give some of -1, 1 and 2")
    return hat(
        offers.name,
        **lists,
        attended=tuple(sorted({*offers.attended})),
        qkv=offers.qkv,
        task=USUAL if task is None else task,
        shared=offers.shared,
        dropout=offers.dropout,
    )


@dataclasses.dataclass(frozen=True)
class HatWmt14EnDe:
    """HAT's space for WMT'14 English to German (25 to 80 M parameters beside the tables)."""

    name: ClassVar[str] = "hat_wmt14_ende"  # on the command line
    encoder_widths: tuple[int, ...] = (512, 640)
    """channels of a token in the encoder on offer"""
    decoder_widths: tuple[int, ...] = (512, 640)
    """channels of a token in the decoder on offer"""
    encoder_hidden: tuple[int, ...] = (1024, 2048, 3072)
    """channels between the linear layers on offer in each layer of the encoder"""
    decoder_hidden: tuple[int, ...] = (1024, 2048, 3072)
    """channels between the linear layers on offer in each layer of the decoder"""
    encoder_layers: tuple[int, ...] = (6,)
    """numbers of layers of the encoder on offer"""
    decoder_layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """numbers of layers of the decoder on offer"""
    encoder_heads: tuple[int, ...] = (4, 8)
    """heads on offer in each layer of the encoder; more are narrower"""
    decoder_heads: tuple[int, ...] = (4, 8)
    """heads on offer in each layer of the decoder, of attention to what came before"""
    memory_heads: tuple[int, ...] = (4, 8)
    """heads on offer in each layer of the decoder, of attention to the encoder"""
    attended: tuple[int, ...] = (-1, 1, 2)
    """layers of the encoder attended to, on offer: -1 the last, 1 the last two, 2 the last three"""
    qkv: int = 512
    """channels of queries, keys and values in every subnet"""
    shared: bool = True
    """one table for encoder, decoder and logits, which saves parameters"""
    dropout: float = 0.3
    """rate of dropping behind each part of a layer, in the roles of sampler.regularised"""

    def build(self, *, task: Task | None = None) -> Space:
        """The space for a task that translates; None for one of 32,768 ids."""
        return _built(self, task)


@dataclasses.dataclass(frozen=True)
class HatWmt14EnFr(HatWmt14EnDe):
    """HAT's space for WMT'14 English to French, that for German."""

    name: ClassVar[str] = "hat_wmt14_enfr"  # on the command line


@dataclasses.dataclass(frozen=True)
class HatWmt19EnDe(HatWmt14EnDe):
    """HAT's space for WMT'19 English to German, that for WMT'14."""

    name: ClassVar[str] = "hat_wmt19_ende"  # on the command line


@dataclasses.dataclass(frozen=True)
class HatIwslt14DeEn:
    """HAT's space for IWSLT'14 German to English: narrower layers, fewer heads, three tables."""

    name: ClassVar[str] = "hat_iwslt14_deen"  # on the command line
    encoder_widths: tuple[int, ...] = (512, 640)
    """channels of a token in the encoder on offer"""
    decoder_widths: tuple[int, ...] = (512, 640)
    """channels of a token in the decoder on offer"""
    encoder_hidden: tuple[int, ...] = (512, 1024, 2048)
    """channels between the linear layers on offer in each layer of the encoder"""
    decoder_hidden: tuple[int, ...] = (512, 1024, 2048)
    """channels between the linear layers on offer in each layer of the decoder"""
    encoder_layers: tuple[int, ...] = (6,)
    """numbers of layers of the encoder on offer"""
    decoder_layers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """numbers of layers of the decoder on offer"""
    encoder_heads: tuple[int, ...] = (2, 4)
    """heads on offer in each layer of the encoder; more are narrower"""
    decoder_heads: tuple[int, ...] = (2, 4)
    """heads on offer in each layer of the decoder, of attention to what came before"""
    memory_heads: tuple[int, ...] = (2, 4)
    """heads on offer in each layer of the decoder, of attention to the encoder"""
    attended: tuple[int, ...] = (-1, 1, 2)
    """layers of the encoder attended to, on offer: -1 the last, 1 the last two, 2 the last three"""
    qkv: int = 512
    """channels of queries, keys and values in every subnet"""
    shared: bool = False
    """one table for encoder, decoder and logits, which saves parameters"""
    dropout: float = 0.375
    """rate of dropping behind each part of a layer, in the roles of sampler.regularised"""

    def build(self, *, task: Task | None = None) -> Space:
        """The space for a task that translates; None for one of 32,768 ids."""
        return _built(self, task)
