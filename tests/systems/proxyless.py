"""A tiny search by two paths at a time on digits: one layer of FBNet's blocks."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.FBNetSmall(
        widths=(4,), layers=1, head=8, operations=("skip", "k3_e1_g2", "k5_e1", "k3_e3")
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.ProxylessNAS(learning_rate=0.1, weight=0.1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
