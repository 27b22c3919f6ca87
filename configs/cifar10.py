"""A supernet on CIFAR-10 at 32x32 (and 24x24), AlphaNet's training on a small space.

    supernet train configs/cifar10.py --out runs/cifar10 --data.data-dir DIR

DIR holds CIFAR-10 as TFDS prepares it (docs/data.md). Hardware: a GPU for the full schedule.
Expected: not yet measured for the full schedule; docs/results.md has a short one on two CPU cores.
"""

from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.spaces import Cifar
from supernet_jax.training.losses import AlphaDivergence
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Sandwich

config = Config(
    space=Cifar(dropout=0.1),
    data=Data(name="tfds:cifar10", held_out=5000, pad=4, flip=True),
    sampler=Sandwich(n_random=2),
    loss=AlphaDivergence(smoothing=0.1),
    optimizer=Sgd(learning_rate=0.2, weight_decay=1e-4, warmup=0.03),
    train=Train(steps=39_000, batch=256, checkpoint_every=1000, log_every=50),
    evaluation=Evaluation(calibration_batches=8, batch=256, chunk=16),
)
