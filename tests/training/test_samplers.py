"""Every sampler of the library: what all of them promise, and what each of them draws.

A sampler of one's own joins the conformance suite by a line in `CASES`.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import ROOT
from test_checkpoint import State, same, target
from tiny_space import parted, tiny

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config
from supernet_jax.storage import checkpoint, user_code
from supernet_jax.training import samplers
from supernet_jax.training.members import step_keys
from supernet_jax.training.samplers import Opening, Sampler, macs_table
from supernet_jax.training.samplers.arch_generator import TOLERANCE, arch_generator
from supernet_jax.training.samplers.fair import members
from supernet_jax.training.samplers.fbnet import falling
from supernet_jax.training.samplers.nested import chain
from supernet_jax.training.samplers.preferred import select
from supernet_jax.training.samplers.progressive import openings
from supernet_jax.training.samplers.shift import probability

SPACE = tiny()
MENU = SPACE.menu
MACS = macs_table.reference_macs(SPACE)
TABLE = macs_table.build(SPACE, bins=6, samples=4000, seed=1)
BINS = macs_table.arrays(TABLE)
RANGES = tuple(np.quantile(TABLE.edges, (0.3, 0.5, 0.6)).tolist())
GENERATOR = arch_generator(SPACE)
STEPS = 12
PHASES = (
    Opening(("kernel_size",), 2),
    Opening(("depth",), 4, 1),
    Opening(("expand_ratio", "width"), 6),
)
SOME = choices.unpack(MENU, np.asarray(choices.pack(choices.sample(MENU, jax.random.key(3), (5,)))))

CASES: dict[str, Sampler] = {
    "sandwich": samplers.sandwich(MENU),
    "uniform": samplers.uniform(MENU, n_random=3),
    "uniform_within": samplers.uniform_within(MENU, edges=RANGES, macs=MACS, n_random=2),
    "fair": samplers.fair(MENU, n_random=4),
    "attentive": samplers.attentive(MENU, bins=BINS, macs=MACS),
    "worst_up": samplers.attentive(MENU, bins=BINS, macs=MACS, best=False, trials=2),
    "progressive": samplers.progressive(MENU, PHASES, static=SPACE.static),
    "delayed": samplers.delayed(samplers.sandwich(MENU), start=STEPS // 2),
    "ordered_dropout": samplers.ordered_dropout(MENU, n_random=3, decision="width"),
    "insta_tune": samplers.insta_tune(MENU, n_random=2),
    "nested": samplers.nested(MENU, levels=4, static=SPACE.static),
    "shift": samplers.shift(MENU, bins=BINS, macs=MACS),
    "shift_generated": samplers.shift(MENU, bins=BINS, macs=MACS, generator=GENERATOR),
    "delayed_shift": samplers.delayed(samplers.shift(MENU, bins=BINS, macs=MACS), start=5),
    "preferred": samplers.preferred(MENU, SOME),
    "darts": samplers.darts(MENU, learning_rate=0.1),
    "darts_ahead": samplers.darts(MENU, learning_rate=0.1, ahead=0.1),
    "fbnet": samplers.fbnet(
        MENU,
        cost=costs.expected(costs.macs(SPACE)),
        temperature=falling(5.0, 4.05, STEPS),
        learning_rate=0.1,
        start=2,
    ),
    "proxyless": samplers.proxyless(SPACE),
    "neas": samplers.neas(parted(), n_random=2, drops=2, start=4, every=3, keep=1),
    "own": user_code.run(ROOT / "docs" / "examples" / "sampler.py").Tilted().build(menu=MENU),
}


MENUS = {"neas": parted().menu}  # of samplers for spaces of their own


def losses_of(arch: Arch) -> Any:
    """A loss that any arch or code has, other for other ones."""
    if choices.is_code(arch):
        packed = jnp.concatenate(jax.tree.leaves(arch), -1)
    else:
        packed = choices.pack(arch)
    weights = jnp.arange(1, packed.shape[-1] + 1) ** 2
    return (jnp.dot(packed, weights) * 0.3713) % 1.0


class Score:
    """What samplers learn by: losses of codes, and others of weights a step ahead."""

    def __call__(self, code: Any, *, paths: Any = None) -> Any:
        return losses_of(code)

    def ahead(self, code: Any, *, rate: float) -> Any:
        return losses_of(code) + rate * jnp.sum(jnp.square(jax.tree.leaves(code)[0]))


def advanced(sampler: Sampler, state: Any, step: Any) -> tuple[Any, Arch]:
    """What a step draws, and the state after it, with losses that are a function of the archs."""
    _, key, _ = step_keys(jax.random.key(7), step, 0)
    if sampler.learn is not None and sampler.learn.update is not None:
        state, _ = sampler.learn.update(state, jax.random.fold_in(key, 1), step, Score())
    archs = sampler.sample(state, key, step, losses_of)
    losses = losses_of(archs)
    drawn = samplers.names(sampler)[len(sampler.fixed) :]
    metrics = {f"loss/{name}": loss for name, loss in zip(drawn, losses, strict=True)}
    return sampler.update(state, metrics), archs


@functools.cache
def compiled(name: str) -> Any:
    """`advanced` of a case."""
    return jax.jit(functools.partial(advanced, CASES[name]))


@functools.cache
def history(name: str) -> tuple[list[Any], list[Arch]]:
    """States before each step and after the last, and the archs of each step."""
    states, archs = [CASES[name].init(jax.random.key(0))], []
    for i in range(STEPS):
        state, drawn = compiled(name)(states[-1], jnp.int32(i))
        states.append(state)
        archs.append(jax.device_get(drawn))
    return states, archs


def equal(a: Arch, b: Arch) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("name", CASES)
def test_draws_are_archs_or_codes_of_the_menu(name: str) -> None:
    sampler, menu = CASES[name], MENUS.get(name, MENU)
    for arch in sampler.fixed:
        assert jax.tree.structure(arch) == jax.tree.structure(menu)
        assert all(isinstance(leaf, np.integer) for leaf in jax.tree.leaves(arch))
    if sampler.fixed:
        assert equal(sampler.fixed[0], choices.largest(menu))
    codes = samplers.draws_codes(sampler)
    for archs in history(name)[1]:
        assert jax.tree.structure(archs) == jax.tree.structure(menu)
        for choice, leaf in zip(jax.tree.leaves(menu), jax.tree.leaves(archs), strict=True):
            if codes:
                assert leaf.shape == (sampler.n_random, len(choice)) and leaf.dtype == jnp.float32
                assert leaf.min() >= 0
                np.testing.assert_allclose(leaf.sum(-1), 1, rtol=1e-5)
                continue
            assert leaf.shape == (sampler.n_random,) and leaf.dtype == jnp.int32
            assert leaf.min() >= 0 and leaf.max() < len(choice)


@pytest.mark.parametrize("name", CASES)
def test_draws_are_a_function_of_state_and_step(name: str) -> None:
    """In any order, and traced anew it is the same program; other steps draw something else."""
    states, archs = history(name)
    for step in (STEPS - 1, 0):
        state, again = compiled(name)(states[step], jnp.int32(step))
        assert equal(again, archs[step])
        same(state, states[step + 1])
    trace = jax.make_jaxpr(functools.partial(advanced, CASES[name]))
    programs = [re.sub("0x[0-9a-f]+", "", str(trace(states[0], jnp.int32(0)))) for _ in range(2)]
    assert programs[0] == programs[1]
    assert any(not equal(a, archs[0]) for a in archs)


@pytest.mark.parametrize("name", CASES)
def test_the_state_keeps_its_shape(name: str) -> None:
    """Also where metrics lack the random members, which do not train in every step."""
    sampler = CASES[name]
    shapes = jax.eval_shape(sampler.init, jax.random.key(0))
    after = jax.eval_shape(lambda s: sampler.update(s, {"loss/largest": jnp.zeros(())}), shapes)
    for made in (history(name)[0][-1], after):
        assert jax.tree.structure(made) == jax.tree.structure(shapes)
        both = zip(jax.tree.leaves(made), jax.tree.leaves(shapes), strict=True)
        assert all(x.shape == y.shape and x.dtype == y.dtype for x, y in both)


@pytest.mark.parametrize("name", CASES)
def test_members_of_every_step(name: str) -> None:
    sampler = CASES[name]
    every = len(sampler.fixed) + sampler.n_random
    counts = [samplers.active(sampler, step) for step in range(STEPS)]
    assert all(1 <= count <= every for count in counts) and counts[-1] == every


def test_resumed_is_uninterrupted(tmp_path: pathlib.Path) -> None:
    """The states of all samplers through one checkpoint, and on from there."""
    half = STEPS // 2
    kept = {name: history(name)[0][half] for name in CASES}
    held = State(jnp.int32(half), {"w": jnp.zeros(8)}, (), kept, None)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(half, held, {})
    restored = checkpoint.restore(tmp_path, target(held)).sampler
    same(restored, kept)
    for name, state in restored.items():
        for i in range(half, STEPS):
            state, archs = compiled(name)(state, jnp.int32(i))
            assert equal(archs, history(name)[1][i]), name
        same(state, history(name)[0][-1])


def many(sampler: Sampler, steps: int, *, state: Any = None, start: int = 0) -> np.ndarray:
    """Packed archs `[steps, M, D]` of many steps from one state."""
    state = sampler.init(jax.random.key(0)) if state is None else state

    def one(step: Any) -> Any:
        _, key, _ = step_keys(jax.random.key(0), step, 0)
        return choices.pack(sampler.sample(state, key, step, losses_of))

    return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(start, start + steps, dtype=jnp.int32)))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic in standard deviations above its mean."""
    freedom = np.count_nonzero(expected) - 1
    used = expected > 0
    assert counts[~used].sum() == 0
    value = float(np.sum((counts[used] - expected[used]) ** 2 / expected[used]))
    return (value - freedom) / math.sqrt(2 * freedom)


