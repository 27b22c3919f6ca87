"""Decisions, menus and archs."""

import functools
import itertools
import json
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Choice, Lookup
from supernet_jax.elastic.notation import from_notation, options, to_notation
from supernet_jax.errors import UserError

# 3 * 1 * 2 * 2 * 3 = 36 archs; tuples, lists, floats and a decision with one option.
MENU = {
    "width": [Choice((8, 16)), Choice((8, 16, 24))],
    "depth": (Choice((1, 2, 3)), Choice((2,))),
    "rate": Choice((0.5, 1.0)),
}
SIZES = (3, 1, 2, 2, 3)  # in leaf order: dicts are sorted
NOTATION = {"width": [8, 24], "depth": [3, 2], "rate": 0.5}
KEY = jax.random.key(0)
MANY = 6000
SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (2, 3))


def every_arch() -> list[Any]:
    packed = np.asarray(list(itertools.product(*map(range, SIZES))), np.int32)
    return [choices.unpack(MENU, row) for row in packed]


def assert_share(hits: Any, share: float, *, sigmas: float = 5) -> None:
    """Independent hits of a known probability: a wrong alarm once in two million."""
    hits = np.asarray(hits)
    spread = np.sqrt(share * (1 - share) / hits.size)
    assert abs(hits.mean() - share) <= sigmas * spread


def test_count_names_and_places() -> None:
    assert choices.count(MENU) == 36 == len(every_arch())
    assert choices.count([Choice(tuple(range(10)))] * 40) == 10**40  # no overflow
    assert choices.names(MENU) == ("depth/0", "depth/1", "rate", "width/0", "width/1")
    assert choices.paths(MENU)[0] == ("depth", 0)
    for path, size in zip(choices.paths(MENU), SIZES, strict=True):
        assert len(choices.get(MENU, path)) == size


def test_options_are_the_menu_in_plain_lists() -> None:
    assert options(MENU) == {
        "width": [[8, 16], [8, 16, 24]],
        "depth": [[1, 2, 3], [2]],
        "rate": [0.5, 1.0],
    }


@pytest.mark.parametrize("values", [(), (5, 3), (3, 3)])
def test_choice_wants_distinct_values_smallest_first(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="smallest first"):
        Choice(values)


def test_largest_and_smallest() -> None:
    for arch, wanted in ((choices.largest(MENU), (2, 0, 1, 1, 2)), (choices.smallest(MENU), 0)):
        assert all(isinstance(leaf, np.int32) for leaf in jax.tree.leaves(arch))
        np.testing.assert_array_equal(choices.pack(arch), np.broadcast_to(wanted, 5))
    assert to_notation(MENU, choices.largest(MENU))["width"] == [16, 24]


def test_replace_changes_one_leaf_and_keeps_the_tree() -> None:
    old = choices.smallest(MENU)
    new = choices.replace(old, ("depth", 0), np.int32(2))
    assert jax.tree.structure(new) == jax.tree.structure(old)
    np.testing.assert_array_equal(choices.pack(new), [2, 0, 0, 0, 0])
    np.testing.assert_array_equal(choices.pack(old), [0, 0, 0, 0, 0])


def test_sample_is_uniform_and_its_decisions_independent() -> None:
    packed = np.asarray(choices.pack(choices.sample(MENU, KEY, (MANY,))))
    assert packed.shape == (MANY, 5) and packed.dtype == np.int32
    # Every one of the 36 archs is equally likely. The bound of chi-square with 35 degrees of
    # freedom (mean 35, standard deviation 8.4) is passed by chance once in a million.
    counts = np.bincount(np.ravel_multi_index(tuple(packed.T), SIZES), minlength=36)
    expected = MANY / 36
    assert np.sum((counts - expected) ** 2 / expected) < 93


def test_sample_follows_its_key() -> None:
    again, other = (choices.sample(MENU, jax.random.key(k), (20,)) for k in (0, 1))
    chex.assert_trees_all_equal(choices.sample(MENU, KEY, (20,)), again)
    assert not np.array_equal(choices.pack(again), choices.pack(other))


def test_mutate_takes_a_different_option_at_the_rate() -> None:
    old = choices.sample(MENU, KEY, (MANY,))
    before = np.asarray(choices.pack(old))
    rarely = choices.pack(choices.mutate(MENU, jax.random.key(1), old, rate=0.2))
    always = np.asarray(choices.pack(choices.mutate(MENU, jax.random.key(2), old, rate=1.0)))
    for decision, size in enumerate(SIZES):
        if size == 1:  # nowhere to go
            assert (always[:, decision] == 0).all()
            continue
        assert_share(rarely[:, decision] != before[:, decision], 0.2)
        turn = (always[:, decision] - before[:, decision]) % size
        for step in range(size):
            assert_share(turn == step, 0.0 if step == 0 else 1 / (size - 1))
        assert (always[:, decision] >= 0).all() and (always[:, decision] < size).all()
    changed = np.asarray(rarely) != before
    assert_share(changed[:, 0] & changed[:, 4], 0.04)  # decisions mutate independently


