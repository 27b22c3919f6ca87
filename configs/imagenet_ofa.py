"""Once-for-All on ImageNet (Cai et al. 2020, arXiv:1908.09791): MobileNetV3, progressive shrinking.

    supernet train configs/imagenet_ofa.py --out runs/imagenet_ofa

`--data.data-dir DIR` names the folder of ImageNet as TFDS prepares it (docs/data.md), and
`--dry-run` tells beforehand what training takes. `--space.width 1.2` is the wider published space.
Hardware: published with 32 GPUs of 64 images each, 1,200 GPU hours. Not run here.

Expected: as published, top-1 on the 50,000 validation images, of the subnet with depth 4, expansion
3 and kernel 3 everywhere at resolution 224 (226 M MACs):

    with progressive shrinking     74.8
    without                        71.5

The published phases are of 180 epochs (the largest alone), 125 (kernels), 25 and 125 (depths), 25
and 125 (expansions, after sorting channels); here they are shares of one run of 605 epochs.

Differs from the publication: the learning rate is one cosine from 2.6, there each phase starts
again at 0.96, 0.08, 0.24, 0.08 and 0.24, the longer ones after 5 epochs of warm-up. The teacher is
the largest subnet as it is, which goes on training; there it is fixed, and not trained on. A step
has 2 random subnets, there 1, 2 and 4. Channels are sorted once, and by all that reads them; there
before both phases of expansions, by the projection alone. The loss is half of the published sum.
Kernel transforms do not decay, there they do. Only the largest has dropout. Blocks with a shortcut
start as that (a last scale of 0), there with a scale of 1. The step draws one of 25 resolutions as
published, but images are cropped to 224 and resized inside the network; colours are not distorted.
BatchNorm of every member sees the whole batch, there 64 images (`train.norm_shards`).
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.OfaMobileNetV3(width=1.0, dropout=0.1),
    data=sj.Data(name="tfds:imagenet2012", held_out=10_000, size=224, crop="random", flip=True),
    sampler=sj.samplers.Progressive(
        n_random=2,
        largest_alone=180 / 605,
        phases=(
            sj.samplers.Phase(("ks",), 125 / 605),
            sj.samplers.Phase(("d",), 25 / 605, options=1),
            sj.samplers.Phase(("d",), 125 / 605),
            sj.samplers.Phase(("e",), 25 / 605, options=1, sort=True),
            sj.samplers.Phase(("e",), 125 / 605),
        ),
    ),
    loss=sj.losses.SoftCrossEntropy(smoothing=0.1, hard_weight=0.5),
    combine=sj.gradients.UnitSum(),
    optimizer=sj.optimizers.Sgd(  # gradients are not clipped
        learning_rate=2.6, warmup=5 / 605, momentum=0.9, weight_decay=3e-5, clip=1e6
    ),
    train=sj.Train(steps=375_500, batch=2048, accumulate=1, checkpoint_every=2500, log_every=100),
    evaluation=sj.Evaluation(calibration_batches=64, batch=256, chunk=8),
)
