"""Values that live at once: known by hand in small programs, and what layers say of themselves."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr

from supernet_jax.nn import layers, liveness

N = 10  # of a square array


def traced(run: Callable[..., Any], *shapes: tuple[int, ...]) -> ClosedJaxpr:
    return jax.make_jaxpr(run)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))


def peak(run: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
    return liveness.largest(liveness.operations(traced(run, *shapes), len(shapes)))


def weights(*shape: int) -> jax.Array:
    return jnp.ones(shape)


def looped(x: jax.Array) -> jax.Array:
    def body(carry: jax.Array, _: Any) -> tuple[jax.Array, None]:
        return jnp.dot(jnp.dot(carry, weights(N, 3 * N)), weights(3 * N, N)), None

    return jax.lax.scan(body, x, length=4)[0]


def two_ways(x: jax.Array) -> jax.Array:
    return jax.lax.cond(
        x[0, 0] > 0,
        lambda x: jnp.dot(jnp.dot(x, weights(N, 5 * N)), weights(5 * N, N)),
        lambda x: jnp.dot(x, weights(N, N)),
        x,
    )


CASES: dict[str, tuple[Callable[..., Any], int]] = {
    "in place, one after the other": (lambda x: jnp.exp(x + 1), 100),
    "a product makes an array": (lambda x: jnp.dot(x, weights(N, 2 * N)), 300),
    "the input lives for the sum": (lambda x: x + jnp.dot(x, weights(N, N)), 200),
    "and until then": (
        lambda x: x + jnp.dot(jnp.dot(x, weights(N, 3 * N)), weights(3 * N, N)),
        500,
    ),
    "two equations, the operand lives": (lambda x: x * jax.lax.logistic(x), 200),
    "one function of the same": (nn.swish, 100),
    "another, of several": (nn.hard_swish, 100),
    "with a rule for its derivative": (nn.relu, 100),
    "a broadcast is read where it lies": (lambda x: x + jnp.sum(x, 0)[None], 110),
    "weights and what is made of them": (lambda x: x + jnp.exp(weights(N, N)) * 2, 100),
    "a transposition is": (lambda x: jnp.exp(x.T), 100),
    "but not read in two ways": (lambda x: x + x.T, 200),
    "a slice leaves the whole": (lambda x: jnp.exp(x[:5]) + jnp.exp(x[5:]), 200),
    "what is never read": (lambda x: (jnp.dot(x, weights(N, 9 * N)), x + 1)[1], 100),
    "a second result that nobody reads": (
        lambda x: jnp.dot(jax.lax.top_k(x, N)[0], weights(N, 5 * N)),
        100 + 500,
    ),
    "what is left lies by itself": (lambda x: x[:3], 130),
    "nothing to do": (lambda x: x, 100),
    # Its maxima and sums, of 10; the exponentials take the place of what they are of.
    "softmax": (jax.nn.softmax, 110),
    # The loop's result beside what goes in, and in its body three times that and a result.
    "a loop": (looped, 100 + 100 + 400),
    # And which of them it is.
    "the larger of two ways": (two_ways, 100 + 1 + 100 + 600),
}


@pytest.mark.parametrize("case", CASES)
def test_known_by_hand(case: str) -> None:
    run, wanted = CASES[case]
    assert peak(run, (N, N)) == wanted


def test_inputs_live_until_they_are_read() -> None:
    run = lambda x, y: jnp.dot(jnp.exp(x), weights(N, 4 * N)).sum() + y.sum()  # noqa: E731
    assert peak(run, (N, N), (N,)) == 100 + 10 + 400
    # Arguments before the inputs are weights.
    program = traced(run, (N, N), (N,))
    assert liveness.largest(liveness.operations(program, 1)) == 10 + 1


class Shifted(nn.Module):
    """A layer whose own program would make many arrays."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layers.Depthwise(3, name="depthwise")(x)
        y = layers.BatchNorm(swish=True, name="norm")(y)
        return x + layers.Pointwise(x.shape[-1], bias=True, name="mix")(y)


def test_layers_that_are_one_operation() -> None:
    """Input and output of the second convolution, and the input that is added."""
    program = liveness.program(Shifted(), [jax.ShapeDtypeStruct((1, 5, 5, 2), jnp.float32)])
    assert liveness.largest(liveness.operations(program, 1)) == 3 * 50


@pytest.mark.parametrize(
    "layer",
    [
        *(layers.Conv(7, 3), layers.Conv(4, 5, stride=2), layers.Pointwise(6, bias=True)),
        *(layers.Depthwise(3), layers.Depthwise(5, stride=2), layers.Dense(4)),
        *(layers.BatchNorm(swish=True), layers.LayerNorm(), layers.RMSNorm()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_layers_say_of_themselves(layer: Any) -> None:
    x = jax.ShapeDtypeStruct((1, 7, 5, 3), jnp.float32)
    made, _ = jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x), x)
    if isinstance(layer, liveness.HasMakes):
        assert layer.makes(x) == made.shape
    else:
        assert layer.in_place and made.shape == x.shape
