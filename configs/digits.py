"""A supernet on scikit-learn's 8x8 digits: the smallest experiment that does everything.

    supernet train configs/digits.py --out runs/digits

Hardware: two CPU cores. `supernet quickstart` is this experiment with search and extraction.
Expected: see docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.Digits(),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Sandwich(n_random=2),
    loss=sj.losses.AlphaDivergence(smoothing=0.1),
    optimizer=sj.optimizers.Sgd(learning_rate=0.05, weight_decay=1e-4, warmup=0.1),
    train=sj.Train(steps=300, batch=64, checkpoint_every=100),
    evaluation=sj.Evaluation(calibration_batches=2, batch=128, chunk=16),
)