def test_mutate_and_crossover_with_a_rate_for_each_arch() -> None:
    old, other = (choices.sample(MENU, jax.random.key(k), (40,)) for k in (3, 4))
    rate = jnp.where(jnp.arange(40) < 20, 0.0, 1.0)
    mutants = choices.mutate(MENU, KEY, old, rate=rate)
    children = choices.crossover(KEY, old, other, rate=rate)
    before, free = np.asarray(choices.pack(old)), np.asarray(SIZES) > 1
    after = np.asarray(choices.pack(mutants))
    assert (after[:20] == before[:20]).all() and (after[20:, free] != before[20:, free]).all()
    crossed = np.asarray(choices.pack(children))
    assert (crossed[:20] == before[:20]).all()
    assert (crossed[20:] == np.asarray(choices.pack(other))[20:]).all()


def test_crossover_takes_each_decision_from_either_parent() -> None:
    menu = [Choice(tuple(range(4)))] * 3
    first = jax.tree.map(lambda _: jnp.zeros(MANY, jnp.int32), menu)
    second = jax.tree.map(lambda _: jnp.full(MANY, 3), menu)
    half = np.asarray(choices.pack(choices.crossover(KEY, first, second)))
    assert set(np.unique(half)) == {0, 3}
    for decision in range(3):
        assert_share(half[:, decision] == 3, 0.5)
    assert_share((half == 3).all(-1), 0.125)  # independently of one another
    assert_share(choices.pack(choices.crossover(KEY, first, second, rate=0.1))[:, 0] == 3, 0.1)


def test_crossover_of_one_arch_with_many() -> None:
    one, many = choices.smallest(MENU), choices.sample(MENU, KEY, (7,))
    child = choices.crossover(KEY, one, many)
    chex.assert_shape(jax.tree.leaves(child), (7,))
    assert jax.tree.structure(child) == jax.tree.structure(one)


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trips_over_any_batch_axes(shape: tuple[int, ...]) -> None:
    arch = choices.sample(MENU, KEY, shape)
    chex.assert_shape(jax.tree.leaves(arch), shape)
    packed = choices.pack(arch)
    assert packed.shape == (*shape, 5) and packed.dtype == jnp.int32
    chex.assert_trees_all_equal(choices.unpack(MENU, packed), arch)
    host = jax.tree.map(np.asarray, arch)
    assert type(choices.pack(host)) is np.ndarray
    np.testing.assert_array_equal(choices.pack(host), packed)
    code = choices.one_hot(MENU, arch)
    assert choices.is_code(code) and not choices.is_code(arch)
    assert code["width"][1].shape == (*shape, 3)
    np.testing.assert_array_equal(np.argmax(code["width"][1], -1), arch["width"][1])
    np.testing.assert_array_equal(np.sum(code["width"][1], -1), np.ones(shape))


def pure_functions(key: Any, packed: Any) -> Any:
    """All that is promised to work inside jit and vmap, for archs with any batch axes."""
    arch = choices.unpack(MENU, packed)
    a, b, c = jax.random.split(key, 3)
    shape = packed.shape[:-1]
    return (
        choices.pack(choices.sample(MENU, a, shape)),
        choices.pack(choices.mutate(MENU, b, arch, rate=0.5)),
        choices.pack(choices.crossover(c, arch, choices.largest(MENU), rate=0.5)),
        choices.one_hot(MENU, arch),
        LOOKUP(arch),
    )


def test_inside_jit_and_vmap() -> None:
    archs = choices.sample(MENU, KEY, (4,))
    packed, keys = choices.pack(archs), jax.random.split(KEY, 4)
    jitted = jax.jit(pure_functions)
    chex.assert_trees_all_equal(jitted(KEY, packed), pure_functions(KEY, packed))
    together = jax.jit(jax.vmap(pure_functions))(keys, packed)
    for i in range(4):
        one = jax.tree.map(lambda x, i=i: x[i], together)
        chex.assert_trees_all_equal(one, jitted(keys[i], packed[i]))


def test_stack_and_unstack() -> None:
    archs = every_arch()[::5]
    stacked = choices.stack(archs)
    np.testing.assert_array_equal(choices.pack(stacked), [choices.pack(a) for a in archs])
    for one, back in zip(archs, choices.unstack(stacked), strict=True):
        chex.assert_trees_all_equal(back, one)


