"""Ensembles of two small networks on scikit-learn's 8x8 digits (NEAS, arXiv 2104.00597).

    supernet train configs/neas_digits.py --out runs/neas_digits
    supernet search runs/neas_digits --budget macs:..120e3 --evaluations 256

Hardware: two CPU cores. Expected: see docs/methods.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.Ensembles(space=sj.spaces.Digits(), members=2),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Neas(n_random=1, drops=3, start=0.4, end=0.8),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.Sgd(learning_rate=0.05, weight_decay=1e-4, warmup=0.1),
    train=sj.Train(steps=200, batch=64, checkpoint_every=100),
    evaluation=sj.Evaluation(calibration_batches=2, batch=128, chunk=16),
)
