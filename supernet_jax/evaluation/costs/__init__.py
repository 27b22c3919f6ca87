"""What a subnet costs, a cost each file: exact MACs, parameters and memory, and latency."""

from supernet_jax.evaluation.costs.block_tables import BlockCost, BlockTables
from supernet_jax.evaluation.costs.cost import Cost, span
from supernet_jax.evaluation.costs.expected import Expected, expected
from supernet_jax.evaluation.costs.latency import Latency, latency
from supernet_jax.evaluation.costs.macs import Macs, macs, union_macs
from supernet_jax.evaluation.costs.parameters import Parameters, parameters
from supernet_jax.evaluation.costs.peak_memory import PeakMemory, peak_memory
