r"""How much of its accuracy alone does each of 160 nested sub-models keep that train together?

    python benchmarks/nested.py --quick
    python benchmarks/nested.py --space digits --steps 300 --seeds 3
    python benchmarks/nested.py --space text --steps 150 --seeds 3 --every 53

A space of one decision, its level: each of 160 levels has all layers a little wider than the one
before, so the sub-models are one chain. The sampler `Nested` trains all of them together
(SortedNet, arXiv 2309.00255), with as many steps as one sub-model alone, and with four times as
many. Its steps have three members: the largest and two of the chain.

- `digits`: blocks of MobileNetV3's kind, test accuracy on scikit-learn's digits.
- `text`: two blocks of a decoder, on the bytes of Python's own library. What is kept of text is the
  probability of a byte, its geometric mean: one over the perplexity.

Alone, a sub-model is trained by the same steps, batches, optimiser and start, of which it has its
own leading channels. Two lines show what the figures would be by chance: the largest alone, with
channels cut off that never trained so, and sub-models trained alone with another seed.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import ranking
from differentiable import Alone, Trainer, every

from supernet_jax.data.settings import Data
from supernet_jax.elastic.choices import Arch, Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import build
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config, Evaluation, Train
from supernet_jax.nn.blocks.mobilenet import Head, HeadSpec, MBConv, MBConvSpec, Stem, StemSpec
from supernet_jax.nn.blocks.text_transformer import (
    DecoderBlock,
    DecoderSpec,
    FinalNorm,
    LogitsSpec,
    TokenEmbedding,
    TokenEmbeddingSpec,
    TokenLogits,
    WidthSpec,
)
from supernet_jax.tasks import ImageClassification, Task
from supernet_jax.training.losses import HardLabels
from supernet_jax.training.optimizers import AdamW
from supernet_jax.training.samplers import Nested

LEVELS = 160
LONGER = 4  # times the steps of one sub-model alone


def width(level: int, low: int, high: int) -> int:
    """Channels of a layer at a level, from `low` at 0 to `high` at the last."""
    return low + round((high - low) * level / (LEVELS - 1))


def of_level(module: Any, spec: Callable[[int], Any], menu: Any, **options: Any) -> Any:
    """A block whose sizes follow from the level."""
    return elastic(module, spec, menu=menu, decisions=[("level",)], **options)


@dataclasses.dataclass(frozen=True)
class NestedDigits:
    """160 nested convolutional networks for digits."""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for digits."""
        menu = {"level": Choice(tuple(range(LEVELS))), "resolution": Choice((8,))}

        def channels(level: int) -> tuple[int, int, int]:
            return width(level, 2, 16), width(level, 3, 24), width(level, 4, 32)

        def convolution(i: int) -> Callable[[int], MBConvSpec]:
            def spec(level: int) -> MBConvSpec:
                c_in, c_out = channels(level)[i : i + 2]
                return MBConvSpec(c_in, c_out, 2 * c_in, 3, 2, True, 0, "conv")

            return spec

        def head(level: int) -> HeadSpec:
            c = channels(level)[-1]
            last = width(level, 5, 5 + LEVELS - 1)  # other at each level
            return HeadSpec(c, 2 * c, last, classes, 0.0, 5 + LEVELS - 1)

        blocks = {
            "stem": of_level(Stem, lambda m: StemSpec(input_channels, channels(m)[0], 1), menu),
            "block1": of_level(MBConv, convolution(0), menu),
            "block2": of_level(MBConv, convolution(1), menu),
            "head": of_level(Head, head, menu),
        }
        task = ImageClassification(input_channels, classes)
        static = (("resolution",),)
        return Space("nested_digits", menu, blocks, chain(tuple(blocks)), task, static=static)


