"""Selection by perturbation, where the largest weight misleads."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.elastic import choices
from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.nn import layers
from supernet_jax.nn.blocks.cells import PlainSpec, Skip, Zero
from supernet_jax.nn.blocks.darts import MeanHead, MeanHeadSpec
from supernet_jax.searching import HeldOut, Keep, perturbation, perturbed
from supernet_jax.tasks import ImageClassification

CHANNELS, EXAMPLES = 3, 16
NONE, SKIP, CONV = range(3)


class Mix(nn.Module):
    """A product with a matrix."""

    spec: PlainSpec

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return layers.Pointwise(self.spec.c_in, name="conv")(x)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Edges one after another."""

    edges: tuple[str, ...]

    def __call__(self, run: Any, x: Any) -> Any:
        for edge in self.edges:
            x = run(edge, x)
        return run("head", x)


@dataclasses.dataclass(frozen=True)
class Sum:
    """Edges that lead to one node."""

    edges: tuple[str, ...]

    def __call__(self, run: Any, x: Any) -> Any:
        return run("head", sum(run(edge, x) for edge in self.edges))


def space_of(kind: Any, edges: int, classes: int) -> Space:
    menu = {"edge": [Choice((NONE, SKIP, CONV)) for _ in range(edges)], "resolution": Choice((2,))}
    same = PlainSpec(CHANNELS)
    names = [f"edge{i}" for i in range(edges)]
    blocks = {
        name: choice_block(
            {"none": (Zero, same), "skip": (Skip, same), "conv": (Mix, same)},
            menu=menu,
            decision=("edge", i),
            channels=(CHANNELS,),
        )
        for i, name in enumerate(names)
    }
    head = MeanHeadSpec(CHANNELS, classes)
    blocks["head"] = elastic(MeanHead, lambda: head, menu=menu)
    task = ImageClassification(CHANNELS, classes)
    return Space("toy", menu, blocks, kind(tuple(names)), task, static=(("resolution",),))


def params_of(matrices: list[Any], head: Any) -> Any:
    edges = {
        f"edge{i}": {"conv": {"conv": {"kernel": jnp.asarray(matrix, jnp.float32)[None, None]}}}
        for i, matrix in enumerate(matrices)
    }
    head = jnp.asarray(head, jnp.float32)
    classifier = {"kernel": head, "bias": jnp.zeros(head.shape[1])}
    return {**edges, "head": {"classifier": classifier}}


def unit(start: int, end: int, weight: float = 1.0) -> np.ndarray:
    """The matrix that brings one channel to another."""
    matrix = np.zeros((CHANNELS, CHANNELS))
    matrix[start, end] = weight
    return matrix


def code_of(*weights: Any) -> Any:
    return {"edge": [np.array(w, np.float32) for w in weights], "resolution": np.ones(1)}


