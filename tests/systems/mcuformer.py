"""A tiny MCUFormer on digits: 32 archs with patches of 2 and 4 pixels."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.MCUFormer(
        resolutions=(8,),
        patches=(2, 4),
        embed_dims=(8, 12),
        depths=(1, 2),
        num_heads=(2,),
        mlp_ratios=(2.0,),
        rank_ratios=(0.5, 1.0),
        head_dim=4,
        distance=2,
        drop_path=0.0,
        deviation=0.2,
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Uniform(n_random=1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
