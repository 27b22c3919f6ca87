"""A small network that gives archs of wanted MACs.

Shape letters: `N` decisions that it makes, `D` all decisions, `O` the most options of a decision,
`F` features of an option, `H` hidden units, `B` archs of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.training.samplers import macs_table

TOLERANCE = 0.02  # of the wanted MACs: the unit of the loss, and which arch is near enough
HIDDEN = 32
UPDATES, BATCH, RATE = 300, 64, 1e-2
SPREAD = 2.0  # weight of the entropy of a draw, nats, beside its error in tolerances
TRIES = 64


class ArchGenerator(NamedTuple):
    """What gives archs of wanted MACs.

    Attributes:
        init: `key -> params`, trained; traced.
        draw: `(params, key, wanted) -> arch`, wanted MACs float32 `[]`; traced.
    """

    init: Callable[[Array], Tree]
    draw: Callable[[Tree, Array, Array], Arch]


def arch_generator(space: Space, *, updates: int = UPDATES, tries: int = TRIES) -> ArchGenerator:
    """An architecture generator (after ShiftNAS, arXiv 2307.08300), trained by costs alone.

    It makes one decision after the other, those first that change MACs most. For each option it
    sees by how much the subnet would miss the wanted MACs if it were taken and what is undecided
    were uniform, which the expected cost says exactly: that is linear in each decision's weights. A
    hidden layer for each decision makes logits of this, and an option is drawn.

    It learns by `|cost / wanted - 1| / TOLERANCE - SPREAD * entropy`, whose gradient goes through
    the code by the straight-through Gumbel softmax (Jang et al. 2017, arXiv 1611.01144, section
    2.2). Wanted MACs are uniform from the smallest subnet's to the largest's. The entropy is there
    so that it keeps drawing many archs for the same MACs.

    A draw is the first of `tries` archs that is within `TOLERANCE` of the wanted MACs; where none
    is, the one that comes nearest.

    The idea is the paper's; the form is ours. No loss of a supernet is needed, so that it trains
    before the first step, without data, and there is no second batch.

    Args:
        space: whose archs; MACs are those at its largest size of inputs.
        updates: of the training, each on `BATCH` archs.
        tries: archs of which one is taken.

    Raises:
        UserError: the MACs of the space are no sum over blocks with tables of a feasible size.
    """
    menu, expected, last = space.menu, costs.expected(costs.macs(space)), len(space.sizes) - 1
    leaves, treedef = jax.tree.flatten(menu)
    own = np.asarray([len(choice) for choice in leaves])
    real = np.arange(own.max()) < own[:, None]  # [D, O]
    even = np.asarray(real / own[:, None], np.float32)

    def cost(codes: Array) -> Array:
        """Expected MACs of codes `[D, O]`."""
        tree = jax.tree.unflatten(treedef, [codes[i, :n] for i, n in enumerate(own)])
        return expected(space.at_size(tree, last))

    slopes = np.asarray(jax.jit(jax.grad(cost))(even))
    spans = np.ptp(np.where(real, slopes, slopes[:, :1]), axis=1)  # MACs between a decision's ends
    free = [i for i, path in enumerate(choices.paths(menu)) if path not in space.static]
    order = np.asarray([i for i in np.argsort(-spans, kind="stable") if i in free and own[i] > 1])
    low, high = macs_table.ends(space)
    low = max(low, 1.0)

    def features(codes: Array, place: Array, wanted: Array) -> Array:
        """What is seen of each option of a decision, `[O, F]`."""
        taken = jnp.eye(len(codes[place]))
        missed = jax.vmap(lambda option: cost(codes.at[place].set(option)))(taken) - wanted
        apart = missed / jnp.maximum(jnp.asarray(spans)[place], 1.0)
        near = jnp.log(jnp.abs(missed) / wanted + TOLERANCE / 10)
        return jnp.stack([jnp.tanh(apart), jnp.minimum(jnp.abs(apart), 3.0), near], -1)

    def draw_one(params: Tree, noise: Array, wanted: Array) -> tuple[Array, Array]:
        """Codes `[D, O]`, one-hot but with gradients, and the entropy `[]` of the draw.

        Noise is that of a standard Gumbel distribution, `[N, O]`.
        """
        whole = jnp.stack([(wanted - low) / (high - low), jnp.log(wanted / low)])

        def decide(codes: Array, of: tuple[Array, Tree, Array]) -> tuple[Array, Array]:
            place, layer, noise = of
            used = jnp.asarray(real)[place]
            seen = jax.lax.stop_gradient(features(codes, place, wanted))
            seen = jnp.where(used[:, None], seen, 0.0).reshape(-1)
            hidden = jnp.tanh(jnp.concatenate([seen, whole]) @ layer["in"] + layer["bias"])
            logits = jnp.where(used, hidden @ layer["out"], -1e9)
            soft = jax.nn.softmax(logits + noise)
            hard = jax.nn.one_hot(jnp.argmax(soft), len(soft))
            option = hard + soft - jax.lax.stop_gradient(soft)
            likely = jax.nn.log_softmax(logits)
            entropy = -jnp.sum(jnp.where(used, jnp.exp(likely) * likely, 0.0))
            return codes.at[place].set(option), entropy

        codes, entropy = jax.lax.scan(
            decide, jnp.asarray(even), (jnp.asarray(order), params, noise)
        )
        return codes, jnp.sum(entropy)

    def loss(params: Tree, key: Array) -> Array:
        wanted_key, key = jax.random.split(key)
        wanted = jax.random.uniform(wanted_key, (BATCH,), minval=low, maxval=high)
        noise = jax.random.gumbel(key, (BATCH, len(order), own.max()))
        codes, entropy = jax.vmap(draw_one, (None, 0, 0))(params, noise, wanted)
        missed = jnp.abs(jax.vmap(cost)(codes) / wanted - 1)
        return jnp.mean(missed / TOLERANCE - SPREAD * entropy)

    def init(key: Array) -> Tree:
        begun, key = jax.random.split(key)
        return _trained(loss, _begun(begun, len(order), own.max()), key, updates)

    def draw(params: Tree, key: Array, wanted: Array) -> Arch:
        noise = jax.random.gumbel(key, (tries, len(order), own.max()))
        codes, _ = jax.vmap(draw_one, (None, 0, None))(params, noise, wanted)
        missed = jnp.abs(jax.vmap(cost)(codes) / wanted - 1)
        near = missed <= TOLERANCE
        best = codes[jnp.where(near.any(), jnp.argmax(near), jnp.argmin(missed))]
        return choices.unpack(menu, jnp.argmax(best, -1).astype(jnp.int32))

    return ArchGenerator(init, draw)


def _begun(key: Array, decisions: int, options: int) -> Tree:
    """Parameters of the first update, a layer for each decision; every option is as likely."""
    wide = 3 * options + 2
    return {
        "in": jax.random.normal(key, (decisions, wide, HIDDEN)) / np.sqrt(wide),
        "bias": jnp.zeros((decisions, HIDDEN)),
        "out": jnp.zeros((decisions, HIDDEN, options)),
    }


def _trained(loss: Callable[[Tree, Array], Array], params: Tree, key: Array, updates: int) -> Tree:
    """Parameters after so many updates by Adam, each with a key of its own."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, max(updates, 1)))

    def update(carry: tuple[Tree, Tree], key: Array) -> tuple[tuple[Tree, Tree], None]:
        params, state = carry
        changes, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, changes), state), None

    keys = jax.random.split(key, updates)
    return jax.lax.scan(update, (params, optimizer.init(params)), keys)[0][0]
