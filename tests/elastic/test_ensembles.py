"""Ensembles: twins are one subnet, members are subnets of the space, and the trunk counts once."""

import dataclasses
import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import every_arch, largest_difference, random_inputs, random_params
from tiny_space import cells, parted, parted_members, tiny, tokens

from supernet_jax import searching
from supernet_jax.elastic import choices, elastic_block, ensembles, shared_params, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.ensembles import ensemble
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.searching import Budget, Costs
from supernet_jax.tasks import ImageClassification

SIZE = 6
NAMES = tuple(elastic_space.geometry(parted_members(), SIZE))  # stem, two blocks, head


@functools.cache
def given() -> tuple[Any, Any]:
    """Parameters, which are those of the members' own space, and images."""
    return random_params(parted()), random_inputs(parted(), SIZE, 4)


@functools.cache
def program(whole: bool) -> Any:
    """`archs [N] -> logits [N, B, K]`, of ensembles or of subnets alone."""
    space = parted() if whole else parted_members()
    params, images = given()

    def run(arch: Any) -> Any:
        return strategies.masked(space, params, arch, images, size=SIZE).logits

    return jax.jit(lambda archs: jax.lax.map(run, archs))


def drawn(count: int, seed: int = 0) -> Any:
    archs = choices.sample(parted().menu, jax.random.key(seed), (count,))
    return jax.tree.map(np.asarray, parted().at_size(archs, np.zeros(count, np.int32)))


def of_member(archs: Any, member: int) -> Any:
    """The subnets of the space that members are."""
    return ensembles.alone(parted(), archs, member)["members"][0]


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    """Which are subnets of the space, with all decisions of the trunk as the first one's."""
    archs = drawn(24)
    together = program(True)(archs)
    each = [np.asarray(program(False)(of_member(archs, k))) for k in (1, 2)]
    assert largest_difference(together, np.mean(each, axis=0)) < 1e-6
    differ = np.abs(each[0] - each[1]).max((1, 2)) > 0.01
    shared = parted().menu["split"].values
    all_shared = np.asarray(shared)[archs["split"]] == len(NAMES)
    assert differ.sum() >= 5 and not differ[all_shared].any()


def test_twins_are_one_subnet() -> None:
    """Wherever they part; and where they do not, at its price."""
    space, archs = parted(), drawn(3, seed=1)
    for split in range(len(NAMES)):
        twins = {"members": [of_member(archs, 1), archs["members"][1]], "split": archs["split"]}
        first = twins["members"][0]
        twins["members"][1] = {name: first[name] for name in twins["members"][1]}
        twins["split"] = np.full_like(archs["split"], split)
        made, one = program(True)(twins), program(False)(first)
        assert largest_difference(made, one) < 1e-6
        whole, alone = costs.macs(space)(twins), costs.macs(parted_members())(first)
        assert np.all(whole == alone) if split == len(NAMES) - 1 else np.all(whole > alone)
        np.testing.assert_array_equal(costs.macs(space)(ensembles.alone(space, twins, 2)), alone)


def test_the_trunk_counts_once() -> None:
    """In every ensemble of 500: MACs and parameters block by block, by hand."""
    space, inner, archs = parted(), parted_members(), drawn(500, seed=2)
    split = np.asarray(space.menu["split"].values)[archs["split"]]
    wanted, lists = np.zeros(500, np.int64), elastic_space.geometry(inner, SIZE)
    for k in (1, 2):
        for i, name in enumerate(NAMES):
            place, subnets = lists[name], choices.unstack(of_member(archs, k))
            for n, subnet in enumerate(subnets):
                spec = place.block.spec(subnet)
                if spec is not None and (k == 1 or i >= split[n]):
                    wanted[n] += elastic_block.shapes(place.block, spec, place.inputs).macs
    np.testing.assert_array_equal(costs.macs(space)(archs), wanted)
    assert len(set(wanted)) > 50


def test_equal_ensembles_are_equal_archs() -> None:
    """Members' decisions in the trunk, and all of them where nothing is parted, change nothing."""
    space, archs = parted(), drawn(40, seed=3)
    rows = ensembles.decisions(space, archs)
    paths = ensembles.parts(space).paths
    for i, path in enumerate(paths):
        other = choices.replace(archs, ("members", 1, *path), rows[:, 1, i])
        once, again = elastic_space.normal(space, archs), elastic_space.normal(space, other)
        jax.tree.map(np.testing.assert_array_equal, once, again)
    assert elastic_space.identity(space, SIZE, archs).shape == (40, len(space.blocks) + 1)


def test_a_chain_whose_shared_weights_are_wider_than_any_arch() -> None:
    space = ensemble(tokens())
    arch = {**choices.largest(space.menu), "split": np.int32(0)}
    arch["members"][1]["depth"] = np.int32(0)
    params, images = random_params(space), random_inputs(space, SIZE, 2)
    own, other = (
        jax.jit(functools.partial(run, space, arch=arch, size=SIZE))(params, inputs=images).logits
        for run in (strategies.sliced, strategies.masked)
    )
    assert largest_difference(own, other) < 1e-5


def test_members_with_weights_of_their_own() -> None:
    space = ensemble(parted_members(), members=3, splits=(2, 4), weights="own")
    shapes = shared_params.parameter_shapes(space)
    names = {name for name, tree in shapes.items() if tree}
    later = ("stage1_block2", "head")
    assert names == {*NAMES, *(f"member{k}_{name}" for k in (2, 3) for name in later)}
    arch = choices.smallest(space.menu)
    alike = jax.jit(lambda p, x: strategies.sliced(space, p, arch, x, size=SIZE).logits)
    params = shared_params.init(space, jax.random.key(0))
    images = given()[1]
    whole = alike(params, images)
    one = {**params, **{f"member{k}_{name}": params[name] for k in (2, 3) for name in later}}
    assert largest_difference(whole, alike(one, images)) > 0.01
    with pytest.raises(UserError, match=r'have weights of their own.*weights="shared"'):
        ensembles.alone(space, arch, 1)