LIMIT = 5.0  # of `chi_square`, at fixed seeds: chance alone stays below it


@pytest.mark.parametrize("name", ["sandwich", "uniform", "fair"])
def test_every_option_is_equally_likely(name: str) -> None:
    packed = many(CASES[name], 800)
    for choice, column in zip(jax.tree.leaves(MENU), np.moveaxis(packed, -1, 0), strict=True):
        if len(choice) > 1:
            counts = np.bincount(column.ravel(), minlength=len(choice))
            assert chi_square(counts, np.full(len(choice), counts.sum() / len(choice))) < LIMIT


def test_fair_steps_use_every_option_equally_often() -> None:
    """Exactly, where the number of options divides that of members; elsewhere to within one."""
    menu = {
        "a": [choices.Choice((1, 2, 3)), choices.Choice((1, 2))],
        "r": choices.Choice((6, 8, 9)),
    }
    assert members(menu, ("r",)) == 6 and members(menu, ("a", 0)) == 6
    for count, exact in (
        (6, (True, True, True)),
        (3, (True, False, True)),
        (2, (False, True, False)),
    ):
        packed = many(samplers.fair(menu, n_random=count), 60)
        for choice, column, equal_counts in zip(
            jax.tree.leaves(menu), np.moveaxis(packed, -1, 0), exact, strict=True
        ):
            counts = np.stack([(column == option).sum(-1) for option in range(len(choice))], -1)
            assert (counts.sum(-1) == count).all()
            spread = counts.max(-1) - counts.min(-1)
            assert (spread == 0).all() if equal_counts else (spread == 1).all()


