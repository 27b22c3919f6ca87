"""Which results of a function an argument can change."""

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.runtime import dependence

Array = jax.Array
ONE = jax.ShapeDtypeStruct((3,), jnp.float32)


def test_results_of_the_last_argument() -> None:
    def function(weights: Array, x: Array) -> list[Array]:
        return [weights * 2, x + weights, weights, x, jnp.ones(2)]

    assert dependence.on_last(function, ONE, ONE) == [False, True, False, True, False]


def test_within_functions_that_are_jitted_or_chosen() -> None:
    both = jax.jit(lambda weights, x: (jnp.sin(weights), weights * x))

    def function(weights: Array, x: Array) -> list[Array]:
        chosen = jax.lax.cond(
            jnp.sum(weights) > 0, lambda w, x: (w, w * x), lambda w, x: (-w, x), weights, x
        )
        by_x = jax.lax.cond(jnp.sum(x) > 0, lambda w: w, lambda w: -w, weights)
        summed = jax.lax.fori_loop(0, 3, lambda i, c: (c[0] + 1, c[1] * 2), (weights, x))
        return [*both(weights, x), *chosen, by_x, summed[1]]

    found = dependence.on_last(function, ONE, ONE)
    assert found == [False, True, False, True, True, True]


def test_what_it_denies_does_not_change() -> None:
    """A gradient's residuals: those of the weights alone are the same for any input."""

    def residuals(weights: Array, x: Array) -> list[Array]:
        pull = jax.vjp(lambda w, x: jnp.tanh(x @ jnp.exp(w)) @ w.T, weights, x)[1]
        return jax.tree.leaves(pull)

    rng = np.random.default_rng(0)
    weights, *inputs = (rng.normal(size=(3, 3)).astype(np.float32) for _ in range(3))
    depends = dependence.on_last(residuals, weights, inputs[0])
    assert True in depends and False in depends
    one, other = (residuals(weights, x) for x in inputs)
    same = [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]
    assert same == [not d for d in depends]
