"""Text that a decoder writes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import random_params
from tiny_space import encoding

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.networks import extract
from supernet_jax.networks.generate import generate
from supernet_jax.spaces import decoder
from supernet_jax.tasks import NextToken

LENGTH = 3  # of examples
TOKENS = 6  # that are written


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any]:
    space = decoder.decoder(
        "writing",
        widths=(8,),
        depths=(1,),
        heads=(2,),
        hidden=(8,),
        head_dim=4,
        task=NextToken(256, LENGTH),
        tied=False,
    )
    return extract.extract(space, random_params(space), choices.smallest(space.menu), None)


def by_hand(
    network: tuple[Any, Any], prompt: str, tokens: int, pick: Any, length: int = LENGTH
) -> str:
    """One token after the other, each from the last `length` alone."""
    module, variables = network
    text = [0, *prompt.encode()]
    run = jax.jit(module.apply)
    for place in range(tokens):
        logits = run(variables, jnp.asarray([text[-length:]], jnp.int32))[0, -1]
        text.append(int(pick(place, logits)))
    return bytes(text[1 + len(prompt) :]).decode(errors="replace")


@pytest.mark.parametrize("prompt", ["", "longer than it sees"])
def test_the_likeliest_and_the_drawn(network: tuple[Any, Any], prompt: str) -> None:
    likeliest = generate(*network, prompt, tokens=TOKENS, temperature=0)
    assert likeliest == by_hand(network, prompt, TOKENS, lambda _, logits: np.argmax(logits))
    key = jax.random.key(3)

    def draw(place: int, logits: Any) -> Any:
        return jax.random.categorical(jax.random.fold_in(key, place), logits / 0.7)

    drawn = generate(*network, prompt, tokens=TOKENS, temperature=0.7, key=key)
    assert drawn == by_hand(network, prompt, TOKENS, draw) != likeliest
    assert drawn != generate(*network, prompt, tokens=TOKENS, temperature=0.7)  # by another key


def test_a_network_of_shorter_texts_sees_their_ends(network: tuple[Any, Any]) -> None:
    """As one whose length was a static decision of its space."""
    shorter = network[0].clone(size=2), network[1]
    prompt = "longer than it sees"
    wanted = by_hand(shorter, prompt, TOKENS, lambda _, logits: np.argmax(logits), length=2)
    assert generate(*shorter, prompt, tokens=TOKENS, temperature=0) == wanted


def test_what_cannot_be_written(network: tuple[Any, Any]) -> None:
    space = encoding()
    other = extract.module(space, choices.smallest(space.menu))
    for module, how, said in (
        (other, {}, "the network is for masked language modelling, but only one"),
        (network[0], {"tokens": 0}, "tokens is 0, but must be at least 1"),
        (network[0], {"temperature": -1.0}, "temperature is -1.0, but must be at least 0"),
    ):
        with pytest.raises(UserError, match=said):
            generate(module, network[1], "", **how)
