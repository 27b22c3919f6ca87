"""Which subnets train in a step: the hook, and the published ways to choose them, one file each."""

from supernet_jax.sampling.attentive import attentive as attentive
from supernet_jax.sampling.delayed import delayed as delayed
from supernet_jax.sampling.fair import fair as fair
from supernet_jax.sampling.hook import Reorder as Reorder
from supernet_jax.sampling.hook import Sampler as Sampler
from supernet_jax.sampling.hook import SamplerState as SamplerState
from supernet_jax.sampling.hook import Score as Score
from supernet_jax.sampling.hook import active as active
from supernet_jax.sampling.hook import roles as roles
from supernet_jax.sampling.hook import stateless as stateless
from supernet_jax.sampling.nested import nested as nested
from supernet_jax.sampling.preferred import preferred as preferred
from supernet_jax.sampling.progressive import Phase as Phase
from supernet_jax.sampling.progressive import progressive as progressive
from supernet_jax.sampling.shift import shift as shift
from supernet_jax.sampling.uniform import sandwich as sandwich
from supernet_jax.sampling.uniform import uniform as uniform
