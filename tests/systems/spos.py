"""A tiny single-path run on digits: a block of two kinds and two widths, trained within MACs."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.SPOSSmall(
        channels=(4,), blocks=1, head=8, operations=("choice_3", "choice_x"), widths=(0.5, 1.5)
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Uniform(macs=(5e3, 7e3, 11e3)),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.Sgd(learning_rate=0.1),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
