"""A tiny decoder on the documents in docs/doors: 64 archs, compiled in seconds.

supernet train tests/tiny_text_config.py --out runs/tiny_text
"""

import pathlib

import supernet_jax as sj

DOORS = pathlib.Path(__file__).parents[1] / "docs" / "doors"

config = sj.Config(
    space=sj.spaces.Decoder(
        widths=(8, 12), depths=(1, 2), heads=(1, 2), hidden=(8, 16), head_dim=4, longest=32
    ),
    data=sj.Data(name=f"text:{DOORS}", held_out=0.2, length=16),
    sampler=sj.samplers.Uniform(n_random=1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
