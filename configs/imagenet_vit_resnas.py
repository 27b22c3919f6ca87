"""ViT-ResNAS-Tiny's supernet on ImageNet (Liao et al. 2021, arXiv:2109.00642), its code's recipe.

    supernet train configs/imagenet_vit_resnas.py --out runs/imagenet_vit_resnas

`--data.data-dir DIR` names the folder of ImageNet as TFDS prepares it (docs/data.md), and
`--dry-run` tells beforehand what training takes.
Hardware: published with 8 GPUs of 128 images each, 64 for each subnet. Not run here.

Expected: networks that are found are trained again alone; their accuracy is in the paper.

Differs from the publication: there images and labels are mixed by tokens, with a classifier of
patches, here they are not mixed. In its first 30 epochs options are added one by one, and heads and
hidden channels are sorted by their weights. The cosine of the learning rate ends at 0 and warms up
from a thousandth, there it ends at 1e-5 and warms up from 1e-6. RandAugment applies each of its two
operations always, there with probability 1/2, of a list that also inverts. Erased parts are random
pixels before normalisation, there after it. Images are resized bilinearly, there bicubically.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.ViTResNAS(drop_path=0.2),
    data=sj.Data(
        name="tfds:imagenet2012",
        held_out=25_000,  # as published, there 25 of each class
        size=224,
        crop="random",
        flip=True,
        policy="randaugment",  # rand-m9-mstd0.5-inc1
        layers=2,
        magnitude=9.0,
        deviation=0.5,
        increasing=True,
        erase=0.25,
    ),
    sampler=sj.samplers.Uniform(n_random=1, regularised=("random",)),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.AdamW(  # 5e-4 for each 512 images; gradients are not clipped
        learning_rate=1e-3, warmup=5 / 120, weight_decay=0.05, clip_norm=1e6
    ),
    train=sj.Train(  # 120 epochs
        steps=147_120,
        batch=1024,
        arch_shards=16,
        dtype="bfloat16",
        checkpoint_every=2500,
        log_every=100,
    ),
    evaluation=sj.Evaluation(calibration_batches=64, batch=256, chunk=8),
)
