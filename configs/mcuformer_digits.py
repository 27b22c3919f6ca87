"""MCUFormer's kind of space on scikit-learn's 8x8 digits: elastic ranks and patches, searched under
a budget of peak memory.

    supernet train configs/mcuformer_digits.py --out runs/mcuformer_digits
    supernet search runs/mcuformer_digits --budget peak_memory:..16e3 --evaluations 48
    supernet evaluate runs/mcuformer_digits --front --split test

The published budget is 320 KB, for images of 240 pixels. Here 16 kB leaves out patches of 1 pixel:
65 tokens need 30 kB or more.

Hardware: two CPU cores. Expected: see docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.MCUFormer(
        resolutions=(8,),
        patches=(1, 2, 4),
        embed_dims=(32,),
        depths=(2, 3),
        num_heads=(2, 3),
        mlp_ratios=(2.0, 3.0),
        rank_ratios=(0.25, 0.5, 1.0),
        head_dim=8,
        distance=7,
        drop_path=0.0,
        deviation=0.1,
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Uniform(n_random=2),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.AdamW(learning_rate=3e-3, warmup=0.1),
    train=sj.Train(steps=1200, batch=64, checkpoint_every=300),
    evaluation=sj.Evaluation(calibration_batches=1, batch=128, chunk=8),
)