def test_decisions_of_depth_are_written() -> None:
    """Those of a further member too, whose depth may be the trunk's."""
    first, second = parted().menu["members"]
    assert "resolution" in first and "resolution" not in second
    assert parted().static == (("members", 0, "resolution"),)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ensemble(tiny(), members=1), "has 1 members, must have 2 or more"),
        (lambda: ensemble(tiny(), splits=(1, 7)), "share 7 blocks, but the space tiny has 6; give"),
        (lambda: ensemble(cells()), "do not run one after another, so that ensembles of it have"),
        (lambda: ensemble(parted()), "do not run one after another"),
        (lambda: ensembles.parts(tiny()), "is none of ensembles; make one of it, as space=sj.sp"),
        (
            lambda: ensembles.alone(ensemble(tiny(), splits=(2,)), None, 1),
            "share at most 2 of their 6 blocks; have 6 among its splits",
        ),
    ],
)
def test_what_is_no_ensemble(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        make()


# ---- a planted pair


@dataclasses.dataclass(frozen=True)
class PlainSpec:
    """Channels."""

    c_in: int


class Same(nn.Module):
    """What comes in."""

    spec: PlainSpec

    def __call__(self, x: Any) -> Any:
        return x


class Expert(nn.Module):
    """Logits of an image's only pixel."""

    spec: PlainSpec

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(4, use_bias=False)(x[:, 0, 0])


def half(*classes: int) -> np.ndarray:
    """What an expert says of the four classes that knows these, and not the others."""
    known = np.isin(np.arange(4), classes)
    wrong = np.eye(4)[[classes[0]] * 4]
    return np.where(known[:, None], 5 * np.eye(4), wrong)


ALMOST = 3 * np.eye(4) + np.diag([0, 0, 0, -3])
ALMOST[3, 0] = 12  # of the last class it is surer than any other is right
EXPERTS = [half(0, 1), half(0), half(2, 3), half(1), half(2), half(0, 2), half(3), ALMOST]
PAIR, BEST = {0, 2}, 7


@functools.cache
def experts() -> tuple[Space, Any]:
    """Ensembles of two experts, or one alone, and planted parameters."""
    menu = {"resolution": Choice((1,)), "expert": Choice(tuple(range(len(EXPERTS))))}
    options = {f"expert{i}": (Expert, PlainSpec(4)) for i in range(len(EXPERTS))}
    blocks = {
        "pixel": elastic_block.elastic(Same, lambda: PlainSpec(4), menu=menu),
        "expert": choice_block(options, menu=menu, decision=("expert",), channels=(4,)),
    }
    space = ensemble(
        Space(
            "experts",
            menu,
            blocks,
            strategies.chain(tuple(blocks)),
            ImageClassification(4, 4),
            static=(("resolution",),),
        )
    )
    params = {"pixel": {}, "expert": {}}
    for i, table in enumerate(EXPERTS):
        params["expert"][f"expert{i}"] = {"Dense_0": {"kernel": jnp.float32(table)}}
    return space, params


@functools.cache
def accuracies() -> Any:
    """`archs [N] -> [N]`, on an image of each class."""
    space, params = experts()
    images = jnp.eye(4).reshape(4, 1, 1, 4)

    def one(arch: Any) -> Any:
        logits = strategies.masked(space, params, arch, images, size=1).logits
        return space.task.value(space.task.score(logits, jnp.arange(4)))

    run = jax.jit(lambda archs: jax.lax.map(one, archs))
    return lambda archs: np.asarray(run(archs))


def test_a_pair_that_knows_halves_beats_twins_of_the_best() -> None:
    space, _ = experts()
    menu, macs = space.menu, costs.macs(space)
    every = choices.stack(every_arch(menu))
    found = accuracies()(every)
    split = np.asarray(menu["split"].values)[every["split"]]
    rows = ensembles.decisions(space, every)[..., 0]  # [N, K]
    twins = (rows[:, 0] == rows[:, 1]) | (split == 2)
    assert found[twins].max() == 0.75 and set(rows[twins & (found == 0.75)].ravel()) == {BEST}
    best = np.flatnonzero(found == found.max())
    assert found.max() == 1 and {frozenset(row) for row in rows[best].tolist()} == {frozenset(PAIR)}
    pair, alone = macs(every)[best[0]], macs(every)[twins & (split == 2)]
    assert pair == 2 * alone.max() == 2 * 16

    limits = Costs((macs,), (Budget(0, pair),), (0,))
    searches = [searched(limits, seed=seed, evaluations=32) for seed in range(4)]  # of 72 networks
    assert sum(history.scores.max() == 1 for history in searches) >= 3
    # For one expert's price there is no pair, and the best is the one that knows most.
    cheap = dataclasses.replace(limits, budgets=(Budget(0, pair - 1),))
    one = searched(cheap, seed=0, evaluations=32)
    assert one.scores.max() == 0.75 and len(one.archs) == len(EXPERTS)


def searched(limits: Costs, *, seed: int, evaluations: int) -> searching.History:
    part = searching.Evolution(population=16, mutations=8, crossovers=8, mutation_rate=0.5)
    return searching.run(
        part.build(experts()[0], limits),
        accuracies(),
        costs=limits,
        key=jax.random.key(seed),
        evaluations=evaluations,
    )
