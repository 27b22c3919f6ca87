"""A tiny differentiable search on digits: one cell of NAS-Bench-201."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.NasBench201(resolution=8, channels=4, cells=1, stages=1),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Darts(learning_rate=0.1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