@dataclasses.dataclass(frozen=True)
class NestedText:
    """160 nested decoders of bytes."""

    def build(self, *, task: Task) -> Space:
        """The space for next bytes."""
        menu = {"level": Choice(tuple(range(LEVELS)))}

        def channels(level: int) -> int:
            return width(level, 8, 64)

        def block(level: int) -> DecoderSpec:
            return DecoderSpec(channels(level), 2, 2, 16, hidden=width(level, 17, 17 + LEVELS - 1))

        vocabulary = task.vocabulary  # type: ignore[attr-defined]
        blocks = {
            "embed": of_level(
                TokenEmbedding,
                lambda m: TokenEmbeddingSpec(vocabulary, channels(m)),
                menu,
                channels=lambda spec: (None,),
            ),
            "block1": of_level(DecoderBlock, block, menu),
            "block2": of_level(DecoderBlock, block, menu),
            "norm": of_level(FinalNorm, lambda m: WidthSpec(channels(m)), menu),
            "head": of_level(TokenLogits, lambda m: LogitsSpec(channels(m), vocabulary), menu),
        }
        return Space("nested_text", menu, blocks, chain(tuple(blocks)), task)


class Setting(NamedTuple):
    """A space and its data.

    Attributes:
        space: a part that builds it.
        data: which.
        batch: examples of a step.
        kept: `values -> what is kept of them`, more is better.
        batches: of the test part; 0 for all.
    """

    space: Any
    data: Data
    batch: int
    kept: Callable[[np.ndarray], np.ndarray]
    batches: int = 0


SETTINGS = {
    "digits": Setting(NestedDigits(), Data(name="digits", held_out=0.1), 64, np.asarray),
    "text": Setting(
        NestedText(),
        Data(name="source:stdlib", held_out=0.02, length=32),
        16,
        lambda perplexities: 1 / perplexities,
        16,
    ),
}


def trainer(setting: Setting, sampler: Any, steps: int) -> Trainer:
    """What trains a space with a sampler, for any seed."""
    config = Config(
        space=setting.space,
        data=setting.data,
        sampler=sampler,
        loss=HardLabels(smoothing=0.0),
        optimizer=AdamW(learning_rate=3e-3, warmup=0.05),
        train=Train(steps=steps, batch=setting.batch, strategy="masked"),
        evaluation=Evaluation(calibration_batches=4, batch=64, chunk=16, strategy="masked"),
    )
    return Trainer(build.build(config))


def scorer(setting: Setting, built: Experiment) -> Callable[[Any, Arch], np.ndarray]:
    """`(params, archs) -> what each of them keeps [N]`, on test examples, calibrated."""
    how, data = build.evaluation_how(built), build.evaluation_data(built, "test")
    if setting.batches:
        # Spread over the part, whose documents follow one another; the last one is not full.
        some = np.linspace(0, len(data.real) - 2, setting.batches).astype(int)
        parts = (data.inputs, data.targets, data.real)
        inputs, targets, real = (np.asarray(part)[some] for part in parts)
        data = data._replace(inputs=inputs, targets=targets, real=real)

    def values(params: Any, archs: Arch) -> np.ndarray:
        found = np.zeros(len(jax.tree.leaves(archs)[0]))
        for where, result in evaluate.evaluate(how, params, archs, data):
            found[where] = result.value
        return setting.kept(found)

    return values


def some_of(archs: Arch, which: Any) -> Arch:
    """Those of some places."""
    return jax.tree.map(lambda leaf: leaf[which], archs)


def alone(setting: Setting, steps: int, seeds: int, which: np.ndarray) -> tuple[Any, Any]:
    """What sub-models keep that were trained alone `[S, N]`, and what those cut off the largest
    alone do `[S, N]`.
    """
    train = trainer(setting, Alone(), steps)
    values = scorer(setting, train.built)
    archs = some_of(every(train.built.space.menu), which)
    own, cut = np.zeros((2, seeds, len(which)))
    for seed in range(seeds):
        start = time.perf_counter()
        for i, level in enumerate(which):
            params = train(seed, jnp.int32(level)).params
            own[seed, i] = values(params, some_of(archs, [i]))[0]
        cut[seed] = values(params, archs)  # of the last one, the largest
        took = time.perf_counter() - start
        print(f"seed {seed}: {len(which)} trained alone in {took:.0f} s", file=sys.stderr)
    return own, cut


