"""A tiny differentiable search on digits in DARTS' own space: a cell of one node, two edges."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.DartsEdges(resolution=8, channels=2, cells=1, nodes=1),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Darts(learning_rate=0.1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=4, batch=16, checkpoint_every=2, log_every=2),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
