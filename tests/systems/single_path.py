"""A tiny search by superkernels: three blocks of kernel 3 or 5, of which two may be skipped."""

import supernet_jax as sj

config = sj.Config(
    space=sj.spaces.SinglePathNAS(
        resolution=8,
        stem=4,
        stem_stride=1,
        first=4,
        widths=(8,),
        strides=(2,),
        blocks=3,
        expands=(2, 3),
        last=16,
        middle=16,
    ),
    data=sj.Data(name="digits", held_out=0.2),
    sampler=sj.samplers.SinglePath(),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    penalty=sj.penalties.SuperkernelCost(weight=0.1),
    train=sj.Train(steps=20, batch=32, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=32, chunk=4, limit=64),
)
