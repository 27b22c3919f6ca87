"""What a member is trained towards, a family each file."""

from supernet_jax.training.losses.alpha_divergence import AlphaDivergence
from supernet_jax.training.losses.divergences import JensenShannon, ReverseKL, SoftCrossEntropy
from supernet_jax.training.losses.features import FeatureRelations
from supernet_jax.training.losses.hard_labels import HardLabels
from supernet_jax.training.losses.outside_teacher import OutsideTeacher
