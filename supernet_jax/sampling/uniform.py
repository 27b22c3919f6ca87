"""Uniform sampling, alone and in a sandwich."""

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Menu
from supernet_jax.sampling.hook import Sampler, stateless


def sandwich(menu: Menu, *, n_random: int = 2) -> Sampler:
    """The sandwich rule: the largest, the smallest and `n_random` uniform subnets.

    BigNAS (arXiv 2003.11142), section 3.1; AlphaNet trains with 2 random members.
    """
    return _uniform(menu, (choices.largest(menu), choices.smallest(menu)), n_random)


def uniform(menu: Menu, *, n_random: int = 1) -> Sampler:
    """Uniform single-path sampling (SPOS, arXiv 1904.00420): no fixed member, hence no teacher."""
    return _uniform(menu, (), n_random)


def _uniform(menu: Menu, fixed: tuple[Arch, ...], n_random: int) -> Sampler:
    return stateless(
        fixed, n_random, lambda key, step, score: choices.sample(menu, key, (n_random,))
    )