def test_the_table_is_the_distribution_of_macs() -> None:
    archs = choices.sample(MENU, jax.random.key(11), (4000,))
    values = np.asarray(MACS(jax.tree.map(np.asarray, archs)))
    counts, _ = np.histogram(values, bins=np.asarray(TABLE.edges))
    expected = np.asarray(TABLE.probability) * 4000
    # Both are samples of 4000, so their difference has twice the variance of one.
    used = expected > 0
    freedom = used.sum() - 1
    value = np.sum((counts[used] - expected[used]) ** 2 / (2 * expected[used]))
    assert (value - freedom) / math.sqrt(2 * freedom) < LIMIT
    assert sum(TABLE.probability) == pytest.approx(1)
    whole = costs.macs(SPACE)
    assert TABLE.edges[0] < int(whole(choices.largest(MENU))) == TABLE.edges[-1]
    for rows in TABLE.options.values():
        for row, share in zip(rows, TABLE.probability, strict=True):
            assert sum(row) == pytest.approx(1.0 if share else 0.0)


def test_an_arch_of_a_bin_lies_in_it() -> None:
    drawn = jax.jit(
        jax.vmap(functools.partial(macs_table.draw, BINS, MENU, MACS), in_axes=(0, None))
    )
    for which in np.flatnonzero(np.isfinite(BINS.logits)):
        archs = jax.device_get(drawn(jax.random.split(jax.random.key(5), 50), which))
        macs = np.asarray(MACS(archs))
        assert (macs >= TABLE.edges[which]).all() and (macs <= TABLE.edges[which + 1]).all()


