"""Choice blocks: one of several modules in a place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import check_of, largest_difference
from tiny_space import cells

from supernet_jax.elastic import choices, elastic_block, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.mixed import mixed
from supernet_jax.errors import UserError
from supernet_jax.networks import extract
from supernet_jax.nn.blocks.cells import PlainSpec, ReluConv, ReluConvSpec, Skip

SPACE = cells()
NAME = "stage1_cell1_edge1_2"


def some_code() -> dict:
    def of(choice: Choice) -> jax.Array:
        return jax.nn.softmax(jax.random.normal(jax.random.key(len(choice)), (len(choice),)))

    return jax.tree.map(of, SPACE.menu)


def test_masked_and_mixed_are_the_sum_of_the_options() -> None:
    """Of an edge's output, by its options run alone."""
    check, code = check_of(cells, size=6), some_code()

    def output(strategy, how):
        run = jax.jit(
            lambda how: strategy(
                SPACE, check.params, how, check.images, size=6, features=(NAME,)
            ).features[NAME]
        )
        return run(how)

    first = choices.get(SPACE.menu, ("edge", 0))
    alone = [
        output(strategies.masked, choices.replace(choices.smallest(SPACE.menu), ("edge", 0), i))
        for i in jnp.arange(len(first))
    ]
    wanted = sum(w * y for w, y in zip(code["edge"][0], alone, strict=True))
    assert largest_difference(output(strategies.masked, code), wanted) < 1e-5
    assert largest_difference(output(mixed, code), wanted) < 1e-5


def test_two_paths_are_those_of_the_code() -> None:
    """Only what the paths pick is summed, once where both pick it; and with all of a small code's
    weight on them it is the whole mixture.
    """
    check = check_of(cells, size=6)
    a, b = choices.largest(SPACE.menu), choices.smallest(SPACE.menu)
    b = choices.replace(b, ("edge", 1), np.int32(4))  # where both are the same
    both = choices.stack([a, b])
    code = jax.tree.map(
        lambda x, y: 0.75 * x + 0.25 * y,
        choices.one_hot(SPACE.menu, a),
        choices.one_hot(SPACE.menu, b),
    )
    run = jax.jit(
        lambda code, paths: mixed(SPACE, check.params, code, check.images, size=6, paths=paths)
    )
    sparse, whole = run(code, both), check.forward(mixed)(check.params, code)
    assert largest_difference(sparse.logits, whole.logits) < 1e-5
    assert largest_difference(sparse.moments, whole.moments) < 1e-5
    # Weights outside of the paths do not count.
    other = run(some_code(), both)
    assert largest_difference(other.logits, whole.logits) > 1e-3


def test_its_costs_and_what_is_taken_out() -> None:
    """An extracted network has the option itself, under the block's name."""
    arch = jax.tree.map(lambda choice: np.int32(min(3, len(choice) - 1)), SPACE.menu)
    made = extract.module(SPACE, arch)
    block = next(b for b in made.blocks if b.name == NAME)
    assert (block.module, block.spec) == (ReluConv, ReluConvSpec(3, 3, 3))
    place = elastic_space.geometry(SPACE, 6)[NAME]
    params = [elastic_block.shapes(place.block, s, place.inputs).params for s in place.block.specs]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in params]
    assert sizes == [0, 0, 3 * 3 + 6, 9 * 3 * 3 + 6, 0]


def test_options_that_do_not_fit() -> None:
    menu = {"edge": Choice((0, 1))}
    wide = {"conv": (ReluConv, ReluConvSpec(4, 8, 3)), "skip": (Skip, PlainSpec(4))}
    about = {"menu": menu, "decision": ("edge",), "channels": (4,)}
    inputs = [jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)]
    with pytest.raises(UserError, match=r"conv gives \[1, 6, 6, 8\] and skip \[1, 6, 6, 4\]"):
        choice_block(wide, inputs=inputs, **about)
    with pytest.raises(UserError, match="has 2 values, but 1 options"):
        choice_block({"skip": (Skip, PlainSpec(4))}, **about)


def test_taps_of_a_mixture_are_refused() -> None:
    check = check_of(cells, size=6)
    with pytest.raises(UserError, match="a mixture has one for each spec"):
        mixed(SPACE, check.params, some_code(), check.images, size=6, features=(f"{NAME}/x",))
