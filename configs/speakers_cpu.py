"""Speakers told apart on two CPU cores, of recordings that a script makes.

    apt-get install espeak-ng
    python benchmarks/voices.py data/voices
    supernet train configs/speakers_cpu.py --out runs/speakers_cpu
    supernet search runs/speakers_cpu
    supernet evaluate runs/speakers_cpu --front --split test

A space of EfficientTDNN's family, a tenth as wide. The test part has speakers whom training has
not heard. Hardware: two CPU cores; 2 minutes of processor time. Expected: equal error rates on the
test part of 18 % of the smallest network of the front to 11 % of the largest; see docs/speech.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.EfficientTdnn(
        frames=(60, 120),
        depths=(1, 2, 3),
        widths=(32, 48),
        kernels=(1, 3, 5),
        last_widths=(64, 96),
        groups=4,
        bottleneck=16,
        features=32,
    ),
    data=sj.Data(name="folder:data/voices", held_out=0.2, length=120),
    sampler=sj.samplers.Sandwich(n_random=1),
    loss=sj.losses.SoftCrossEntropy(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=3e-3, weight_decay=0.01, warmup=0.05),
    train=sj.Train(steps=400, batch=24, strategy="masked", checkpoint_every=100, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=4, batch=24, strategy="masked", chunk=8),
)
