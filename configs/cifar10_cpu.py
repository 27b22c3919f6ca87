"""CIFAR-10 on two CPU cores: AlphaNet's training at 16 pixels, a short schedule.

    supernet train configs/cifar10_cpu.py --out runs/cifar10_cpu --data.data-dir DIR

DIR holds CIFAR-10 as TFDS prepares it (docs/data.md). Hardware: two CPU cores, under 30 minutes.
Expected: see docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.Cifar(resolutions=(16,), dropout=0.0),
    data=sj.Data(name="tfds:cifar10", held_out=5000, pad=4, flip=True),
    sampler=sj.samplers.Sandwich(n_random=2),
    loss=sj.losses.AlphaDivergence(smoothing=0.1),
    optimizer=sj.optimizers.Sgd(learning_rate=0.1, weight_decay=1e-4, warmup=0.05),
    train=sj.Train(steps=1500, batch=64, checkpoint_every=100, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=4, batch=256, chunk=8, limit=2000),
)
