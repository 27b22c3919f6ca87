"""BLEU, held to sacrebleu: on random lines, and on odd ones."""

import random

import pytest
from sacrebleu.metrics import BLEU

from supernet_jax.errors import UserError
from supernet_jax.tasks import bleu

SPLITS = ("13a", "none", "char")
ODD = [
    (["the cat sat on the mat"], ["the cat sat on the mat"]),
    (["the cat"], ["the cat"]),  # shorter than the longest n-grams
    ([""], ["the cat sat on the mat"]),
    (["", "the cat sat on a mat today"], ["nothing", "the cat sat on the mat"]),
    (["the cat sat on the mat"], [""]),
    ([""], [""]),
    (["a b c d e"], ["f g h i j"]),  # no word is right
    (["a b c d e"], ["e d c b a"]),  # words are, pairs of them are not
    (["the the the the the"], ["the cat"]),  # a word counts as often as it comes there
    (["It's 3,000.50 $ -- 5-year-old, (well) &quot;said&quot; &amp; done..."], ["It's 3,000.5 $"]),
    (["e.g. U.S. 1. ,2 x-ray 3-4 <skipped> [a] {b} ~ `c` ^_"], ["e.g., U.S. 1 .2 x - ray 3 -4 a"]),
    (["Über straße\u00a0été 漢字。漢字"], ["Über strasse été 漢字。漢字"]),
    (["trailing blanks   ", "\ttabs \t between"], ["trailing blanks", "tabs between\t"]),
]


def of_sacrebleu(hypotheses: list[str], references: list[str], split: str) -> BLEU:
    return BLEU(tokenize=split).corpus_score(hypotheses, [references])


@pytest.mark.parametrize("split", SPLITS)
def test_odd_lines(split: str) -> None:
    for hypotheses, references in ODD:
        ours = bleu.bleu(hypotheses, references, split=split)
        theirs = of_sacrebleu(hypotheses, references, split)
        said = (split, hypotheses)
        assert ours.score == pytest.approx(theirs.score, abs=1e-9), said
        assert ours.precisions == pytest.approx(theirs.precisions, abs=1e-9), said
        assert ours.brevity == pytest.approx(theirs.bp, abs=1e-9), said
        assert (ours.length, ours.reference_length) == (theirs.sys_len, theirs.ref_len), said


@pytest.mark.parametrize("split", SPLITS)
def test_random_lines(split: str) -> None:
    draw = random.Random(0)
    pieces = [*"abcdef", "the", "cat", ".", ",", "3.5", "4,000", "it's", "x-y", "5-6", "&amp;", "é"]

    def line(longest: int) -> list[str]:
        return [draw.choice(pieces) for _ in range(draw.randrange(longest))]

    for longest in (3, 6, 30):
        references = [line(longest) for _ in range(40)]
        # Some of the words are others, and some lines are shorter.
        changed = [
            [draw.choice(pieces) if draw.random() < 0.3 else word for word in r] for r in references
        ]
        hypotheses = [c[: draw.randrange(1, len(c) + 2)] for c in changed]
        texts = [[" ".join(words) for words in lines] for lines in (hypotheses, references)]
        ours, theirs = bleu.bleu(*texts, split=split), of_sacrebleu(*texts, split)
        assert ours.score == pytest.approx(theirs.score, abs=1e-9)
        if longest == 30:
            assert 5 < ours.score < 95
        of_ids = bleu.of_tokens(
            *([list(map(pieces.index, r)) for r in lines] for lines in (hypotheses, references))
        )
        assert 0 <= of_ids.score <= 100


def test_ids_are_words() -> None:
    text = bleu.bleu(["a b c d e", "a b"], ["a b c d f", "b a"], split="none")
    ids = bleu.of_tokens([[1, 2, 3, 4, 5], [1, 2]], [[1, 2, 3, 4, 6], [2, 1]])
    assert ids == text and 0 < ids.score < 100


def test_what_cannot_be_compared() -> None:
    for make, said in (
        (lambda: bleu.bleu([], []), "of 0 translations and 0 references"),
        (lambda: bleu.bleu(["a"], []), "of 1 translations and 0 references; give one reference"),
        (lambda: bleu.bleu(["a"], ["a"], split="13b"), "split is '13b', allowed are 13a, none"),
    ):
        with pytest.raises(UserError, match=said) as error:
            make()
        assert "\n" not in str(error.value)