def examples(bits: int, channels: tuple[int, ...]) -> HeldOut:
    """Signs in some channels, whose bits are the label; noise says nothing of the first."""
    rng = np.random.default_rng(0)
    signs = np.array([[(i >> b) % 2 for b in range(bits)] for i in range(EXAMPLES)])
    x = np.repeat(0.1 * rng.normal(size=(EXAMPLES // 2, 2, 2, CHANNELS)), 2, axis=0)
    for bit, channel in enumerate(channels):
        x[..., channel] += 2 * signs[:, bit, None, None] - 1
    return HeldOut(np.float32(x), np.int32(signs @ (2 ** np.arange(bits))))


# The label is the sign of channel 0, and the head reads channel 1. On the first edge skip has the
# largest weight, and does nothing that the head could see: the convolution brings the sign to where
# it is read. On the second skip passes it on, and the convolution turns it round.
SPACE = space_of(Chain, 2, 2)
PARAMS = params_of([unit(0, 1, 3.0), unit(1, 1, -1.0)], [[0, 0], [-4, 4], [0, 0]])
CODE = code_of((0.1, 0.6, 0.3), (0.2, 0.5, 0.3))
BATCH = examples(1, (0,))
WANTED = [CONV, SKIP]


def accuracy(arch: Any) -> float:
    code = choices.one_hot(SPACE.menu, arch)
    logits = mixed(SPACE, PARAMS, code, BATCH.inputs, size=2).logits
    return float(np.mean(np.argmax(logits, -1) == BATCH.targets))


@pytest.mark.parametrize("criterion", ["loss", "metric"])
@pytest.mark.parametrize("seed", [0, 1])  # either decision first
def test_the_largest_weight_misleads(criterion: Any, seed: int) -> None:
    likeliest = jax.tree.map(lambda w: np.int32(w.argmax()), CODE)
    assert likeliest["edge"] == [SKIP, SKIP] and accuracy(likeliest) == 0.5
    arch = perturbed(SPACE, PARAMS, CODE, [BATCH], seed=seed, criterion=criterion)
    assert arch["edge"] == WANTED and accuracy(arch) == 1.0


def test_two_of_three_edges_are_kept() -> None:
    """The first bit comes by edge 0, the second by edge 2; edge 1 is noise of a large weight."""
    space = space_of(Sum, 3, 4)
    head = [[0] * 4, [-4, 4, -4, 4], [-4, -4, 4, 4]]
    matrices = [unit(0, 1, 3.0), unit(0, 0), unit(2, 2, 3.0)]
    code = code_of((0.7, 0.1, 0.2), (0.0, 0.0, 1.0), (0.7, 0.1, 0.2))
    keep = Keep((("edge", 0), ("edge", 1), ("edge", 2)), none=NONE)
    batch = examples(2, (0, 2))
    arch = perturbed(space, params_of(matrices, head), code, [batch], keeps=[keep])
    assert arch["edge"] == [CONV, NONE, CONV]
    # Nothing is no candidate, even where the supernet misses it most: the convolution of edge 1
    # turns the first bit round.
    matrices[1] = unit(0, 1, -6.0)
    code = code_of((0.7, 0.1, 0.2), (0.6, 0.0, 0.4), (0.7, 0.1, 0.2))
    arch = perturbed(space, params_of(matrices, head), code, [batch], keeps=[keep._replace(kept=3)])
    assert arch["edge"] == [CONV, CONV, CONV]
    assert perturbed(space, params_of(matrices, head), code, [batch])["edge"][1] == NONE


def test_filled_up_examples_do_not_count() -> None:
    """Those of a batch that are not real have labels that would turn the choice round."""
    more = HeldOut(
        np.concatenate([BATCH.inputs, *[BATCH.inputs] * 3]),
        np.concatenate([BATCH.targets, *[1 - BATCH.targets] * 3]),
        np.arange(4 * EXAMPLES) < EXAMPLES,
    )
    assert perturbed(SPACE, PARAMS, CODE, [more])["edge"] == WANTED
    assert perturbed(SPACE, PARAMS, CODE, [more._replace(real=None)])["edge"] != WANTED


def test_as_many_programs_however_many_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    run = lambda *args, **how: traced.append(1) or mixed(*args, **how)  # noqa: E731
    monkeypatch.setattr(perturbation, "mixed", run)
    counts = []
    for edges in (1, 4):
        params = params_of([unit(0, 1)] * edges, np.ones((CHANNELS, 2)))
        code = code_of(*[(0.2, 0.5, 0.3)] * edges)
        perturbed(space_of(Chain, edges, 2), params, code, [BATCH] * edges)
        counts.append(len(traced))
        traced.clear()
    assert counts[0] == counts[1] > 0


def test_training_goes_on_between_decisions() -> None:
    """With the code as it is then, and with its parameters from then on."""
    codes = []

    def tune(params: Any, code: Any) -> Any:
        codes.append(code)
        return jax.tree.map(lambda p: 0 * p, params)

    arch = perturbed(SPACE, PARAMS, CODE, [BATCH], tune=tune, seed=0)
    (code,) = codes
    # Of weights that are all 0 every option does as well, and the first is kept.
    assert sorted(arch["edge"]) != sorted(WANTED) and NONE in arch["edge"]
    made = [int(w.max() == 1) for w in code["edge"]]
    assert sum(made) == 1 and {tuple(w) for w in code["edge"]} & {tuple(w) for w in CODE["edge"]}


def test_weights_without_an_option_sum_to_one() -> None:
    np.testing.assert_allclose(perturbation.without([0.1, 0.6, 0.3], 1), [0.25, 0, 0.75], rtol=1e-6)
    np.testing.assert_array_equal(perturbation.without([0.0, 1.0], 1), [0, 0])


def test_what_cannot_be_perturbed() -> None:
    def tried(code: Any = CODE, batches: Any = (BATCH,), params: Any = PARAMS, **how: Any) -> Any:
        return perturbed(SPACE, params, code, batches, **how)

    with pytest.raises(UserError, match="there are no batches"):
        tried(batches=())
    with pytest.raises(UserError, match="an arch was given, but a code is perturbed"):
        tried(code=choices.smallest(SPACE.menu))
    with pytest.raises(UserError, match=r"the code is not of the space toy: .* its 3 decisions"):
        tried(code=code_of((0.5, 0.5, 0)))
    with pytest.raises(UserError, match=r"the size is 3, but must be one of \[2\]"):
        tried(size=3)
    with pytest.raises(UserError, match="criterion is 'accuracy', allowed: loss, metric"):
        tried(criterion="accuracy")
    with pytest.raises(UserError, match="no option of the decision edge/1"):
        tried(code=code_of((0.5, 0.5, 0), (0, 0, 0)))
    with pytest.raises(UserError, match="weights have diverged"):
        tried(params=jax.tree.map(lambda p: p * np.nan, PARAMS))
