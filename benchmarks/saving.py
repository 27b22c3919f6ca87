"""How long training waits for its checkpoints, with parameters split over 8 devices.

    python benchmarks/saving.py --saves 5

Makes the first state of the whole AttentiveNAS space (parameters, momentum, average) on virtual
devices and saves it again and again, as the loop does: it waits while the arrays are copied to the
host, and goes on while they are written. It waits for longer only if the save before it is not done
yet, which is said as well. The share of a run is that wait over the time of the steps in between.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax

DEVICES = 8


def main() -> None:
    """Saves, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)

    import numpy as np

    import supernet_jax as sj
    from supernet_jax.experiment import train
    from supernet_jax.spaces import AttentiveNAS
    from supernet_jax.storage.checkpoint import Checkpoints
    from supernet_jax.training import loop

    with tempfile.TemporaryDirectory() as folder:
        images, labels = np.zeros((2000, 8, 8, 3), np.uint8), np.arange(2000) % 1000
        file = pathlib.Path(folder) / "images.npz"
        np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
        config = sj.Config(
            space=AttentiveNAS(),
            data=sj.Data(name=f"npz:{file}", held_out=0.5),
            train=sj.Train(batch=DEVICES, ema=0.9, model_devices=DEVICES),
            evaluation=sj.Evaluation(batch=DEVICES),
        )
        built = train.experiment(config)
        state = loop.creator(built.recipe, built.mesh, rules=built.rules)()
        jax.block_until_ready(state)
        waits, writes = [], []
        with Checkpoints(pathlib.Path(folder) / "checkpoints") as checkpoints:
            for step in range(1, arguments.saves + 1):
                begun = time.perf_counter()
                checkpoints.save(step, state, {})
                waits.append(time.perf_counter() - begun)
                checkpoints.wait()
                writes.append(time.perf_counter() - begun)
    wait, write = statistics.median(waits), statistics.median(writes)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(
        f"state of {size / 1e6:.0f} MB: {wait:.3f} s of waiting, {write:.2f} s until it is on disk"
    )
    for every, seconds in ((200, 0.1), (200, 0.5), (2500, 0.1), (2500, 0.5)):
        took = every * seconds
        late = max(0.0, write - took)
        share = (wait + late) / (took + wait + late)
        print(f"a save every {every} steps of {seconds} s: {share:.2%} of the time")


if __name__ == "__main__":
    main()
