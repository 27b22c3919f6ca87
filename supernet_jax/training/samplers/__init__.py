"""Which subnets train in a step, a published way each file."""

from supernet_jax.training.samplers.arch_generator import ArchGenerator, arch_generator
from supernet_jax.training.samplers.attentive import Attentive, attentive
from supernet_jax.training.samplers.darts import Darts, darts
from supernet_jax.training.samplers.delayed import Delayed, delayed
from supernet_jax.training.samplers.fair import Fair, fair
from supernet_jax.training.samplers.fbnet import FBNet, fbnet
from supernet_jax.training.samplers.insta_tune import InstaTune, insta_tune
from supernet_jax.training.samplers.neas import Neas, neas
from supernet_jax.training.samplers.nested import Nested, nested
from supernet_jax.training.samplers.ordered_dropout import OrderedDropout, ordered_dropout
from supernet_jax.training.samplers.preferred import Preferred, preferred
from supernet_jax.training.samplers.progressive import Opening, Phase, Progressive, progressive
from supernet_jax.training.samplers.proxyless import ProxylessNAS, proxyless
from supernet_jax.training.samplers.sampler import (
    CodeScore,
    Learn,
    Reorder,
    Sampler,
    SamplerState,
    Score,
    active,
    check,
    draws_codes,
    learns_apart,
    metric_names,
    names,
    roles,
    stateless,
)
from supernet_jax.training.samplers.sandwich import Sandwich, sandwich
from supernet_jax.training.samplers.shift import Shift, shift
from supernet_jax.training.samplers.single_path import SinglePath, single_path
from supernet_jax.training.samplers.uniform import Uniform, uniform, uniform_within
