"""One superkernel for each block, whose weights decide its options (Single-Path NAS)."""

import dataclasses

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Code, Menu
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import superkernels
from supernet_jax.training.samplers.sampler import Learn, Sampler, SamplerState, Score


def single_path(space: Space) -> Sampler:
    """Single-Path NAS (Stamoulis et al. 2019, arXiv 1904.02877): only the largest trains, as much
    of it as its superkernels use. Their thresholds are shared parameters and learn with the others
    on the same batch; what they have decided is the sampler's code. See
    `elastic.transforms.superkernels`, and `penalties.SuperkernelCost` for what makes it cheaper.

    Args:
        space: whose blocks have superkernels.

    Raises:
        UserError: they have none.
    """

    def code(state: SamplerState, params: Tree) -> Code:
        return superkernels.code(space, params)

    def sample(state: SamplerState, key: Array, step: Array, score: Score) -> Arch:
        return choices.sample(space.menu, key, (0,))

    superkernels.require(space)
    fixed = (choices.largest(space.menu),)
    return Sampler(
        fixed,
        0,
        init=lambda key: (),
        sample=sample,
        update=lambda state, metrics: state,
        learn=Learn(None, code),
    )


@dataclasses.dataclass(frozen=True)
class SinglePath:
    """The largest subnet alone, as much of it as its superkernels use (Single-Path NAS)."""

    def build(self, *, menu: Menu, space: Space) -> Sampler:
        """The sampler for a space."""
        return single_path(space)
