"""BLEU-4 of a corpus (Papineni et al. 2002), the number that sacrebleu prints (arXiv 1804.08771).

One reference for each sentence, n-grams of up to four words, the brevity penalty of the whole
corpus. Where no n-gram of some length is right, its precision is halved anew for each such length,
as sacrebleu smooths by default (`exp`).
"""

import collections
import html.entities
import math
import re
import string
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from supernet_jax.errors import UserError, near

ORDER = 4  # longest n-grams
# mteval-v13a: these stand by themselves; points and commas do unless they are between digits, and
# so does a hyphen behind a digit.
ALONE = sorted({" ", *string.punctuation} - {"'", ",", "-", "."})
APART = re.compile("([" + re.escape("".join(ALONE)) + "])")
BEHIND = re.compile(r"([^0-9])([.,])")
BEFORE = re.compile(r"([.,])([^0-9])")
HYPHEN = re.compile(r"([0-9])(-)")


class Bleu(NamedTuple):
    """BLEU, and what it is made of.

    Attributes:
        score: 0 to 100.
        precisions: per cent, of n-grams of 1 to 4.
        brevity: penalty for what is shorter than the references, 0 to 1.
        length: words of all hypotheses.
        reference_length: words of all references.
    """

    score: float
    precisions: tuple[float, ...]
    brevity: float
    length: int
    reference_length: int


def words_13a(line: str) -> list[str]:
    """Words as mteval-v13a splits a line, which is sacrebleu's default."""
    for old, new in (("<skipped>", ""), ("-\n", ""), ("\n", " ")):
        line = line.replace(old, new)
    for name in ("quot", "amp", "lt", "gt"):
        line = line.replace(f"&{name};", chr(html.entities.name2codepoint[name]))
    line = APART.sub(r" \1 ", f" {line} ")
    line = BEHIND.sub(r"\1 \2 ", line)
    line = BEFORE.sub(r" \1 \2", line)
    return HYPHEN.sub(r"\1 \2 ", line).split()


def words(line: str) -> list[str]:
    """What stands between spaces, sacrebleu's `none`."""
    return line.split()


def characters(line: str) -> list[str]:
    """All but spaces, sacrebleu's `char`."""
    return list("".join(line.split()))


SPLITS: dict[str, Callable[[str], list[str]]] = {
    "13a": words_13a,
    "none": words,
    "char": characters,
}


def bleu(hypotheses: Sequence[str], references: Sequence[str], *, split: str = "13a") -> Bleu:
    """BLEU of translated lines.

    Args:
        hypotheses: translations, a line each.
        references: what they are compared with, one for each.
        split: how a line becomes words: "13a", "none" (at spaces) or "char".

    Raises:
        UserError: no line, another number of references, or no such split.
    """
    if split not in SPLITS:
        raise UserError(
            f"split is {split!r}, allowed are {', '.join(SPLITS)}{near(str(split), SPLITS)}"
        )
    apart = SPLITS[split]
    lines = ([apart(line.rstrip()) for line in given] for given in (hypotheses, references))
    return of_tokens(*lines)


def of_tokens(
    hypotheses: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]
) -> Bleu:
    """BLEU of sequences of words, or of ids.

    Args:
        hypotheses: one for each sentence.
        references: as many.

    Raises:
        UserError: there is none, or another number of references.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise UserError(
            f"BLEU is of {len(hypotheses)} translations and {len(references)} references; give "
            "one reference for each translation, and at least one of them"
        )
    right, total = [0] * ORDER, [0] * ORDER
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for n in range(ORDER):
            ours, theirs = _ngrams(hypothesis, n + 1), _ngrams(reference, n + 1)
            right[n] += (ours & theirs).total()
            total[n] += ours.total()
    length, wanted = (sum(map(len, lines)) for lines in (hypotheses, references))
    brevity = 1.0 if length >= wanted else math.exp(1 - wanted / length) if length else 0.0
    precisions, smoothing = [0.0] * ORDER, 1.0
    for n in range(ORDER):
        if any(right) and total[n]:
            smoothing *= 1 if right[n] else 2
            precisions[n] = 100 * right[n] / total[n] if right[n] else 100 / (smoothing * total[n])
    score = brevity * _geometric_mean(precisions)
    return Bleu(score, tuple(precisions), brevity, length, wanted)


def _ngrams(line: Sequence[Hashable], n: int) -> collections.Counter:
    return collections.Counter(tuple(line[i : i + n]) for i in range(len(line) - n + 1))


def _geometric_mean(values: Sequence[float]) -> float:
    if not all(values):
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))
