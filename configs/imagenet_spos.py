"""SPOS' supernet on ImageNet (Guo et al. 2020, arXiv 1904.00420), its code's recipe: blocks alone.

    supernet train configs/imagenet_spos.py --out runs/imagenet_spos
    supernet search runs/imagenet_spos --searcher evolution --high 330e6

`--data.data-dir DIR` names the folder of ImageNet as TFDS prepares it (docs/data.md), and
`--dry-run` tells beforehand what training takes. The space has one width, `sj.spaces.SPOS()` ten.
Hardware: published for GPUs, how many is not said. Not run here.

Expected: networks that are found are trained again alone, with `--space.affine`; the authors name
an error of 25.6 % at 323 M MACs.

Differs from the publication: the learning rate falls by a cosine, there by a line to 0. What a step
does not use decays and has momentum, there not. Momentum is Nesterov's, and elements of gradients
are clipped at 1. Colours are not jittered, there by 0.4 each; images are normalised, there not.
25,000 images are held out for the search, which there scores on validation images.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.SPOS(widths=(1.0,)),
    data=sj.Data(name="tfds:imagenet2012", held_out=25_000, size=224, crop="random", flip=True),
    sampler=sj.samplers.Uniform(
        regularised=("random",), macs=(290e6, 300e6, 310e6, 320e6, 330e6, 340e6, 350e6, 360e6)
    ),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.Sgd(learning_rate=0.5, warmup=0.0, weight_decay=4e-5),
    train=sj.Train(
        steps=150_000, batch=1024, dtype="bfloat16", checkpoint_every=2500, log_every=100
    ),
    evaluation=sj.Evaluation(calibration_batches=200, batch=128, chunk=8),
)
