"""Differentiable search by a mixture of all options (DARTS)."""

import dataclasses

import optax

from supernet_jax.elastic.choices import Array, Code, Menu
from supernet_jax.errors import require
from supernet_jax.training.samplers import architecture
from supernet_jax.training.samplers.architecture import AlphaState
from supernet_jax.training.samplers.sampler import CodeScore, Sampler, Score


def darts(
    menu: Menu,
    *,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-3,
    ahead: float = 0.0,
) -> Sampler:
    """DARTS (Liu et al. 2019, arXiv 1806.09055): weights train under the code `softmax(alpha)`, and
    alpha descends on the loss of a second batch, by Adam.

    With `ahead` that loss is the one of weights a step further, `L2(w - ahead * dL1/dw, alpha)`
    (second order, equation 6), by its exact derivative; the paper's equation 8 approximates it.
    With the strategy `masked` instead of `mixed`, options that are parts of one kernel mix as
    weights (TangleNAS, arXiv 2312.10440).

    Args:
        menu: what may be chosen.
        learning_rate: of alpha.
        weight_decay: of alpha, added to its gradient.
        ahead: step size of the weights of which alpha sees the effect; 0 for first order.
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=0.5, b2=0.999)
    )

    def sample(state: AlphaState, key: Array, step: Array, score: Score) -> Code:
        return architecture.stacked(architecture.probabilities(state.alpha))

    def learn(
        state: AlphaState, key: Array, step: Array, score: CodeScore
    ) -> tuple[AlphaState, Array]:
        def loss(alpha: Code) -> Array:
            code = architecture.probabilities(alpha)
            return score.ahead(code, rate=ahead) if ahead else score(code)

        return architecture.descended(state, optimizer, loss)

    return architecture.searching(menu, optimizer, sample=sample, learn=learn)


@dataclasses.dataclass(frozen=True)
class Darts:
    """A mixture of all options, whose probabilities learn by gradients (DARTS)."""

    learning_rate: float = 3e-4
    """of the probabilities, by Adam; more decides sooner"""
    weight_decay: float = 1e-3
    """of their logits; more keeps options alike for longer"""
    ahead: float = 0.0
    """step size of the weights whose effect on the loss is seen (second order); 0 is first order"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        architecture.require_positive("learning-rate", self.learning_rate)
        require(
            self.weight_decay >= 0 and self.ahead >= 0,
            f"sampler.weight-decay is {self.weight_decay} and sampler.ahead {self.ahead}; neither "
            "may be below 0",
        )
        return darts(
            menu,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            ahead=self.ahead,
        )
