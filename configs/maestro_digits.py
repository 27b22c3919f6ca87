"""Maestro on scikit-learn's 8x8 digits: a perceptron whose layers have ordered ranks.

    supernet train configs/maestro_digits.py --out runs/maestro_digits
    supernet evaluate runs/maestro_digits --archs ranks.json --split test

Hardware: two CPU cores. Expected: see docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.MaestroMlp(hidden=(128, 64), ranks=(1, 2, 4, 6, 8, 12, 16, 24, 32)),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.OrderedDropout(n_random=2),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.GroupLasso(
        inner=sj.optimizers.AdamW(learning_rate=3e-3, warmup=0.1), weight=0.3
    ),
    train=sj.Train(steps=1500, batch=64, checkpoint_every=500, strategy="masked"),
    evaluation=sj.Evaluation(batch=128, chunk=16),
)
