"""HAT's kind of space on a toy language that two CPU cores learn.

    supernet train configs/translation_cpu.py --out runs/translation_cpu
    supernet search runs/translation_cpu --searcher linas --evaluations 128
    python docs/examples/translations.py runs/translation_cpu --most 7
    supernet evaluate runs/translation_cpu --archs largest --split test

Hardware: two CPU cores; 3 minutes of processor time, 7 minutes while other work kept the cores
busy. Expected: 99.99 % of the test tokens right and BLEU 100 of the largest subnet, 50 % and below
1 of the smallest; see docs/translation.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.HatWmt14EnDe(
        encoder_widths=(32, 64),
        decoder_widths=(32, 64),
        encoder_hidden=(64, 192),
        decoder_hidden=(64, 192),
        encoder_layers=(2,),
        decoder_layers=(1, 2, 3),
        encoder_heads=(2, 4),
        decoder_heads=(4,),
        memory_heads=(2, 4),
        attended=(-1, 1),
        qkv=64,
        dropout=0.0,
    ),
    data=sj.Data(name="source:reversal", held_out=0.1, length=12),
    sampler=sj.samplers.Sandwich(n_random=1),
    loss=sj.losses.SoftCrossEntropy(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(
        learning_rate=1.5e-3, weight_decay=0.01, warmup=0.1, clip_norm=5.0
    ),
    train=sj.Train(steps=1200, batch=64, checkpoint_every=400, log_every=50),
    evaluation=sj.Evaluation(batch=128, chunk=8, limit=1024),
)
