"""How the gradients of a step's members become one, a rule each file."""

from supernet_jax.training.gradients.conflict_projection import ConflictProjection
from supernet_jax.training.gradients.delayed_shrinking import DelayedShrinking
from supernet_jax.training.gradients.unit_sum import ByRole, UnitSum
