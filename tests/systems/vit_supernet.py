"""InstaTune of a tiny vision transformer on 8x8 digits: heads, hidden channels and blocks.

supernet train tests/systems/vit_supernet.py --out runs/tiny_vit
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.VitSupernet(
        width=8, depths=(1, 2), heads=(1, 2), hidden=(4, 8), head_dim=4, resolution=8, patch=4
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.InstaTune(n_random=1),
    loss=sj.losses.SoftCrossEntropy(),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
