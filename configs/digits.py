"""A supernet on scikit-learn's 8x8 digits: the smallest experiment that does everything.

    supernet train configs/digits.py --out runs/digits

Hardware: two CPU cores. `supernet quickstart` is this experiment with search and extraction.
Expected: see docs/results.md.
"""

from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.spaces import Digits
from supernet_jax.training.losses import AlphaDivergence
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Sandwich

config = Config(
    space=Digits(),
    data=Data(name="digits", held_out=0.2),
    sampler=Sandwich(n_random=2),
    loss=AlphaDivergence(smoothing=0.1),
    optimizer=Sgd(learning_rate=0.05, weight_decay=1e-4, warmup=0.1),
    train=Train(steps=300, batch=64, checkpoint_every=100),
    evaluation=Evaluation(calibration_batches=2, batch=128, chunk=16),
)
