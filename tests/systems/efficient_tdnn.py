"""Speakers told apart by a tiny time-delay network: 128 archs, recordings made on the spot.

supernet train tests/systems/efficient_tdnn.py --out runs/tiny_speakers
"""

import pathlib
import sys
import tempfile

import supernet_jax as sj

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import voices

FOLDER = pathlib.Path(tempfile.gettempdir()) / "supernet_jax_voices_4_12"
if not FOLDER.exists():
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as place:
        voices.write(pathlib.Path(place) / "voices", speakers=4, utterances=12)
        (pathlib.Path(place) / "voices").rename(FOLDER)

config = sj.Config(
    space=sj.spaces.EfficientTdnn(
        frames=(24,),
        depths=(1, 2),
        widths=(8, 16),
        kernels=(1, 3),
        last_widths=(16,),
        groups=2,
        bottleneck=8,
        features=8,
    ),
    data=sj.Data(name=f"folder:{FOLDER}", held_out=0.3, length=30),
    sampler=sj.samplers.Uniform(n_random=1),
    loss=sj.losses.HardLabels(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=1e-2),
    train=sj.Train(steps=20, batch=16, checkpoint_every=10, log_every=10),
    evaluation=sj.Evaluation(calibration_batches=1, batch=16, chunk=4),
)
