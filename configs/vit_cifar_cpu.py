"""A small vision transformer on CIFAR-10 at 16 pixels, trained alone: the network with which
configs/instatune_cifar_cpu.py begins.

    supernet train configs/vit_cifar_cpu.py --out runs/vit_cifar_cpu --data.data-dir DIR
    supernet extract runs/vit_cifar_cpu --arch largest --out networks/vit_cifar_cpu

DIR holds CIFAR-10 as TFDS prepares it (docs/data.md). Hardware: two CPU cores. Expected: see
docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.VitSupernet(
        width=96,
        depths=(6,),
        heads=(4,),
        hidden=(384,),
        head_dim=24,
        resolution=16,
        patch=4,
        deviation=0.1,
    ),
    data=sj.Data(name="tfds:cifar10", held_out=5000, size=16, pad=2, flip=True),
    sampler=sj.samplers.InstaTune(n_random=0),
    optimizer=sj.optimizers.AdamW(learning_rate=2e-3, weight_decay=0.05, warmup=0.1),
    train=sj.Train(steps=1200, batch=128, checkpoint_every=200, log_every=20),
    evaluation=sj.Evaluation(batch=256, chunk=8, limit=2000),
)
