"""NASViT on ImageNet (Gong et al., ICLR 2022), the recipe of its published code.

    supernet train configs/imagenet_nasvit.py --out runs/imagenet_nasvit

`--data.data-dir DIR` names the folder of ImageNet as TFDS prepares it (docs/data.md), and
`--dry-run` tells beforehand what training takes.
Hardware: the published command has 64 images on each GPU, and does not say how many; the learning
rate grows with the batch. Not run here.

Expected: as published with the code, on the 50,000 validation images, each network calibrated:

    network    resolution   MACs      top-1   top-5
    smallest   192          190 M     78.34   93.46
    largest    288          1,882 M   82.79   96.00

Differs from the publication: there the largest learns from two ResNeXts instead of labels, mixed at
a fifth of the usual temperature (sj.teachers and sj.losses.OutsideTeacher have such teachers). The
gradient of the subnets is clipped to a norm of 1 before it is projected and added to the largest's,
here their sum is. The cosine of the learning rate ends at 0 and warms up from a thousandth, there
it ends at 1/60 and warms up from 1/600. RandAugment always applies its operation,
there with probability 1/2, of a list that also inverts. Mixup and CutMix of alpha 0.01, which leave
nearly every image as it is, are left out, and so is a jitter of colours. The random members of a
step share a resolution. Images are resized bilinearly, there bicubically. 10,000 training images
are held out for search.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.NASViT(),
    data=sj.Data(
        name="tfds:imagenet2012",
        held_out=10_000,
        size=224,
        crop="random",
        flip=True,
        policy="randaugment",  # rand-n1-m1-mstd0.5-inc1
        layers=1,
        magnitude=1.0,
        deviation=0.5,
        increasing=True,
        erase=0.01,
    ),
    sampler=sj.samplers.Sandwich(n_random=2),
    loss=sj.losses.AlphaDivergence(smoothing=0.1, alpha_min=-1.0, alpha_max=1.0, clip=5.0),
    combine=sj.gradients.ConflictProjection(start=101 / 400),  # not in the first 101 epochs
    optimizer=sj.optimizers.AdamW(  # 3e-4 for each 512 images
        learning_rate=3e-4, warmup=5 / 400, weight_decay=0.0, clip_norm=1.0
    ),
    train=sj.Train(  # 400 epochs
        steps=992_800, batch=512, ema=0.99985, checkpoint_every=2500, log_every=100
    ),
    evaluation=sj.Evaluation(calibration_batches=64, batch=256, chunk=8),
)
