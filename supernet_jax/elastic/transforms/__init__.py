"""Weight transforms that fit any space: a file each."""

from supernet_jax.elastic.transforms.low_rank import adapted, adapter, adapter_parameters
from supernet_jax.elastic.transforms.superkernels import Superkernel, superkernel
