"""DARTS on scikit-learn's 8x8 digits, in small cells of NAS-Bench-201.

    supernet train configs/darts_digits.py --out runs/darts_digits

Hardware: two CPU cores, a few minutes. Expected: see docs/differentiable.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.NasBench201(resolution=8, channels=8, cells=1, stages=2),
    data=sj.Data(name="digits", held_out=0.2, second=0.5),  # half of the rest teaches the code
    sampler=sj.samplers.Darts(learning_rate=0.05),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=300, batch=32, checkpoint_every=100, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=2, batch=64, chunk=4),
)