@pytest.mark.parametrize("best", [True, False])
def test_best_up_takes_the_lowest_score_and_worst_up_the_highest(best: bool) -> None:
    """Of `trials` candidates, which are all of one bin."""
    tried: list[np.ndarray] = []

    def noted(arch: Arch) -> Any:
        jax.debug.callback(lambda packed: tried.append(np.asarray(packed)), choices.pack(arch))
        return losses_of(arch)

    sampler = samplers.attentive(MENU, bins=BINS, macs=MACS, n_random=1, trials=4, best=best)
    sample = jax.jit(lambda key: sampler.sample((), key, jnp.int32(0), noted))
    for seed in range(3):
        tried.clear()
        archs = sample(jax.random.key(seed))
        jax.effects_barrier()
        candidates = choices.unpack(MENU, np.stack(tried))
        which = np.searchsorted(TABLE.edges, np.asarray(MACS(candidates)), side="right")
        assert len(tried) == 4 and len(set(which.clip(1, 6).tolist())) == 1
        scores = np.asarray(losses_of(candidates))
        assert np.ptp(scores) > 0
        wanted = scores.min() if best else scores.max()
        assert float(losses_of(archs)[0]) == pytest.approx(wanted)


def test_attentive_by_a_predictor_needs_no_score() -> None:
    def never(arch: Arch) -> Any:
        raise AssertionError("scored")

    make = functools.partial(samplers.attentive, MENU, bins=BINS, macs=MACS, trials=4)

    @jax.jit
    def both(key: Any) -> tuple[Arch, Arch]:
        asked = make(rank=losses_of).sample((), key, jnp.int32(0), never)
        return asked, make().sample((), key, jnp.int32(0), losses_of)

    asked, scored = both(jax.random.key(1))
    assert equal(asked, scored)


def test_the_targets_follow_the_distribution_of_macs() -> None:
    sampler = samplers.attentive(MENU, bins=BINS, macs=MACS, trials=1)
    archs = choices.unpack(MENU, many(sampler, 600))
    which = np.searchsorted(TABLE.edges, np.asarray(MACS(archs)), side="right") - 1
    counts = np.bincount(np.clip(which.ravel(), 0, 5), minlength=6)
    assert chi_square(counts, np.asarray(TABLE.probability) * counts.sum()) < LIMIT


