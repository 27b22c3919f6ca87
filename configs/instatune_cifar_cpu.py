"""InstaTune (Sridhar et al. 2023, arXiv 2308.15609) of a small vision transformer on CIFAR-10: the
network of configs/vit_cifar_cpu.py becomes the largest subnet, and teaches.

    supernet import network networks/vit_cifar_cpu --config configs/instatune_cifar_cpu.py \
        --sort-channels --out runs/instatune_cifar_cpu --data.data-dir DIR
    supernet train configs/instatune_cifar_cpu.py --out runs/instatune_cifar_cpu --data.data-dir DIR
    supernet search runs/instatune_cifar_cpu --high 6e6

The other file says how `networks/vit_cifar_cpu` is made; DIR holds CIFAR-10 as TFDS prepares it
(docs/data.md). Hardware: two CPU cores. Expected: see docs/results.md.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.VitSupernet(
        width=96,
        depths=(3, 4, 5, 6),
        heads=(1, 2, 3, 4),
        hidden=(96, 192, 288, 384),
        head_dim=24,
        resolution=16,
        patch=4,
        deviation=0.1,
    ),
    data=sj.Data(name="tfds:cifar10", held_out=5000, size=16, pad=2, flip=True),
    sampler=sj.samplers.InstaTune(n_random=2),
    loss=sj.losses.SoftCrossEntropy(),  # the largest learns from labels, others from the teacher
    teacher=sj.teachers.ExtractedNetwork("networks/vit_cifar_cpu"),
    optimizer=sj.optimizers.AdamW(learning_rate=5e-4, weight_decay=0.05, warmup=0.1),
    train=sj.Train(steps=300, batch=64, checkpoint_every=100, log_every=20),
    evaluation=sj.Evaluation(batch=256, chunk=8, limit=2000),
)
