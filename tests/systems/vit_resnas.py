"""A transformer in three stages on digits."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.ViTResNAS(
        widths=(4, 6),
        num_heads=(1,),
        hidden=(6, 8),
        head_dims=(2, 2, 2),
        blocks=2,
        resolution=8,
        patch=2,
        middle=4,
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Uniform(n_random=1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