def test_notation_round_trip() -> None:
    for arch in every_arch():
        notation = to_notation(MENU, arch)
        assert list(notation) == ["width", "depth", "rate"]  # the menu's order, not the sorted one
        back = from_notation(MENU, json.loads(json.dumps(notation)))
        chex.assert_trees_all_equal(back, arch)
    assert to_notation(MENU, from_notation(MENU, NOTATION)) == NOTATION


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ({**NOTATION, "rate": 0.7}, "rate is 0.7, but this space allows 0.5, 1.0"),
        ({**NOTATION, "rate": True}, "rate is True, but this space allows 0.5, 1.0"),
        ({**NOTATION, "rate": "1.0"}, "rate is '1.0', but this space allows 0.5, 1.0"),
        ({**NOTATION, "rate": None}, "rate is None, but this space allows 0.5, 1.0"),
        ({**NOTATION, "rate": [0.5]}, "rate is [0.5], but this space allows 0.5, 1.0"),
        ({**NOTATION, "width": [8, 32]}, "width[1] is 32, but this space allows 8, 16, 24"),
        ({**NOTATION, "depth": [1, 1]}, "depth[1] is 1, but this space allows 2"),
        ({**NOTATION, "width": [8]}, "width must be a list of 2 numbers; got [8]"),
        ({**NOTATION, "width": 8}, "width must be a list of 2 numbers; got 8"),
        ({**NOTATION, "width": "88"}, "width must be a list of 2 numbers; got '88'"),
        ({**NOTATION, "with": 1}, "the arch has no decision 'with', only width, depth, rate"),
        ({**NOTATION, "with": 1}, "did you mean width?"),
        ({"width": [8, 8]}, "the arch lacks depth, rate"),
        ([1, 2], "the arch must be an object with width, depth, rate; got [1, 2]"),
    ],
)
def test_what_the_notation_refuses(notation: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        from_notation(MENU, notation)


def test_notation_names_decisions_deep_in_a_menu() -> None:
    with pytest.raises(UserError, match=re.escape("cell.op[1] is 9, but this space allows 1, 2")):
        from_notation({"cell": {"op": [Choice((1, 2)), Choice((1, 2))]}}, {"cell": {"op": [1, 9]}})


# Answers 0..5, none of them the index itself, and asked in another order than the menu's.
LOOKUP = Lookup(
    (("width", 1), ("depth", 0)),
    np.asarray([[5, 3, 1], [4, 2, 0], [1, 1, 3]], np.int32),
)
NOTHING = Lookup((), np.asarray(2, np.int32))


def test_lookup_is_one_answer_however_it_is_asked() -> None:
    archs = every_arch()
    stacked = choices.stack(archs)
    answers = [LOOKUP.static(arch) for arch in archs]
    assert answers == [
        [[5, 3, 1], [4, 2, 0], [1, 1, 3]][int(a["width"][1])][int(a["depth"][0])] for a in archs
    ]
    host = LOOKUP(stacked)
    assert isinstance(host, np.ndarray)
    np.testing.assert_array_equal(host, answers)
    traced = jax.jit(LOOKUP)(stacked)
    np.testing.assert_array_equal(traced, answers)
    hard = np.eye(6)[answers]
    probabilities = functools.partial(LOOKUP.probabilities, size=6)
    np.testing.assert_array_equal(jax.vmap(probabilities)(stacked), hard)
    codes = choices.one_hot(MENU, stacked)
    np.testing.assert_array_equal(jax.vmap(probabilities)(codes), hard)


def test_lookup_without_decisions_is_a_constant() -> None:
    arch = choices.smallest(MENU)
    assert NOTHING.static(arch) == 2 == int(NOTHING(arch))
    code = choices.one_hot(MENU, arch)
    np.testing.assert_array_equal(NOTHING.probabilities(code, 3), [0, 0, 1])


def test_probabilities_of_a_soft_code() -> None:
    generator = np.random.default_rng(0)
    code = jax.tree.map(
        lambda choice: jnp.asarray(generator.dirichlet(np.ones(len(choice))), jnp.float32), MENU
    )
    wanted = np.zeros(6)
    for arch in every_arch():  # the decisions of a code are independent
        chosen = jax.tree.map(lambda weights, i: float(weights[i]), code, arch)
        wanted[LOOKUP.static(arch)] += np.prod(jax.tree.leaves(chosen))
    np.testing.assert_allclose(LOOKUP.probabilities(code, 6), wanted, atol=1e-6)


def test_tabulate_calls_with_values_in_the_order_asked() -> None:
    table = choices.tabulate(
        MENU, [("width", 1), ("rate",)], lambda width, rate: f"{width} at {rate}"
    )
    assert table.shape == (3, 2)
    assert table[2, 0] == "24 at 0.5" and table[0, 1] == "8 at 1.0"
