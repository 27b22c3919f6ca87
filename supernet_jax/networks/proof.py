"""How far a network's logits are from the supernet's."""

import jax
import numpy as np

from supernet_jax.elastic.choices import Array
from supernet_jax.errors import UserError
from supernet_jax.networks import network
from supernet_jax.networks.network import Network, Variables

LIMIT = 1e-5  # relative difference of logits: float32 sums in another order


def compare(
    made: Network, variables: Variables, images: Array | np.ndarray, logits: np.ndarray
) -> float:
    """The second half of `prove`, for logits that are there already.

    Args:
        made: the extracted module.
        variables: its variables.
        images: float, normalised `[B, H, W, C]`.
        logits: of the subnet inside the supernet, `[..., B, K]`, in one or several ways.

    Returns, and raises: as `prove`.
    """
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(network.compiled_quickly(made)(variables, images))
    worst = difference(ours, logits)
    if not worst <= LIMIT:
        raise UserError(
            f"the extracted network is not the subnet: logits of {len(images)} images differ by "
            f"{worst:.1e} of the largest, allowed is {LIMIT:.0e}; are these the statistics of this "
            "arch, and do the masks of its blocks leave nothing of larger ones?"
        )
    return worst


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of logits `[B, K]` from `[..., B, K]`, relative to the largest logit.

    Not a number where any of them is not.
    """
    return float(np.max(np.abs(ours - theirs)) / (np.max(np.abs(theirs)) or 1.0))
