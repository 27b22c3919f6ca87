"""A tiny translation transformer of HAT's space, on the toy language.

supernet train tests/systems/hat.py --out runs/tiny_hat
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.HatIwslt14DeEn(
        encoder_widths=(8, 12),
        decoder_widths=(8,),
        encoder_hidden=(8, 16),
        decoder_hidden=(16,),
        encoder_layers=(2,),
        decoder_layers=(1, 2),
        encoder_heads=(2,),
        decoder_heads=(2,),
        memory_heads=(1, 2),
        attended=(-1, 1),
        qkv=8,
    ),
    data=sj.Data(name="source:reversal", held_out=0.1, length=12),
    sampler=sj.samplers.Uniform(n_random=1),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=16, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
