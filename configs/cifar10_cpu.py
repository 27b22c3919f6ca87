"""CIFAR-10 on two CPU cores: AlphaNet's training at 16 pixels, a short schedule.

    supernet train configs/cifar10_cpu.py --out runs/cifar10_cpu --data.data-dir DIR

DIR holds CIFAR-10 as TFDS prepares it (docs/data.md). Hardware: two CPU cores, under 30 minutes.
Expected: see docs/results.md.
"""

from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.spaces import Cifar
from supernet_jax.training.losses import AlphaDivergence
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Sandwich

config = Config(
    space=Cifar(resolutions=(16,), dropout=0.0),
    data=Data(name="tfds:cifar10", held_out=5000, pad=4, flip=True),
    sampler=Sandwich(n_random=2),
    loss=AlphaDivergence(smoothing=0.1),
    optimizer=Sgd(learning_rate=0.1, weight_decay=1e-4, warmup=0.05),
    train=Train(steps=1500, batch=64, checkpoint_every=100, log_every=10),
    evaluation=Evaluation(calibration_batches=4, batch=256, chunk=8, limit=2000),
)
