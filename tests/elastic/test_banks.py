"""Banks of parameters: groups with rows and without, and banks that grow out of coarser ones."""

import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
from light_space import CLASSES, light
from theorem import Check, archs_of, global_difference, largest_difference

from supernet_jax.elastic import banks, choices, space_identity
from supernet_jax.elastic.choices import Lookup
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.errors import UserError
from supernet_jax.training import samplers, train_step
from supernet_jax.training.losses import hard_labels
from supernet_jax.training.recipe import Batch, Recipe

WIDTH, DEPTH = ("width",), ("depth",)
GROUPS = ("first", "pool")


def of_width(*rows: int, groups: tuple[str, ...] | None = GROUPS) -> Bank:
    return Bank(max(rows) + 1, Lookup((WIDTH,), np.asarray(rows)), groups)


def banked(bank: Bank | None) -> Space:
    return light(resolutions=(8,), bank=bank)


def test_only_the_named_groups_have_rows() -> None:
    check = Check(banked(of_width(0, 1, 1)), size=8)
    shapes = jax.tree.map(lambda leaf: leaf.shape, check.params)
    one = jax.tree.map(lambda leaf: leaf.shape, Check(banked(None), size=8).params)
    for name in GROUPS:
        assert shapes[name] == jax.tree.map(
            lambda row: (2, *row), one[name], is_leaf=lambda s: isinstance(s, tuple)
        )
    assert shapes["second"] == one["second"]
    for arch in archs_of(check.space, 1):
        output, gradients = check.run("sliced", arch)
        row = int(check.space.bank.row(arch))  # type: ignore[union-attr]
        for name in ("masked", "switched", "blockwise"):
            other, others_gradients = check.run(name, arch)
            assert largest_difference(other.logits, output.logits) < 1e-5
            assert global_difference(others_gradients, gradients) < 1e-5
            for leaf in jax.tree.leaves([others_gradients[name] for name in GROUPS]):
                assert np.any(leaf[row]) and not np.any(leaf[1 - row])


def recipe_of(space: Space, depth: int) -> Recipe:
    """One random member of width 4, of a depth."""
    arch = choices.replace(choices.smallest(space.menu), WIDTH, np.int32(1))
    stacked = choices.stack([choices.replace(arch, DEPTH, np.int32(depth))])
    sampler = samplers.uniform(space.menu, n_random=1)
    return Recipe(
        space,
        sampler._replace(sample=lambda *_: jax.tree.map(jax.numpy.asarray, stacked)),
        hard_labels.hard_labels(),
        optax.adamw(0.1, weight_decay=0.1),
        augment=lambda images, key, ids: images,
        ema_decay=0.5,
    )


def stepped(recipe: Recipe, state: Any) -> Any:
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.standard_normal((6, 8, 8, 2), np.float32), rng.integers(0, CLASSES, 6), np.arange(6)
    )
    step = jax.jit(
        functools.partial(train_step.Step(recipe), sizes=(8,)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state, metrics = jax.device_get(step(jax.tree.map(jax.numpy.asarray, state), batch))
    assert metrics["applied"]
    return state


def same(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


def test_a_bank_grows_and_unused_rows_rest() -> None:
    """None, two rows, three: children are their parents bitwise, in momenta and average, too."""
    none, two, three = map(banked, (None, of_width(0, 1, 1), of_width(0, 2, 1)))
    first = stepped(recipe_of(none, 1), train_step.create(recipe_of(none, 1)))
    grown = banks.fork(first, none, two)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grown):
        parent = dict(jax.tree_util.tree_leaves_with_path(first))[path]
        rows = [leaf] if leaf.shape == parent.shape else list(leaf)
        assert len(rows) == (2 if leaf.ndim > parent.ndim else 1)
        assert all(np.array_equal(row, parent) for row in rows)
    assert grown.params["first"]["mix"]["kernel"].shape == (2, 1, 1, 2, 6)
    moments = grown.opt_state[0].mu["first"]["mix"]["kernel"]
    assert moments.shape == grown.ema["first"]["mix"]["kernel"].shape == (2, 1, 1, 2, 6)

    second = stepped(recipe_of(two, 1), grown)
    old, new = [(s.params, s.ema, s.opt_state[0].mu, s.opt_state[0].nu) for s in (grown, second)]
    for before, after in zip(old, new, strict=True):
        for name in GROUPS:
            leaves = map(jax.tree.leaves, (before[name], after[name]))
            for a, b in zip(*leaves, strict=True):
                assert not np.array_equal(a[1], b[1]) and np.array_equal(a[0], b[0])
        assert not same(before["second"], after["second"])

    assert banks.parents(none, two) == (0, 0) and banks.parents(two, three) == (0, 1, 1)
    third = banks.fork(second, two, three)
    for name in GROUPS:
        for row, parent in enumerate((0, 1, 1)):
            pick = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
            assert same(pick(third.params[name], row), pick(second.params[name], parent))
    assert same(third.params["second"], second.params["second"])
    assert int(third.step) == 2


@pytest.mark.parametrize(
    ("before", "after", "of", "message"),
    [
        ((0, 1, 1), (0, 1, 2), (0, 0, 0), r"go on from \[0, 0, 0\], so row 1 .* would be lost"),
        (
            (0, 1, 1),
            (0, 1, 2),
            (0, 1),
            r"of 3 go on from \[0, 1\]; give one of the rows 0 to 1 ",
        ),
        ((0, 1, 1), (0, 0, 1), None, r"row 0 of the bank of light had the rows \[0, 1\] before"),
        ((0, 1, 1), (0, 2, 2), None, r"row 1 of the bank of light had no row before"),
        ((0, 1, 1), None, None, r"no bank to grow into"),
    ],
)
def test_a_bank_that_loses_rows_is_refused(before: Any, after: Any, of: Any, message: str) -> None:
    old, new = (banked(rows and of_width(*rows)) for rows in (before, after))
    with pytest.raises(UserError, match=message):
        banks.fork({}, old, new, of)


def test_groups_keep_their_rows() -> None:
    fewer = banked(of_width(0, 1, 2, groups=("first",)))
    with pytest.raises(UserError, match="the group 'pool' has rows in the bank before"):
        banks.fork({}, banked(of_width(0, 1, 1)), fewer)


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (Bank(2, Lookup((WIDTH,), np.asarray([0, 1, 2]))), "has 2 rows, and archs use .* 0 to 2"),
        (of_width(0, 1, 1, groups=("frist",)), "group 'frist', .*; did you mean first"),
    ],
)
def test_a_bank_that_does_not_fit(bank: Bank, message: str) -> None:
    with pytest.raises(UserError, match=message):
        banked(bank)


def test_codes_mix_rows_of_groups() -> None:
    """A code between two widths uses the mean of their rows, and the groups without as they are."""
    space = banked(of_width(0, 1, 1))
    params = Check(space, size=8).params
    code = choices.one_hot(space.menu, choices.smallest(space.menu))
    code = choices.replace(code, WIDTH, np.asarray([0.25, 0.75, 0.0], np.float32))
    used = banks.used_by(space, params, code)
    assert used["second"] is params["second"]
    jax.tree.map(
        lambda own, leaf: np.testing.assert_allclose(own, 0.25 * leaf[0] + 0.75 * leaf[1], 1e-5),
        used["first"],
        params["first"],
    )


def test_a_space_of_other_groups_is_another() -> None:
    marks = {
        space_identity.describe_space(banked(bank))["fingerprint"]
        for bank in (None, of_width(0, 1, 1), of_width(0, 1, 1, groups=None))
    }
    assert len(marks) == 3
