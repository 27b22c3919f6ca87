"""A supernet on CIFAR-10 at 32x32 (and 24x24), AlphaNet's training on a small space.

    supernet train configs/cifar10.py --out runs/cifar10 --data.data-dir DIR

DIR holds CIFAR-10 as TFDS prepares it (docs/data.md). Hardware: a GPU for the full schedule.
Expected: not yet measured for the full schedule; docs/results.md has a short one on two CPU cores.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.Cifar(dropout=0.1),
    data=sj.Data(name="tfds:cifar10", held_out=5000, pad=4, flip=True),
    sampler=sj.samplers.Sandwich(n_random=2),
    loss=sj.losses.AlphaDivergence(smoothing=0.1),
    optimizer=sj.optimizers.Sgd(learning_rate=0.2, weight_decay=1e-4, warmup=0.03),
    train=sj.Train(steps=39_000, batch=256, checkpoint_every=1000, log_every=50),
    evaluation=sj.Evaluation(calibration_batches=8, batch=256, chunk=16),
)
