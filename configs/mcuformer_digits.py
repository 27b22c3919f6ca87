"""MCUFormer's kind of space on scikit-learn's 8x8 digits: elastic ranks and patches, searched under
a budget of peak memory.

    supernet train configs/mcuformer_digits.py --out runs/mcuformer
    supernet search runs/mcuformer --budget peak_memory:..16e3 --evaluations 100
    supernet evaluate runs/mcuformer --front --split test

The published budget is 320 KB for images of 240 pixels; 16 kB is that of 54 pixels in the same
proportion of tokens. Hardware: two CPU cores. Expected: see docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.MCUFormer(
        resolutions=(8,),
        patches=(1, 2, 4),
        embed_dims=(24, 32, 48),
        depths=(2, 3, 4),
        num_heads=(2, 3),
        mlp_ratios=(2.0, 3.0),
        rank_ratios=(0.25, 0.5, 0.75, 1.0),
        head_dim=8,
        distance=7,
        drop_path=0.0,
        deviation=0.1,
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Sandwich(n_random=2),
    loss=sj.losses.SoftCrossEntropy(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=3e-3, warmup=0.1),
    train=sj.Train(steps=600, batch=64, checkpoint_every=200),
    evaluation=sj.Evaluation(calibration_batches=1, batch=128, chunk=8),
)
