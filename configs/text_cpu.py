"""A decoder on the bytes of Python's standard library, on two CPU cores.

    supernet train configs/text_cpu.py --out runs/text_cpu
    supernet search runs/text_cpu --high 60e6
    supernet evaluate runs/text_cpu --front
    supernet evaluate runs/text_cpu --archs largest --split test

The text is on every machine that has Python. Hardware: two CPU cores; 14 minutes while other work
kept them busy. Expected: test perplexity 8.0 of the largest subnet, 9.2 of the smallest; see
docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.Decoder(),
    data=sj.Data(name="source:stdlib", held_out=0.1, length=128),
    sampler=sj.samplers.Sandwich(n_random=1),
    loss=sj.losses.SoftCrossEntropy(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=2e-3, weight_decay=0.1, warmup=0.05),
    train=sj.Train(steps=1200, batch=16, checkpoint_every=100, log_every=10),
    evaluation=sj.Evaluation(batch=64, chunk=8, limit=512),
)
