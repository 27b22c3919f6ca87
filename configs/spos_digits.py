"""SPOS' blocks on scikit-learn's 8x8 digits: single paths of limited MACs, then evolution.

    supernet train configs/spos_digits.py --out runs/spos_digits
    supernet search runs/spos_digits --searcher evolution --high 150e3 --evaluations 256
    supernet extract runs/spos_digits --arch front:4 --out network

Each step trains one subnet, of one of six ranges of MACs.

Hardware: two CPU cores. Expected: see docs/methods.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.SPOSSmall(),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.Uniform(macs=(90e3, 110e3, 130e3, 150e3, 170e3, 190e3, 210e3)),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.Sgd(learning_rate=0.2, weight_decay=4e-5),
    train=sj.Train(steps=2000, batch=64, checkpoint_every=500),
    evaluation=sj.Evaluation(calibration_batches=2, batch=128, chunk=8),
)
