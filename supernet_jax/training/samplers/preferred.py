"""Archs that were chosen before training."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, notation
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.errors import UserError, require
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.training.samplers import sampler
from supernet_jax.training.samplers.sampler import Sampler, Score, stateless


def preferred(menu: Menu, archs: Arch, *, n_random: int = 2) -> Sampler:
    """Only preferred archs train (PreNAS, arXiv 2304.14636, section 3), all equally often.

    The largest is a fixed member, so that it can teach, which is ours.

    Args:
        menu: what may be chosen.
        archs: `[N]`, as `select` or `read` gives them.
        n_random: members drawn per step.
    """
    count = len(jax.tree.leaves(archs)[0])

    def sample(key: Array, step: Array, score: Score) -> Arch:
        which = jax.random.randint(key, (n_random,), 0, count)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[which], archs)

    return stateless((choices.largest(menu),), n_random, sample)


def select(costs: np.ndarray, scores: np.ndarray, *, bins: int, keep: int) -> np.ndarray:
    """Which archs are preferred: in each of `bins` equal ranges of cost the `keep` best scores.

    Args:
        costs: `[N]`, MACs for instance.
        scores: `[N]`, higher is better; NaN is worst.
        bins: ranges between the lowest and the highest cost.
        keep: archs of each; a range with fewer keeps those it has.

    Returns:
        Places in `costs`, cheapest first.
    """
    edges = np.linspace(costs.min(), costs.max(), bins + 1)
    which = np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, bins - 1)
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    best = [order[which[order] == b][:keep] for b in range(bins)]
    chosen = np.concatenate(best)
    return chosen[np.argsort(costs[chosen], kind="stable")]


def read(path: pathlib.Path, menu: Menu) -> Arch:
    """The archs of a file that `supernet table --score` wrote: NumPy, `[N]`.

    Raises:
        UserError: no such file, it cannot be read, it is damaged, or its archs are of another
            space.
    """
    try:
        records: Sequence[dict] = json.loads(files.content_of(path).decode("utf-8"))
        archs = [notation.from_notation(menu, record["arch"]) for record in records]
    except UserError as error:
        raise UserError(f"{path} holds archs of another space: {error}") from None
    except PermissionError as error:
        raise files.unreadable(path, error) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{files.unreadable(path, error, kind='list of preferred archs')}; `supernet table "
            "CONFIG --score snip --out FILE` makes one"
        ) from error
    if not archs:
        raise UserError(f"{path} holds no arch")
    return choices.stack(archs)


@dataclasses.dataclass(frozen=True)
class Preferred:
    """Only archs that a score chose before training (PreNAS), beside the largest."""

    archs: str = dataclasses.field(default="", metadata={"path": True})
    """file of `supernet table CONFIG --score snip`"""
    n_random: int = 2
    """random subnets per step; more take longer"""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler for a space's menu."""
        sampler.require_members(self.n_random, 1)
        require(
            bool(self.archs),
            "sampler.archs is not set; make the file with `supernet table CONFIG --score snip "
            "--out FILE` and name it",
        )
        archs = read(expanded(self.archs), menu)
        return preferred(menu, archs, n_random=self.n_random)
