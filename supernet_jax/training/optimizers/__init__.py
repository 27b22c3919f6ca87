"""Optimisers and learning rates."""

from supernet_jax.training.optimizers.adamw import AdamW
from supernet_jax.training.optimizers.group_lasso import GroupLasso
from supernet_jax.training.optimizers.sgd import Sgd
