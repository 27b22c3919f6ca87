"""What is added to the loss of every member beside its task's, a term each file."""

from supernet_jax.training.penalties.superkernel_cost import SuperkernelCost
