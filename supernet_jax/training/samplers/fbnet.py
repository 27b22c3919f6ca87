"""Differentiable search by relaxed samples, with a cost in the loss (FBNet)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from supernet_jax.elastic.choices import Array, Code, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.evaluation import costs
from supernet_jax.training.samplers import architecture
from supernet_jax.training.samplers.architecture import AlphaState
from supernet_jax.training.samplers.sampler import CodeScore, Sampler, Score, require_share

Form = Literal["product", "sum"]
# Of larger ones float32 has no squares of the loss' gradients, or no logits over the temperature.
MOST_BETA, MOST_FALL = 10.0, 20.0
COLDEST = 1e-3  # at which a sample is one option, as float32 has it


def fbnet(
    menu: Menu,
    *,
    cost: Callable[[Code], Array],
    temperature: Callable[[Array], Array],
    alpha: float = 0.2,
    beta: float = 0.6,
    form: Form = "product",
    learning_rate: float = 0.01,
    weight_decay: float = 5e-4,
    start: int = 0,
) -> Sampler:
    """FBNet (Wu et al. 2019, arXiv 1812.03443): weights train under a code that is drawn by the
    Gumbel softmax (equation 6), and its logits descend, by Adam, on a second batch's loss under
    another such code, times `alpha * log(cost)^beta` of that code (equations 3 and 7).

    Args:
        menu: what may be chosen.
        cost: of a code, above 1, as `costs.expected(cost)`.
        temperature: of the Gumbel softmax in a step, above 0, as `falling` gives it.
        alpha: factor of the term of the cost, above 0. Of a product it scales the gradients of all
            logits alike, which Adam undoes.
        beta: power of that term, at least 0; more weighs the cost more.
        form: "product" of loss and term, as published, or their "sum".
        learning_rate: of the logits.
        weight_decay: of the logits, added to their gradient.
        start: step from which on logits learn.
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1=0.9, b2=0.999)
    )

    def sample(state: AlphaState, key: Array, step: Array, score: Score) -> Code:
        return architecture.stacked(architecture.gumbel(key, state.alpha, temperature(step)))

    def learn(
        state: AlphaState, key: Array, step: Array, score: CodeScore
    ) -> tuple[AlphaState, Array]:
        def loss(logits: Code) -> Array:
            code = architecture.gumbel(key, logits, temperature(step))
            term = alpha * jnp.log(cost(code)) ** beta
            return score(code) * term if form == "product" else score(code) + term

        moved, value = architecture.descended(state, optimizer, loss)
        return jax.tree.map(lambda old, new: jnp.where(step < start, old, new), state, moved), value

    return architecture.searching(menu, optimizer, sample=sample, learn=learn)


def falling(first: float, fall: float, steps: int) -> Callable[[Array], Array]:
    """A temperature that falls exponentially: `first * exp(-fall * step / steps)`.

    Args:
        first: in step 0.
        fall: of its logarithm over all steps.
        steps: of the run.
    """
    return lambda step: first * jnp.exp(-fall * step / steps)


def expected_above_one(cost: costs.Cost, menu: Menu) -> Callable[[Code], Array]:
    """A cost of codes whose logarithm is above 0.

    Raises:
        UserError: the cost is not made of tables of blocks, or a subnet costs 1 or less.
    """
    expected = costs.expected(cost)
    even = jax.tree.map(lambda choice: jnp.full(len(choice), 1 / len(choice)), menu)
    slopes = jax.grad(expected)(even)  # what each option costs beside the others
    cheap = jax.tree.map(lambda slope: jax.nn.one_hot(jnp.argmin(slope), len(slope)), slopes)
    least = float(expected(cheap))
    if not least > 1:
        raise UserError(
            f"the sampler.cost of a cheap subnet is {least:g}, but must be more than 1, so that "
            "its logarithm is above 0; take a cost in another unit, as sj.costs.Macs()"
        )
    return expected


@dataclasses.dataclass(frozen=True)
class FBNet:
    """Relaxed samples whose probabilities learn by gradients of loss and cost (FBNet)."""

    cost: Any = dataclasses.field(default_factory=costs.Macs)
    """what subnets are to save, of `sj.costs`; `Latency(FILE)` for milliseconds as published"""
    alpha: float = 0.2
    """factor of the term of the cost; more saves more where the form is sum, nothing in product"""
    beta: float = 0.6
    """power of the logarithm of the cost; more saves more, 0 ignores the cost"""
    form: Form = "product"
    """how loss and term of the cost are put together; product is published"""
    learning_rate: float = 0.01
    """of the logits of the options, by Adam; more decides sooner"""
    weight_decay: float = 5e-4
    """of those logits; more keeps options alike for longer"""
    temperature: float = 5.0
    """of samples in the first step; more mixes options more evenly"""
    fall: float = 4.05
    """of the temperature's logarithm over the run, 0.045 in each of 90 epochs as published; more
    ends nearer to single options"""
    start: float = 0.111
    """share of the run before logits learn, 10 of 90 epochs as published; more trains weights
    for longer before"""

    def build(self, *, menu: Menu, space: Space, steps: int) -> Sampler:
        """The sampler for a space, its menu and a run of so many steps."""
        for name in ("temperature", "learning-rate", "alpha"):
            architecture.require_positive(name, getattr(self, name.replace("-", "_")))
        for name, high in (("beta", MOST_BETA), ("fall", MOST_FALL), ("weight-decay", 1.0)):
            value = getattr(self, name.replace("-", "_"))
            require(0 <= value <= high, f"sampler.{name} is {value}, must be from 0 to {high:g}")
        require_share("start", self.start)
        last = self.temperature * math.exp(-self.fall)
        require(
            last >= COLDEST,
            f"sampler.temperature {self.temperature:g}, falling by sampler.fall {self.fall:g}, "
            f"ends at {last:.3g}, but must end at {COLDEST} or more, or gradients overflow; raise "
            "the one or lower the other",
        )
        require(
            hasattr(self.cost, "build"),
            f"sampler.cost is {self.cost!r}; give a cost of sj.costs, as sj.costs.Macs(), or one "
            "of your own with build(space)",
        )
        return fbnet(
            menu,
            cost=expected_above_one(self.cost.build(space), menu),
            temperature=falling(self.temperature, self.fall, steps),
            alpha=self.alpha,
            beta=self.beta,
            form=self.form,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            start=round(self.start * steps),
        )