def together(setting: Setting, steps: int, seeds: int, which: np.ndarray) -> np.ndarray:
    """What sub-models keep that were trained together `[S, N]`."""
    train = trainer(setting, Nested(n_random=2, levels=LEVELS), steps)
    values = scorer(setting, train.built)
    archs = some_of(every(train.built.space.menu), which)
    rows = [values(train(seed).params, archs) for seed in range(seeds)]
    print(f"{steps} steps together with {seeds} seeds", file=sys.stderr)
    return np.asarray(rows)


def row(name: str, kept: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    """Shares of what is kept alone, of `[S, N]` by `[S, N]`.

    Shares are of means over seeds, so that a seed in which one alone did badly does not count for
    more, and their interval is over sub-models. The worst of each seed is there too, beside that
    of sub-models that were trained alone with another seed.
    """
    shares = kept.mean(0) / own.mean(0)
    return {
        "trained": name,
        "mean": ranking.interval(lambda of: float(shares[of].mean()), len(shares))._asdict(),
        "worst": float(shares.min()),
        "worst_of_seeds": (kept / own).min(1).tolist(),
        "at_least_96": float((shares >= 0.96).mean()),
        "largest": float(shares[-1]),
        "worst_by_the_largest": float((kept.mean(0) / own[:, -1].mean()).min()),
        "kept": kept.tolist(),
    }


def print_table(report: list[dict[str, Any]], own: np.ndarray) -> None:
    """What `row` made, and what is kept alone `[S, N]`."""
    print(
        f"{own.shape[1]} of {LEVELS} sub-models alone: {own.mean():.4f} on average, the smallest "
        f"{own[:, 0].mean():.4f}, the largest {own[:, -1].mean():.4f}"
    )
    lines = []
    for found in report:
        value, low, high = (f"{100 * number:.1f}" for number in found["mean"].values())
        kept = [f"{100 * found[name]:.1f}" for name in ("worst", "largest", "worst_by_the_largest")]
        each, enough = percents(found["worst_of_seeds"]), f"{100 * found['at_least_96']:.0f} %"
        name = found["trained"]
        lines.append([name, f"{value} [{low}, {high}]", kept[0], each, enough, *kept[1:]])
    again = (np.roll(own, 1, 0) / own).min(1).tolist()
    lines.append(["alone, another seed", "", "", percents(again), "", "", ""])
    columns = ["trained", "share kept, % [95 %]", "worst, %", "worst of each seed, %"]
    columns += ["sub-models with 96 % or more", "the largest, %", "worst by the largest alone, %"]
    measure.table(columns, lines)


def percents(numbers: list[float]) -> str:
    """Some shares, in percent."""
    return ", ".join(f"{100 * number:.1f}" for number in numbers)


def main() -> None:
    """Prints the table."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=SETTINGS, default="digits")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="of each training")
    parser.add_argument("--every", type=int, default=1, help="only each so many levels alone")
    asked = parser.parse_args()
    if asked.quick:
        asked.steps, asked.seeds, asked.every = 20, 2, 53
    setting = SETTINGS[asked.space]
    which = np.arange(LEVELS - 1, -1, -asked.every)[::-1]  # the largest is one of them
    own, cut = alone(setting, asked.steps, asked.seeds, which)
    report = [
        row(f"together, {steps} steps", together(setting, steps, asked.seeds, which), own)
        for steps in (asked.steps, LONGER * asked.steps)
    ]
    report.append(row("the largest alone, cut", cut, own))
    print_table(report, own)
    levels = {"levels": which.tolist(), "alone": own.tolist()}
    measure.write(asked.json, {"space": asked.space, **levels, "rows": report})


if __name__ == "__main__":
    main()
