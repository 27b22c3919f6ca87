"""Maestro: ordered dropout finds the singular value decomposition, the lasso the true rank."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from theorem import check_of
from tiny_space import factored

from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import extract
from supernet_jax.spaces.maestro import MaestroMlp, maestro_mlp, needed_ranks
from supernet_jax.tasks import Metric
from supernet_jax.training import samplers, train_step
from supernet_jax.training.optimizers.group_lasso import GroupLasso, group_lasso, shrunk
from supernet_jax.training.optimizers.sgd import Sgd
from supernet_jax.training.recipe import Batch, Recipe

INPUTS, OUTPUTS = 6, 4
SINGULAR = (2.0, 1.4, 0.9, 0.5)


@dataclasses.dataclass(frozen=True)
class Regression:
    """Numbers `[B, INPUTS]` to numbers `[B, OUTPUTS]`, by squared errors."""

    name = "regression"
    metric = Metric("error", higher_is_better=False)
    guess = 1e3

    def inputs(self, size: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, INPUTS), jnp.float32)

    def fit(self, inputs: Any, size: Any) -> Any:
        return inputs

    def score(self, outputs: Any, targets: Any) -> Any:
        return {"loss": jnp.sum(jnp.square(outputs - targets), -1)}

    def value(self, scores: Any) -> Any:
        return scores["loss"].mean()


def squared(student: Any, teacher: Any, features: Any, targets: Any, role: str) -> Any:
    return jnp.mean(jnp.sum(jnp.square(student - targets), -1))


def linear() -> Space:
    """One layer, of any rank."""
    sizes = {"outputs": OUTPUTS, "input_channels": INPUTS}
    return maestro_mlp("linear", resolution=1, hidden=(), task=Regression(), **sizes)


def planted(singular: tuple[float, ...]) -> np.ndarray:
    """A map with these singular values, `[INPUTS, OUTPUTS]`."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(INPUTS, OUTPUTS)))
    right, _ = np.linalg.qr(rng.normal(size=(OUTPUTS, OUTPUTS)))
    return left * np.asarray(singular) @ right


def in_the_ball(count: int) -> np.ndarray:
    """Points uniform in the unit ball and their opposites. Their second moments are brought to
    those of the ball, 1 / (d + 2) on each axis, so that a test needs no more of them.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, INPUTS))
    x *= rng.uniform(size=(count, 1)) ** (1 / INPUTS) / np.linalg.norm(x, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(x.T @ x / count)
    x = x @ (vectors * (values * (INPUTS + 2)) ** -0.5) @ vectors.T
    return np.concatenate([x, -x]).astype(np.float32)


def trained(matrix: np.ndarray, sampler: Any, optimizer: Any, steps: int) -> tuple[Space, Any]:
    """By the library's own step."""
    space, x = linear(), in_the_ball(32)
    recipe = Recipe(
        space=space,
        sampler=sampler(space.menu),
        loss=squared,
        optimizer=optimizer,
        augment=lambda inputs, key, ids: inputs,
    )
    state, step = train_step.create(recipe), train_step.Step(recipe)
    batch = Batch(x, (x @ matrix).astype(np.float32), np.arange(len(x), dtype=np.int32))
    for i in range(steps):
        state, _ = step(state, batch, sizes=train_step.step_sizes(recipe, step=i))
    return space, jax.device_get(state.params)


def products(params: Any) -> list[np.ndarray]:
    """The matrix of each rank's subnet."""
    down, up = params["layer1"]["down"]["kernel"], params["layer1"]["up"]["kernel"]
    return [down[:, :r] @ up[:r] for r in range(1, OUTPUTS + 1)]


def furthest(params: Any, matrix: np.ndarray) -> float:
    """Of each rank's subnet, the distance from the best matrix of that rank; by the smallest
    singular value.
    """
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    best = [u[:, :r] * s[:r] @ v[:r] for r in range(1, OUTPUTS + 1)]
    each = [np.linalg.norm(a - b, 2) for a, b in zip(products(params), best, strict=True)]
    return max(each) / SINGULAR[-1]