def test_uniform_archs_within_ranges_of_macs() -> None:
    """Each range is drawn as often, whatever its width, and within it archs are uniform."""
    archs = choices.unpack(MENU, many(CASES["uniform_within"], 500).reshape(1000, -1))
    macs = np.asarray(MACS(archs))
    assert macs.min() >= RANGES[0] and macs.max() <= RANGES[-1]
    in_first = macs <= RANGES[1]
    assert chi_square(np.bincount(in_first), np.array([500, 500])) < LIMIT
    every = choices.sample(MENU, jax.random.key(11), (20_000,))
    theirs = np.asarray(MACS(every))
    for inside, low, high in ((in_first, *RANGES[:2]), (~in_first, *RANGES[1:])):
        wanted = theirs[(theirs > low) & (theirs <= high)]
        assert wanted.size > 500
        # How MACs lie within a range tells uniform archs from others of the same range.
        assert scipy.stats.ks_2samp(macs[inside], wanted).pvalue > 1e-4
        assert not np.isclose(wanted.mean(), (low + high) / 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("macs", "said"),
    [
        ((1e5,), r"sampler.macs is \(100000.0,\); give two or more"),
        ((2e5, 1e5), "smallest first"),
        ((0.0, 1e12, 2e12), "from 1,0.* to 2,0.*, but of 10,000 random subnets of tiny none lies"),
        ((0.0, 1.0), "from 0 to 1, but .*: they have .* MACs"),
    ],
)
def test_wrong_ranges_of_macs(macs: tuple[float, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        samplers.Uniform(macs=macs).build(menu=MENU, space=SPACE)


def test_options_open_at_their_steps() -> None:
    """Each decision is the largest before its phase, and all that is open is used after it."""
    menu = {
        "k": choices.Choice((3, 5, 7)),
        "d": [choices.Choice((1, 2, 3, 4))],
        "r": choices.Choice((6, 8)),
    }
    phases = (Opening(("k",), 10), Opening(("d",), 20, 1), Opening(("d",), 30, 0))
    opens = openings(menu, phases, static=(("r",),))
    never = np.iinfo(np.int32).max
    np.testing.assert_array_equal(
        opens, [[30, 30, 20, 0], [10, 10, 0, never], [0, 0, never, never]]
    )
    sampler = samplers.progressive(menu, phases, n_random=40, static=(("r",),))
    drawn = many(sampler, 100)
    most, every = {0, 1, 2}, {0, 1, 2, 3}
    for steps, depths, kernels in (
        ((0, 9), {3}, {2}),
        ((10, 19), {3}, most),
        ((20, 29), {2, 3}, most),
        ((30, 99), every, most),
    ):
        for step in steps:
            found = tuple(set(drawn[step, :, i].tolist()) for i in range(3))
            assert found == (depths, kernels, {0, 1})
            assert samplers.active(sampler, step) == (1 if step < 10 else 41)


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ((Opening(("depth",), 0),), "no phase opens all options of expand_ratio/1"),
        ((Opening(("dept",), 0),), "the menu has no dept, only depth"),
        ((Opening(("depth",), 9), Opening(("width",), 3)), "in the order of their starts"),
    ],
)
def test_phases_that_make_no_sense(phases: tuple[Opening, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        samplers.progressive(MENU, phases, static=SPACE.static)


def test_delayed_is_its_inner_sampler_later() -> None:
    inner = CASES["sandwich"]
    sampler = samplers.delayed(inner, start=6)
    assert [samplers.active(sampler, step) for step in (0, 5, 6, 7)] == [1, 1, 4, 4]
    np.testing.assert_array_equal(many(sampler, 5, start=6), many(inner, 5, start=6))
    twice = samplers.delayed(CASES["progressive"], start=1)
    assert [samplers.active(twice, step) for step in (0, 1, 2)] == [1, 1, 3]
    with pytest.raises(ValueError, match="the largest as fixed member"):
        samplers.delayed(samplers.uniform(MENU), start=1)


def test_a_chain_of_nested_archs() -> None:
    archs = chain(MENU, levels=4, static=SPACE.static)
    packed = np.asarray(choices.pack(archs))
    assert (np.diff(packed, axis=0) >= 0).all() and len(np.unique(packed, axis=0)) == len(packed)
    assert set(archs["resolution"].tolist()) == {1}, "none that only the resolution tells apart"
    first = SPACE.at_size(jax.tree.map(lambda x: x[0], archs), np.int32(0))
    assert equal(first, choices.smallest(MENU))
    assert equal(jax.tree.map(lambda x: x[-1], archs), choices.largest(MENU))
    assert (np.diff(np.asarray(costs.macs(SPACE)(archs))) > 0).all()
    wide = {"a": choices.Choice(tuple(range(9))), "b": choices.Choice((1, 2, 3))}
    np.testing.assert_array_equal(
        choices.pack(chain(wide, levels=5)), [[0, 0], [2, 1], [4, 1], [6, 2], [8, 2]]
    )
    drawn = many(samplers.nested(wide, levels=5), 500).reshape(-1, 2)
    counts = np.bincount(drawn[:, 0], minlength=9)
    assert chi_square(counts, np.asarray([200.0, 0, 200, 0, 200, 0, 200, 0, 200])) < LIMIT


def test_probability_shifts_to_where_losses_still_fall() -> None:
    sampler = samplers.shift(MENU, bins=BINS, macs=MACS, n_random=2, floor=0.2)
    state = sampler.init(jax.random.key(0))
    likely = functools.partial(probability, bins=BINS, floor=0.2)
    usable = np.isfinite(BINS.logits)
    np.testing.assert_allclose(likely(state), usable / usable.sum(), rtol=1e-6)
    loss = jnp.asarray([2.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    old = jnp.asarray([2.0, 1.25, 2.0, 2.5, 2.0, 2.0])
    state = state._replace(quick=loss, slow=old, seen=jnp.ones(6, bool))
    change = np.where(usable, np.abs(loss - old), 0)  # 0.25 and 0.5 in bins 1 and 3
    wanted = 0.2 * usable / usable.sum() + 0.8 * change / change.sum()
    np.testing.assert_allclose(likely(state), wanted, rtol=1e-5)
    packed = many(sampler, 1, state=state)
    assert packed.shape == (1, 2, len(jax.tree.leaves(MENU)))


def test_shift_books_each_loss_to_the_bin_that_was_drawn() -> None:
    sampler = CASES["shift"]
    states, archs = history("shift")
    for before, after, drawn in zip(states[:-1], states[1:], archs, strict=True):
        which = np.searchsorted(TABLE.edges, np.asarray(MACS(drawn)), side="right") - 1
        which = np.clip(which, 0, 5)
        touched = np.asarray(after.quick != before.quick) | np.asarray(after.seen != before.seen)
        assert set(np.flatnonzero(touched)) <= set(which)
        assert np.asarray(after.seen)[which].all()
    assert int(states[-1].taken) == STEPS and sampler.n_random == 2


def test_a_generator_gives_archs_of_the_wanted_macs() -> None:
    """MACs that some arch has. The same tries of an untrained one, which draws by chance, miss some
    by far. Of few archs not every one is found among its tries."""
    packed = np.asarray(choices.pack(choices.sample(MENU, jax.random.key(2), (400,))))
    wanted = np.unique(np.asarray(MACS(choices.unpack(MENU, packed))))
    draw = jax.jit(jax.vmap(GENERATOR.draw, (None, 0, 0)))
    keys = jax.random.split(jax.random.key(4), len(wanted))

    def missed(params: Any) -> np.ndarray:
        archs = jax.device_get(draw(params, keys, jnp.asarray(wanted, jnp.float32)))
        return np.abs(np.asarray(MACS(archs)) / wanted - 1)

    trained = history("shift_generated")[0][0].generator
    found, by_chance = missed(trained), missed(jax.tree.map(jnp.zeros_like, trained))
    assert len(wanted) > 60 and TOLERANCE == 0.02
    assert (found <= 0.02).mean() > 0.95 and found.max() < 0.06
    assert (by_chance <= 0.02).mean() < 0.9 and by_chance.max() > 0.1
    archs = draw(trained, keys, jnp.full(len(keys), float(np.median(wanted))))
    assert len(np.unique(np.asarray(choices.pack(archs)), axis=0)) > 4


def test_preferred_archs_are_the_best_of_their_range() -> None:
    macs = np.asarray([10.0, 11, 12, 20, 21, 30, 39, 40])
    scores = np.asarray([1.0, 3, 2, 5, np.nan, 1, 2, 3])
    np.testing.assert_array_equal(select(macs, scores, bins=3, keep=2), [1, 2, 3, 4, 6, 7])
    np.testing.assert_array_equal(select(macs, scores, bins=3, keep=1), [1, 3, 7])
    drawn = many(CASES["preferred"], 300).reshape(-1, len(jax.tree.leaves(MENU)))
    ours = np.unique(np.asarray(choices.pack(SOME)), axis=0)
    found = np.unique(drawn, axis=0)
    np.testing.assert_array_equal(found, ours)


def test_tables_survive_the_disk_and_other_spaces_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "macs.json"
    path.write_text(json.dumps(dataclasses.asdict(TABLE)))
    read = macs_table.read(path)
    assert read == TABLE
    macs_table.check(read, SPACE)
    with pytest.raises(UserError, match="made of another space or is damaged: tiny with"):
        macs_table.check(read, config.SPACES["digits"].build(classes=10, input_channels=1))
    for text, said in (
        ("{", "is not a table of MACs, or was cut short"),
        ("[]", "not a table"),
        ("{}", "not a table"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            macs_table.read(path)


def test_a_table_is_of_its_first_archs(tmp_path: pathlib.Path) -> None:
    """The same archs come first, however many are wanted."""
    counted: list[int] = []
    small = macs_table.build(SPACE, bins=2, samples=10, advance=counted.append)
    again = macs_table.build(SPACE, bins=2, samples=10)
    assert small == again and sum(counted) == 10
    assert macs_table.build(SPACE, bins=2, samples=10, seed=1) != small
