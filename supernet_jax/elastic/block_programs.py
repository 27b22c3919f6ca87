"""Compiled programs of single blocks: one for each kind of block and size of input.

They take and give flat lists of arrays, which is quicker than trees.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.runtime import dependence, hardware, sharding

AGAIN = -1  # in place of an argument: a residual that the backward pass makes again


class Results(NamedTuple):
    """What a program makes, forwards.

    Attributes:
        outputs: its values.
        moments: statistics of the batch, where they are wanted.
    """

    outputs: list[Array]
    moments: Tree


class Places(NamedTuple):
    """Where arrays lie on a mesh.

    Attributes:
        values: inputs and whatever is made of them.
        whole: what every device has all of.
        weights: each of the weights, and the sum of its gradients.
    """

    values: Any
    whole: Any
    weights: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """A program that is wanted; equal requests are for the same program.

    Attributes:
        key: what `function` does, for those that are equal.
        inputs: shape and dtype of each of its inputs.
        learned: for each input, whether its gradient is wanted.
        outputs: how many there are.
        gradient: whether there is a backward pass.
        remat: whether the backward pass computes the forward pass again, instead of what that has
            kept.
        places: where arrays lie; None for one device.
        function: `(weights, given, inputs) -> Results`, of flat lists of arrays.
        weights: shape and dtype of each.
        given: shape and dtype of what else it is given, which has no gradient.
    """

    key: Hashable
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    learned: tuple[bool, ...]
    outputs: int = 1
    gradient: bool = True
    remat: bool = False
    places: Places | None = None
    function: Callable[[list[Array], list[Array], list[Array]], Results] = dataclasses.field(
        compare=False, kw_only=True
    )
    weights: list[Any] = dataclasses.field(compare=False, default_factory=list)
    given: list[Any] = dataclasses.field(compare=False, default_factory=list)

    def compiled(self) -> "Program":
        """Traces and compiles it."""
        places, weights, given, inputs = self.places, self.weights, self.given, self.inputs
        arguments = list(weights), list(given), list(inputs)
        if places is not None:
            weights = [_at(w, place) for w, place in zip(weights, places.weights, strict=True)]
            arguments = (
                weights,
                [_at(x, places.whole) for x in given],
                [_at(x, places.values) for x in inputs],
            )
        made = None
        if places is not None:
            made = Results([places.values] * self.outputs, places.whole), None
        is_split = places is not None and sharding.any_split(places.weights)
        pull_tree: Any = None
        sources: list[int | None] = []  # for each residual, which argument it is

        def linearized(weights: Any, given: Any, inputs: Any) -> tuple[Results, Any]:
            learned = [x for x, is_learned in zip(inputs, self.learned, strict=True) if is_learned]

            def run(weights: Any, learned: Any) -> tuple[list[Array], Results]:
                rest = iter(learned)
                each = zip(inputs, self.learned, strict=True)
                results = self.function(
                    weights, given, [next(rest) if has_gradient else x for x, has_gradient in each]
                )
                return results.outputs, results

            _, pull, results = jax.vjp(run, weights, learned, has_aux=True)
            return results, pull

        def residuals(weights: Any, given: Any, inputs: Any) -> list[Array]:
            return jax.tree.leaves(linearized(weights, given, inputs)[1])

        def forward(weights: Any, given: Any, inputs: Any) -> tuple[Results, list[Array]]:
            nonlocal pull_tree, sources
            if self.remat or not self.gradient:
                return self.function(weights, given, inputs), []
            results, pull = linearized(weights, given, inputs)
            leaves, pull_tree = jax.tree.flatten(pull)
            # What is an argument would be copied if it were returned.
            known = {id(x): i for i, x in enumerate([*weights, *given, *inputs])}
            sources = [known.get(id(leaf)) for leaf in leaves]
            if is_split:
                # Kept, the gathered weights of one block after the other would come to all.
                own = dependence.on_last(residuals, *arguments)
                sources = [s if is_own else AGAIN for s, is_own in zip(sources, own, strict=True)]
            return results, [x for x, source in zip(leaves, sources, strict=True) if source is None]

        def backward(
            weights: Any, given: Any, inputs: Any, kept: Any, gradients: Any, sums: Any
        ) -> tuple[list[Array], list[Array]]:
            if self.remat:
                _, pull = linearized(weights, given, inputs)
            else:
                each, rest = [*weights, *given, *inputs], iter(kept)
                made = residuals(weights, given, inputs) if is_split else [None] * len(sources)
                leaves = [
                    next(rest) if source is None else again if source == AGAIN else each[source]
                    for source, again in zip(sources, made, strict=True)
                ]
                pull = jax.tree.unflatten(pull_tree, leaves)
            of_weights, of_inputs = pull(gradients)
            return [jax.lax.add(s, g) for s, g in zip(sums, of_weights, strict=True)], of_inputs

        lowered = jax.jit(forward, out_shardings=made).lower(*arguments)
        options = hardware.many_small() | (hardware.least_memory() if is_split else {})
        run = lowered.compile(options)
        if not self.gradient:
            return Program(run, None)
        results, kept = lowered.out_info
        given_back = [kept, results.outputs]
        if places is not None:
            shardings = run.output_shardings
            given_back = [shardings[1], shardings[0].outputs]
            given_back = jax.tree.map(_at, [kept, results.outputs], given_back)
        sums = None if places is None else (list(places.weights), places.values)
        back = jax.jit(backward, donate_argnums=5, out_shardings=sums)
        back_run = back.lower(*arguments, *given_back, weights).compile(options)
        planned = [made.memory_analysis() for made in (run, back_run)]
        temporary = max(0 if plan is None else plan.temp_size_in_bytes for plan in planned)
        return Program(run, back_run, sum(map(_bytes, jax.tree.leaves(given_back))), temporary)


class Program(NamedTuple):
    """A compiled pair.

    Attributes:
        forward: `(weights, given, inputs) -> (Results, kept)`.
        backward: `(weights, given, inputs, kept, gradients of outputs, sums) -> (sums, gradients of
            the inputs that are learned)`; `sums`, to which the gradients of the weights are added,
            are donated. None without a gradient.
        kept_bytes: on a device, of what a forward pass makes and the backward pass needs.
        temporary_bytes: on a device, of what is needed while either runs; 0 where the backend does
            not tell.
    """

    forward: Callable[..., tuple[Results, list[Array]]]
    backward: Callable[..., tuple[list[Array], list[Array]]] | None
    kept_bytes: int = 0
    temporary_bytes: int = 0


def _at(x: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize
