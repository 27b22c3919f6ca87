"""Tiny ensembles on digits: of perceptrons of two layers; a rank leaves on the way."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.Ensembles(space=sj.spaces.MaestroMlp(hidden=(16,), ranks=(1, 2, 4, 8))),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Neas(drops=1, start=0.4, end=0.6),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
