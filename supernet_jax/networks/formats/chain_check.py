"""For formats that are written block by block: which networks they can write."""

from collections.abc import Collection

import flax.linen as nn

from supernet_jax.errors import UserError
from supernet_jax.networks.network import Network


def check(network: Network, kinds: Collection[type[nn.Module]], what: str) -> None:
    """Makes sure that a network is a chain of blocks that a format knows.

    Args:
        network: that is to be written.
        kinds: classes of the blocks that the format knows.
        what: name of the format, as messages call it.

    Raises:
        UserError: it has a topology of its own, or another block; the message says which, and which
            formats can write it.
    """
    others = "the formats orbax, safetensors and stablehlo can"
    if network.forward is not None:
        raise UserError(
            f"{what} can only be written of blocks that run one after another, but this network "
            f"has a topology of its own, {network.forward.__name__}; {others}"
        )
    for block in network.blocks:
        if block.module not in kinds:
            known = ", ".join(kind.__name__ for kind in kinds)
            raise UserError(
                f"{what} cannot be written of block {block.name!r}, which is a "
                f"{block.module.__name__}, but only of {known}; {others}"
            )
        if not block.name.isidentifier():
            raise UserError(
                f"{what} cannot be written of a block called {block.name!r}, only of names made of "
                f"letters, digits and underscores; rename it in the space, or {others}"
            )