def test_ordered_dropout_recovers_the_singular_value_decomposition() -> None:
    matrix, momentum = planted(SINGULAR), optax.sgd(0.1, momentum=0.9)
    every = lambda menu: samplers.ordered_dropout(menu, n_random=OUTPUTS, full=False)  # noqa: E731
    _, params = trained(matrix, every, momentum, 1000)
    assert furthest(params, matrix) < 0.01
    # The largest alone learns the map as well, and its leading ranks are no best ones.
    alone = lambda menu: samplers.uniform(menu)._replace(  # noqa: E731
        fixed=(choices.largest(menu),), n_random=0
    )
    _, params = trained(matrix, alone, momentum, 1000)
    np.testing.assert_allclose(products(params)[-1], matrix, atol=1e-3)
    assert furthest(params, matrix) > 1


def test_the_lasso_leaves_the_true_rank() -> None:
    """A map of rank 2: what is above it becomes zero, exactly, and what is within does not."""
    matrix = planted((2.0, 1.4, 0.0, 0.0))
    ordered = samplers.ordered_dropout
    for weight, wanted in ((1e-2, 2), (0.0, OUTPUTS)):
        sgd = optax.sgd(0.1, momentum=0.9)
        optimizer = optax.chain(sgd, group_lasso(0.1, weight=weight))
        space, params = trained(matrix, ordered, optimizer, 500)
        down, up = params["layer1"]["down"]["kernel"], params["layer1"]["up"]["kernel"]
        alive = np.any(down, 0) & np.any(up, 1)
        assert alive.tolist() == [r < wanted for r in range(OUTPUTS)]
        assert int(needed_ranks(space, params)["rank"][0]) == wanted - 1
    # Shrinking costs little: 2 percent of the map.
    assert np.linalg.norm(products(params)[-1] - matrix, 2) < 0.05


# --- the proximal step --------------------------------------------------------------------------


def penalty(rows: np.ndarray) -> float:
    return float(sum(np.linalg.norm(rows[k:]) for k in range(len(rows))))


