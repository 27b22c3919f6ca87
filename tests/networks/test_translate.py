"""Beam search: held to all translations that there are, and to a search by hand."""

import functools
import itertools
import math
import types
from typing import Any

import jax
import numpy as np
import pytest
from theorem import random_params

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.networks import extract, translate
from supernet_jax.spaces import hat
from supernet_jax.tasks import NextToken, Translation
from supernet_jax.tasks.translation import END, PADDING

SOURCES = np.asarray([[3, 4, END], [5, END, PADDING], [1, 1, END]], np.int32)


@functools.cache
def network_of(vocabulary: int, target: int) -> tuple[Any, Any]:
    one: Any = {"encoder_widths": (8,), "decoder_widths": (8,), "attended": (-1,), "qkv": 8}
    heads: Any = {"encoder_heads": (2,), "decoder_heads": (2,), "memory_heads": (2,)}
    layers: Any = {"encoder_layers": (1,), "decoder_layers": (1,)}
    hidden: Any = {"encoder_hidden": (8,), "decoder_hidden": (8,)}
    task = Translation(vocabulary, 3, target)
    space = hat.hat("beams", **one, **heads, **layers, **hidden, task=task, shared=False)
    params = random_params(space)
    # Sharper than at the start, so that translations differ in what they are worth.
    params["head"] = jax.tree.map(lambda leaf: 4 * leaf, params["head"])
    return extract.extract(space, params, choices.smallest(space.menu), None)


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    """Of 11 ids, one of which is padding and one an end."""
    return network_of(vocabulary=11, target=3)


def nats(network: tuple[Any, Any], source: Any, line: Any) -> float:
    """Log-likelihood of a target and its end."""
    module, variables = network
    length = module.task.target
    whole = [*line, END][:length]
    begun = [END, *line, *[PADDING] * length][:length]
    inputs = np.asarray([[*source, *begun]], np.int32)
    logits = np.asarray(compiled(module)(variables, inputs), np.float64)[0]
    likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(sum(likely[i, token] for i, token in enumerate(whole)))


def compiled(module: Any) -> Any:
    if module not in PROGRAMS:
        PROGRAMS[module] = jax.jit(module.apply)
    return PROGRAMS[module]


PROGRAMS: dict[Any, Any] = {}


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0])
def test_a_wide_beam_finds_the_best_of_all(network: tuple[Any, Any], penalty: float) -> None:
    """Of 9 + 81 translations; a beam as wide as that leaves none out."""
    tokens = sorted({*range(11)} - {PADDING, END})
    every = [line for n in (1, 2) for line in itertools.product(tokens, repeat=n)]
    found = translate.search(*network, SOURCES, beam=100, length_penalty=penalty)
    for source, line in zip(SOURCES, found, strict=True):
        worth = {e: nats(network, source, e) / (len(e) + 1) ** penalty for e in every}
        best = max(worth, key=worth.get)  # type: ignore[arg-type]
        assert tuple(line) == best
        runner_up = sorted(worth.values())[-2]
        assert worth[best] - runner_up > 1e-4  # else the choice would be one of rounding


def test_the_penalty_prefers_longer_ones(network: tuple[Any, Any]) -> None:
    short, long = (
        translate.search(*network, SOURCES, beam=100, length_penalty=penalty)
        for penalty in (-3.0, 6.0)
    )
    assert sum(map(len, short)) < sum(map(len, long))


def by_hand(network: tuple[Any, Any], source: Any, beam: int, penalty: float) -> list[int]:
    """The rules of fairseq's search, with lists."""
    length = network[0].task.target
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    for place in range(length):
        allowed = [t for t in range(11) if t not in (PADDING, END)] if place < length - 1 else []
        allowed += [END] * (place > 0)
        every = []
        for _, line in live:
            for token in allowed:
                kept = (*line, token)
                ended = token == END
                value = nats(network, source, line) if ended else before_end(network, source, kept)
                every.append((value, kept))
        every.sort(reverse=True)
        for value, line in every[:beam]:
            if line[-1] == END and len(done) < beam:
                done.append((value / len(line) ** penalty, line[:-1]))
        live = [one for one in every[: 2 * beam] if one[1][-1] != END][:beam]
        if len(done) == beam:
            break
    return list(max(done)[1])


def before_end(network: tuple[Any, Any], source: Any, line: Any) -> float:
    """Log-likelihood of the beginning of a target."""
    module, variables = network
    begun = [END, *line, *[PADDING] * 9][: module.task.target]
    inputs = np.asarray([[*source, *begun]], np.int32)
    logits = np.asarray(compiled(module)(variables, inputs), np.float64)[0]
    likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(sum(likely[i, token] for i, token in enumerate(line)))


@pytest.mark.parametrize(("beam", "penalty"), [(1, 0.6), (3, 1.0)])
def test_narrow_beams_by_hand(beam: int, penalty: float) -> None:
    network = network_of(vocabulary=11, target=5)
    found = translate.search(*network, SOURCES, beam=beam, length_penalty=penalty, batch=2)
    for source, line in zip(SOURCES, found, strict=True):
        assert line == by_hand(network, source, beam, penalty)


def test_lines_go_in_and_come_out() -> None:
    network = network_of(vocabulary=256, target=4)
    lines = translate.translate(*network, ["ab", "é", "z"], beam=2)
    assert len(lines) == 3 and all(len(line.encode()) > 0 for line in lines)
    ids = np.asarray([[*b"ab", END], [*"é".encode(), END], [ord("z"), END, 0]], np.int32)
    made = translate.search(*network, ids, beam=2, length_penalty=0.6)
    assert lines == [bytes(line).decode(errors="replace") for line in made]
    assert translate.translate(*network, []) == []


def test_what_cannot_be_translated(network: tuple[Any, Any]) -> None:
    bytes_of = network_of(vocabulary=256, target=4)
    other: Any = (types.SimpleNamespace(task=NextToken(256, 8)), {})
    run = translate.translate
    for make, said in (
        (lambda: run(*bytes_of, ["ab"], beam=0), "beam is 0, but must be at least 1"),
        (lambda: run(*bytes_of, ["ab"], batch=0), "batch is 0, but must be at least 1"),
        (lambda: run(*bytes_of, ["ab"], length_penalty=math.nan), "length_penalty is nan"),
        (lambda: run(*bytes_of, ["a", "abc"]), "source 1 has 3 bytes; it must be a line of 1 to 2"),
        (lambda: run(*bytes_of, [""]), "source 0 has 0 bytes"),
        (lambda: run(*bytes_of, ["a\n"]), "source 0 has 2 bytes; it must be a line"),
        (lambda: run(*bytes_of, "ab"), "sources must be a list of lines"),
        (lambda: run(*network, ["ab"]), "only one that translates bytes"),
        (lambda: run(*other, ["ab"]), "the network is for language modelling"),
    ):
        with pytest.raises(UserError, match=said) as error:
            make()
        assert "\n" not in str(error.value)


def test_pairs_of_another_length(network: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match="pairs have 5 ids, but there must be 6: 3 of the source"):
        jax.eval_shape(network[0].apply, network[1], np.zeros((1, 5), np.int32))
