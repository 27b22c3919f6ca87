"""AlphaNet on ImageNet (Wang et al. 2021, arXiv:2102.07954), the published recipe.

    supernet train configs/alphanet_imagenet.py --out runs/alphanet_imagenet

`--data.data-dir DIR` names the folder of ImageNet as TFDS prepares it (docs/data.md), and
`--dry-run` tells beforehand what training takes.
Hardware: published with 64 GPUs of 32 images each. Not run here.

Expected: as published, top-1 on the 50,000 validation images, each network calibrated:

    network   resolution   MACs    top-1
    A0        192          203 M   77.87
    A3        224          357 M   79.41
    A6        288          709 M   80.78

Differs from the publication: 10,000 training images are held out for search; the random members
of a step share a resolution; BatchNorm of every member sees the whole batch, there 32 images
(`train.norm_shards` lets it see fewer: docs/methods.md). Images are resized bilinearly, there
bicubically; AutoAugment takes the nearest pixel and a fill of 128, there the interpolation is drawn
by chance, and the fill is the mean.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.AttentiveNAS(dropout=0.2, drop_path=0.2),
    data=sj.Data(
        name="tfds:imagenet2012",
        held_out=10_000,
        size=224,
        crop="random",
        flip=True,
        policy="autoaugment",
        deviation=0.5,
    ),
    sampler=sj.samplers.Sandwich(n_random=2),
    loss=sj.losses.AlphaDivergence(smoothing=0.1, alpha_min=-1.0, alpha_max=1.0, clip=5.0),
    combine=sj.gradients.UnitSum(),  # four gradients, each with weight 1
    optimizer=sj.optimizers.Sgd(  # 0.1 for each 256 images; 5 of 360 epochs of warm-up
        learning_rate=0.8, warmup=5 / 360, momentum=0.9, weight_decay=1e-5, clip=1.0
    ),
    train=sj.Train(steps=225_000, batch=2048, accumulate=1, checkpoint_every=2500, log_every=100),
    evaluation=sj.Evaluation(calibration_batches=64, batch=256, chunk=8),
)