@pytest.mark.parametrize(("shape", "axis"), [((3, 5), -1), ((5, 3), 0), ((2, 4, 5), 2)])
def test_the_proximal_step(shape: tuple[int, ...], axis: int) -> None:
    """It is that of one group after the other, and no point near has a lower objective."""
    rng = np.random.default_rng(0)
    for by in (0.0, 0.2, 0.6, 5.0):
        factor = rng.normal(size=shape)
        rows = np.moveaxis(factor, axis, 0).reshape(shape[axis], -1)
        wanted = rows.copy()
        for k in reversed(range(len(rows))):
            norm = np.linalg.norm(wanted[k:])
            wanted[k:] *= max(1 - by / norm, 0) if norm else 0
        found = np.moveaxis(np.asarray(shrunk(jnp.asarray(factor), axis, by)), axis, 0)
        found = found.reshape(rows.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert np.array_equal(found == 0, wanted == 0)

        def objective(at: np.ndarray, rows: np.ndarray = rows, by: float = by) -> float:
            return float(np.sum((at - rows) ** 2) / 2 + by * penalty(at))

        for size in (1e-2, 0.1, 1.0):
            moved = found + size * rng.normal(size=rows.shape)
            assert objective(moved) > objective(found) - 1e-5
    assert not found.any()  # by more than there is


def test_the_lasso_follows_any_optimiser() -> None:
    """Its step is that of the inner one, then the proximal one at the same rate, but of biases."""
    inner = Sgd(momentum=0.0, weight_decay=0.0, warmup=0.0, clip=10.0)
    part = GroupLasso(inner=inner, weight=0.5)
    whole, rate = part.build(steps=10), part.schedule(steps=10)(0)
    rng = np.random.default_rng(0)
    layer = {"down": {"kernel": (3, 2)}, "up": {"kernel": (2, 4), "bias": (4,)}}
    draw = lambda shape: jnp.float32(rng.normal(size=shape))  # noqa: E731
    params, gradients = (
        jax.tree.map(draw, {"a": layer}, is_leaf=lambda x: isinstance(x, tuple)) for _ in range(2)
    )
    updates, _ = whole.update(gradients, whole.init(params), params)
    found = optax.apply_updates(params, updates)["a"]
    plain = jax.tree.map(lambda p, g: p - rate * g, params, gradients)["a"]
    np.testing.assert_allclose(found["up"]["bias"], plain["up"]["bias"], rtol=1e-6)
    for name, axis in (("down", 1), ("up", 0)):
        wanted = shrunk(plain[name]["kernel"], axis, 0.5 * rate)
        np.testing.assert_allclose(found[name]["kernel"], wanted, rtol=1e-5)
    for wrong, said in (
        (GroupLasso(weight=-1.0), "optimizer.weight is -1.0, but must be at least 0"),
        (GroupLasso(inner=3), "optimizer.inner is 3; give a part that is an optimiser"),
    ):
        with pytest.raises(UserError, match=said):
            wrong.build(steps=10)


# --- what it draws ------------------------------------------------------------------------------


def test_one_layer_at_a_time() -> None:
    menu = MaestroMlp(hidden=(6,), ranks=(1, 2, 4)).build(classes=3).menu
    pairs = [(0, o) for o in range(4)] + [(1, o) for o in range(3)]
    most = [3, 2]
    made = samplers.ordered_dropout(menu, n_random=9)
    assert [int(o) for o in made.fixed[0]["rank"]] == most
    for step in range(4):
        archs = made.sample((), jax.random.key(step), jnp.int32(step), lambda arch: arch)
        rows = np.stack([np.asarray(column) for column in archs["rank"]], 1).tolist()
        wanted = [[o if i == layer else most[i] for i in range(2)] for layer, o in pairs]
        assert sorted(rows[:7]) == sorted(wanted) and all(row in wanted for row in rows)
    with pytest.raises(UserError, match="decision is 'width', but the menu has rank, resolution"):
        samplers.ordered_dropout(menu, decision="width")


# --- what is taken out --------------------------------------------------------------------------


def test_two_factors_or_their_product_whichever_is_smaller() -> None:
    check = check_of(factored, size=2)
    space = check.space  # layers of 8 x 6 and 6 x 5
    for ranks, forms in (((0, 0), (2, 2)), ((3, 2), (1, 1)), ((1, 2), (2, 1)), ((3, 1), (1, 2))):
        arch = choices.smallest(space.menu)
        for i, option in enumerate(ranks):
            arch = choices.replace(arch, ("rank", i), np.int32(option))
        made, variables = extract.extract(space, check.params, arch, None)
        layers = [variables["params"][f"layer{i}"] for i in (1, 2)]
        assert tuple(map(len, layers)) == forms
        assert extract.prove(space, check.params, arch, None, made, variables, check.images) < 1e-5
        # Costs are those of the network that is taken out.
        leaves = jax.tree.leaves(variables)
        assert int(costs.parameters(space)(arch)) == sum(leaf.size for leaf in leaves)
        kernels = [leaf.size for leaf in leaves if leaf.ndim == 2]
        assert int(costs.macs(space)(arch)) == sum(kernels)
    # Rank 3 of 8 x 6: two factors of 42 numbers, or 48. Rank 4 would be 56.
    values = space.menu["rank"][0].values
    for option, numbers in ((values.index(3), 42), (values.index(4), 48)):
        arch = choices.replace(arch, ("rank", 0), np.int32(option))
        kernels = extract.extract(space, check.params, arch, None)[1]["params"]["layer1"]
        assert sum(layer["kernel"].size for layer in kernels.values()) == numbers


def test_another_product_is_refused() -> None:
    check = check_of(factored, size=2)
    arch = choices.largest(check.space.menu)
    made, variables = extract.extract(check.space, check.params, arch, None)
    variables = jax.tree.map(lambda leaf: 1.001 * leaf, variables)
    with pytest.raises(UserError, match="the extracted network is not the subnet"):
        extract.prove(check.space, check.params, arch, None, made, variables, check.images)


# --- what cannot be -----------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no rank": ({"ranks": (0, 4)}, "space.ranks has 0; a rank is at least 1 and at most"),
    "rank": ({"ranks": (4, 65)}, "space.ranks has 65; .* of this space are 64, 64, 10"),
    "hidden": ({"hidden": (8, 0)}, r"space.hidden is \(8, 0\); give 1 or more each"),
    "resolution": ({"resolution": 0}, "space.resolution is 0; give 1 or more"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_cannot_be(case: str) -> None:
    changes, said = WRONG[case]
    with pytest.raises(UserError, match=said):
        MaestroMlp(**changes).build()
