"""AutoFormer-B on ImageNet (Chen et al. 2021, arXiv:2107.00651), the published recipe.

    supernet train configs/autoformer_b.py --out runs/autoformer_b

`--data.data-dir DIR` names the folder of ImageNet as TFDS prepares it (docs/data.md), and
`--dry-run` tells beforehand what training takes. The space is that of the published training; the
published subnet also has blocks of 8 heads, which `--space.num-heads 8 9 10` adds.
Hardware: published with 8 GPUs of 128 images each. Not run here.

Expected: as published, on the 50,000 validation images, the subnet found under 54 M parameters:

    parameters   top-1   top-5
    53.7 M       82.4    95.7

Differs from the publication: the cosine of the learning rate ends at 0 and warms up from a
thousandth, there it ends at 1e-5 and warms up from 1e-6. RandAugment applies each of its two
operations always, there with probability 1/2, of a list that also inverts; posterizing keeps at
least 4 bits, there fewer. Mixup and CutMix are drawn for each image, there for each batch. Erased
parts are random pixels before normalisation, there after it. Images are resized bilinearly, there
bicubically. 10,000 training images are held out for search.
"""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.AutoFormerB(num_heads=(9, 10)),
    data=sj.Data(
        name="tfds:imagenet2012",
        held_out=10_000,
        size=224,
        crop="random",
        flip=True,
        policy="randaugment",  # rand-m9-mstd0.5-inc1
        layers=2,
        magnitude=9.0,
        deviation=0.5,
        increasing=True,
        erase=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
    sampler=sj.samplers.Uniform(n_random=1, regularised=("random",)),
    loss=sj.losses.HardLabels(smoothing=0.1),
    optimizer=sj.optimizers.AdamW(  # 5e-4 for each 512 images; gradients are not clipped
        learning_rate=1e-3, warmup=20 / 500, weight_decay=0.05, clip_norm=1e6
    ),
    train=sj.Train(  # 500 epochs
        steps=620_500, batch=1024, dtype="bfloat16", checkpoint_every=2500, log_every=100
    ),
    evaluation=sj.Evaluation(batch=256, chunk=8),
)
