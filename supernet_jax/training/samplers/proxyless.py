"""Differentiable search that runs two paths at a time (ProxylessNAS).

Shape letters: `O` options of a decision.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.elastic import decision_groups
from supernet_jax.elastic.choices import Arch, Array, Code, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.evaluation import costs
from supernet_jax.training.samplers import architecture
from supernet_jax.training.samplers.architecture import AlphaState
from supernet_jax.training.samplers.sampler import CodeScore, Sampler, Score


def proxyless(
    space: Space,
    *,
    learning_rate: float = 1e-3,
    cost: Callable[[Code], Array] | None = None,
) -> Sampler:
    """ProxylessNAS (Cai et al. 2019, arXiv 1812.00332), by gradients.

    Alpha learns on a second batch: of each decision two options are drawn without replacement, one
    of them is active, and only these two run (section 3.2.1). Alpha gets `gradient`, Adam takes a
    step, and the two logits are shifted so that all other options stay as likely as they were. Then
    weights train on one path, an arch drawn from `softmax(alpha)` (equation 2).

    Where several decisions make one block, as its kernel and its expansion, two paths cannot tell
    what each of them does. So decisions are dealt into groups of which no two meet in a block,
    and in each step one group learns, while of the others one option is drawn. In a space of choice
    blocks there is a single group, as in the paper.

    Args:
        space: what may be chosen.
        learning_rate: of alpha, by Adam without momentum, as in the published code.
        cost: `code -> []`, added to the loss, as `costs.expected(cost)` times a weight (equations 6
            to 8); None for none.
    """
    menu = space.menu
    optimizer = optax.adam(learning_rate, b1=0.0, b2=0.999)
    table = decision_groups.groups(space)

    def sample(state: AlphaState, key: Array, step: Array, score: Score) -> Arch:
        return architecture.drawn(key, architecture.probabilities(state.alpha), (1,))

    def learn(
        state: AlphaState, key: Array, step: Array, score: CodeScore
    ) -> tuple[AlphaState, Array]:
        which_key, pairs_key = jax.random.split(key)
        own = jnp.asarray(table)[jax.random.randint(which_key, (), 0, len(table))]
        learns = jax.tree.unflatten(jax.tree.structure(menu), list(own))
        pairs = drawn_pairs(pairs_key, state.alpha, learns)
        loss, slope = gradient(state.alpha, pairs, learns, score, cost)
        updates, kept = optimizer.update(slope, state.optimizer, state.alpha)
        moved = optax.apply_updates(state.alpha, updates)
        return AlphaState(rescaled(state.alpha, moved, pairs, learns), kept), loss

    return architecture.searching(menu, optimizer, sample=sample, learn=learn, role="path")


def drawn_pairs(key: Array, alpha: Code, learns: Any) -> Arch:
    """The active option of each decision, and the other one of two: int32 `[2]`.

    Two are drawn without replacement by `softmax(alpha)`, and the active one by the softmax of the
    two. A decision that does not learn has its active option twice.

    Args:
        key: consumed.
        alpha: logits, `[O]`.
        learns: bool `[]` for each decision.
    """
    leaves, treedef = jax.tree.flatten(alpha)

    def one(key: Array, logits: Array, learns: Array) -> Array:
        if len(logits) == 1:
            return jnp.zeros(2, jnp.int32)
        first, second = jax.random.split(key)
        # The largest of logits with Gumbel noise are a draw without replacement.
        two = jax.lax.top_k(logits + jax.random.gumbel(first, logits.shape), 2)[1]
        active = jax.random.categorical(second, logits[two])
        return jnp.stack([two[active], jnp.where(learns, two[1 - active], two[active])])

    each = zip(jax.random.split(key, len(leaves)), leaves, jax.tree.leaves(learns), strict=True)
    return jax.tree.unflatten(treedef, [one(*own) for own in each])


def gradient(
    alpha: Code,
    pairs: Arch,
    learns: Any,
    score: CodeScore,
    cost: Callable[[Code], Array] | None = None,
) -> tuple[Array, Code]:
    """The loss of the active path, and the gradient for alpha (equation 4).

    With gates `g` of 1 for the active option and 0 for the others, and with `p` the softmax of the
    two logits alone, `dL/dalpha_i = sum_j dL/dg_j p_j ((i == j) - p_i)`, i and j over the two. A
    cost is that of the code `p`, in decisions that do not learn of all options' probabilities.

    Args:
        alpha: logits, `[O]`.
        pairs: as `drawn_pairs` gives them.
        learns: bool `[]` for each decision.
        score: the loss of a code.
        cost: added to the loss, but not to the one that is returned.
    """
    gates = jax.tree.map(lambda logits, two: jax.nn.one_hot(two[0], len(logits)), alpha, pairs)
    loss, slope = jax.value_and_grad(lambda gates: score(gates, paths=pairs))(gates)

    def shares(alpha: Code) -> Code:
        def one(logits: Array, two: Array, learns: Array) -> Array:
            of_two = jnp.zeros_like(logits).at[two].set(jax.nn.softmax(logits[two]))
            return jnp.where(learns, of_two, jax.lax.stop_gradient(jax.nn.softmax(logits)))

        return jax.tree.map(one, alpha, pairs, learns)

    code, back = jax.vjp(shares, alpha)
    if cost is not None:
        slope = jax.tree.map(jnp.add, slope, jax.grad(cost)(code))
    return loss, back(slope)[0]


def rescaled(before: Code, after: Code, pairs: Arch, learns: Any) -> Code:
    """New logits whose two options are together as likely as they were, so that all others are.

    Args:
        before: logits, `[O]`.
        after: the same with the two of `pairs` moved.
        pairs: as `drawn_pairs` gives them.
        learns: bool `[]` for each decision.
    """

    def one(before: Array, after: Array, two: Array, learns: Array) -> Array:
        new, old = (jax.nn.logsumexp(logits[two]) for logits in (after, before))
        return jnp.where(learns, after.at[two].add(old - new), before)

    return jax.tree.map(one, before, after, pairs, learns)


@dataclasses.dataclass(frozen=True)
class ProxylessNAS:
    """Two paths at a time, whose probabilities learn by gradients (ProxylessNAS)."""

    learning_rate: float = 1e-3
    """of the probabilities, by Adam; more decides sooner"""
    weight: float = 0.0
    """of the expected cost, as a share of the largest subnet's; more gives cheaper subnets"""
    cost: Any = dataclasses.field(default_factory=costs.Macs)
    """which cost is lowered: a part, as Macs() or Latency(table)"""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        architecture.require_positive("learning-rate", self.learning_rate)
        require(
            0 <= self.weight < float("inf"),
            f"sampler.weight is {self.weight}, must be at least 0 and finite",
        )
        return proxyless(space, learning_rate=self.learning_rate, cost=self._expected(space))

    def _expected(self, space: Space) -> Callable[[Code], Array] | None:
        """The weighted cost of a code, 1 times the weight for the largest arch."""
        if self.weight == 0:
            return None
        require(
            hasattr(self.cost, "build"),
            f"sampler.cost is {self.cost!r}; give a part that builds a cost, as sj.costs.Macs()",
        )
        cost = self.cost.build(space)
        expected = costs.expected(cost)
        scale = self.weight / costs.span(space, cost)[1]
        return lambda code: scale * expected(space.at_size(code, len(space.sizes) - 1))
