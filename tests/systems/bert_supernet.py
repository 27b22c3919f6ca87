"""InstaTune of a tiny encoder that tells sequences of 8 ids of 12 apart: which half is larger.

supernet train tests/systems/bert_supernet.py --out runs/tiny_bert
"""

import pathlib

import supernet_jax as sj

# Random ids below 12, `x [N, 8]`; y is 1 where those of the second half add up to more.
SEQUENCES = pathlib.Path(__file__).parents[1] / "fixtures" / "sequences.npz"

config = sj.Config(
    space=sj.spaces.BertSupernet(
        width=8,
        depths=(1, 2),
        heads=(1, 2),
        hidden=(4, 8),
        head_dim=4,
        vocabulary=16,
        longest=8,
    ),
    data=sj.Data(name=f"ids:{SEQUENCES}", held_out=0.2),
    sampler=sj.samplers.InstaTune(n_random=1),
    loss=sj.losses.SoftCrossEntropy(),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
